"""What torch and Pyro lack: distributions, and the pieces (modules whose call returns a distribution)."""

from pyro_dgm.distributions.amortized import Amortized
from pyro_dgm.distributions.autoregressive import Autoregressive
from pyro_dgm.distributions.beta_binomial import GridBetaBinomial
from pyro_dgm.distributions.directed_tables import DirectedTables
from pyro_dgm.distributions.discretized_logistic import DiscretizedLogistic
from pyro_dgm.distributions.energy import Energy, Unnormalized
from pyro_dgm.distributions.ensemble import Ensemble
from pyro_dgm.distributions.flat import Flat
from pyro_dgm.distributions.flow import FlowDistribution
from pyro_dgm.distributions.flow_posterior import (
    FlowPosterior,
    iaf_posterior,
    planar_posterior,
    sylvester_posterior,
)
from pyro_dgm.distributions.grid import GridDistribution, UnitGrid
from pyro_dgm.distributions.grid_categorical import GridCategorical
from pyro_dgm.distributions.inverse_cdf import Gompertz, Rayleigh, Reciprocal
from pyro_dgm.distributions.latents import DiagonalNormal, StandardLogistic, StandardNormal
from pyro_dgm.distributions.location_scale import Triangular, UniformInterval
from pyro_dgm.distributions.mixtures import DiagonalNormalMixture
from pyro_dgm.distributions.multimodal_observations import (
    CategoricalObservation,
    DiscretizedLogisticMixtureObservation,
    NormalMixtureObservation,
)
from pyro_dgm.distributions.normal_maps import NormalMaps
from pyro_dgm.distributions.observations import (
    BernoulliObservation,
    BetaBinomialObservation,
    DiscretizedLogisticObservation,
    NormalObservation,
    Observation,
)
from pyro_dgm.distributions.priors import MixturePrior, VampPrior
from pyro_dgm.distributions.products import MergedNormal, merged_normal
from pyro_dgm.distributions.quantized import Dequantization, Quantized

__all__ = [
    "Amortized",
    "Autoregressive",
    "BernoulliObservation",
    "BetaBinomialObservation",
    "CategoricalObservation",
    "Dequantization",
    "DiagonalNormal",
    "DiagonalNormalMixture",
    "DirectedTables",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixtureObservation",
    "DiscretizedLogisticObservation",
    "Energy",
    "Ensemble",
    "Flat",
    "FlowDistribution",
    "FlowPosterior",
    "Gompertz",
    "GridBetaBinomial",
    "GridCategorical",
    "GridDistribution",
    "MergedNormal",
    "MixturePrior",
    "NormalMaps",
    "NormalMixtureObservation",
    "NormalObservation",
    "Observation",
    "Quantized",
    "Rayleigh",
    "Reciprocal",
    "StandardLogistic",
    "StandardNormal",
    "Triangular",
    "UniformInterval",
    "UnitGrid",
    "Unnormalized",
    "VampPrior",
    "iaf_posterior",
    "merged_normal",
    "planar_posterior",
    "sylvester_posterior",
]
