"""Invertible maps with their log-determinants, one a file: modules, with an inverse and, where it helps, a context."""

from pyro_dgm.distributions.transforms.actnorm import ActNorm
from pyro_dgm.distributions.transforms.autoregressive import MaskedAutoregressive
from pyro_dgm.distributions.transforms.bijection import Bijection, BoundTransform
from pyro_dgm.distributions.transforms.composition import Chain, Inverse
from pyro_dgm.distributions.transforms.coupling import Coupling
from pyro_dgm.distributions.transforms.linear import LULinear, QRLinear
from pyro_dgm.distributions.transforms.logit import Sigmoid
from pyro_dgm.distributions.transforms.multiscale import MultiScale
from pyro_dgm.distributions.transforms.permutation import Permutation
from pyro_dgm.distributions.transforms.planar import Planar
from pyro_dgm.distributions.transforms.reshape import Reshape
from pyro_dgm.distributions.transforms.spline import RationalQuadratic
from pyro_dgm.distributions.transforms.squeeze import Squeeze
from pyro_dgm.distributions.transforms.sylvester import Sylvester
from pyro_dgm.distributions.transforms.univariate import Affine, Shift, Univariate

__all__ = [
    "ActNorm",
    "Affine",
    "Bijection",
    "BoundTransform",
    "Chain",
    "Coupling",
    "Inverse",
    "LULinear",
    "MaskedAutoregressive",
    "MultiScale",
    "Permutation",
    "Planar",
    "QRLinear",
    "RationalQuadratic",
    "Reshape",
    "Shift",
    "Sigmoid",
    "Squeeze",
    "Sylvester",
    "Univariate",
]
