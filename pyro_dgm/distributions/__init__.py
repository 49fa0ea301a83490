"""What torch and Pyro lack: distributions, and the pieces (modules whose call returns a distribution)."""

from pyro_dgm.distributions.amortized import Amortized
from pyro_dgm.distributions.beta_binomial import GridBetaBinomial
from pyro_dgm.distributions.discretized_logistic import DiscretizedLogistic
from pyro_dgm.distributions.energy import Energy, Unnormalized
from pyro_dgm.distributions.flat import Flat
from pyro_dgm.distributions.grid import GridDistribution, UnitGrid
from pyro_dgm.distributions.inverse_cdf import Gompertz, Rayleigh, Reciprocal
from pyro_dgm.distributions.latents import DiagonalNormal, StandardNormal
from pyro_dgm.distributions.location_scale import Triangular, UniformInterval
from pyro_dgm.distributions.mixtures import DiagonalNormalMixture
from pyro_dgm.distributions.observations import (
    BernoulliObservation,
    BetaBinomialObservation,
    DiscretizedLogisticObservation,
    NormalObservation,
    Observation,
)
from pyro_dgm.distributions.priors import MixturePrior, VampPrior
from pyro_dgm.distributions.products import MergedNormal, merged_normal

__all__ = [
    "Amortized",
    "BernoulliObservation",
    "BetaBinomialObservation",
    "DiagonalNormal",
    "DiagonalNormalMixture",
    "DiscretizedLogistic",
    "DiscretizedLogisticObservation",
    "Energy",
    "Flat",
    "Gompertz",
    "GridBetaBinomial",
    "GridDistribution",
    "MergedNormal",
    "MixturePrior",
    "NormalObservation",
    "Observation",
    "Rayleigh",
    "Reciprocal",
    "StandardNormal",
    "Triangular",
    "UniformInterval",
    "UnitGrid",
    "Unnormalized",
    "VampPrior",
    "merged_normal",
]
