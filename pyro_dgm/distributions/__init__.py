"""What torch and Pyro lack: distributions, and the pieces (modules whose call returns a distribution)."""

from pyro_dgm.distributions.beta_binomial import GridBetaBinomial
from pyro_dgm.distributions.discretized_logistic import DiscretizedLogistic
from pyro_dgm.distributions.energy import Energy, Unnormalized
from pyro_dgm.distributions.grid import GridDistribution, UnitGrid
from pyro_dgm.distributions.latents import DiagonalNormal, StandardNormal
from pyro_dgm.distributions.observations import (
    BernoulliObservation,
    BetaBinomialObservation,
    DiscretizedLogisticObservation,
    NormalObservation,
    Observation,
)

__all__ = [
    "BernoulliObservation",
    "BetaBinomialObservation",
    "DiagonalNormal",
    "DiscretizedLogistic",
    "DiscretizedLogisticObservation",
    "Energy",
    "GridBetaBinomial",
    "GridDistribution",
    "NormalObservation",
    "Observation",
    "StandardNormal",
    "UnitGrid",
    "Unnormalized",
]
