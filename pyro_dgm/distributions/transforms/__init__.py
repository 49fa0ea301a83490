"""Invertible maps with their log-determinants, one a file: modules, with an inverse and, where it helps, a context."""

from pyro_dgm.distributions.transforms.actnorm import ActNorm
from pyro_dgm.distributions.transforms.autoregressive import MaskedAutoregressive
from pyro_dgm.distributions.transforms.bijection import Bijection, BoundTransform
from pyro_dgm.distributions.transforms.composition import Chain, Inverse
from pyro_dgm.distributions.transforms.coupling import Coupling
from pyro_dgm.distributions.transforms.emerging import AutoregressiveConv, emerging_conv
from pyro_dgm.distributions.transforms.foreign import TorchTransform
from pyro_dgm.distributions.transforms.linear import LULinear, QRLinear
from pyro_dgm.distributions.transforms.logit import Sigmoid
from pyro_dgm.distributions.transforms.masked_coupling import MaskedCoupling
from pyro_dgm.distributions.transforms.masks import alternating, checkerboard, halves
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
    "AutoregressiveConv",
    "Bijection",
    "BoundTransform",
    "Chain",
    "Coupling",
    "Inverse",
    "LULinear",
    "MaskedAutoregressive",
    "MaskedCoupling",
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
    "TorchTransform",
    "Univariate",
    "alternating",
    "checkerboard",
    "emerging_conv",
    "halves",
]
