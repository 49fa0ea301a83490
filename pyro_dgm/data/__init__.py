"""Data sets held in memory, with fixed splits and stated preprocessing, and checks of a user's own data."""

from pyro_dgm.data.arrays import Arrays
from pyro_dgm.data.checks import require_binary, require_finite
from pyro_dgm.data.debd import DEBD
from pyro_dgm.data.images import MNIST, BinarizedMNIST, Digits, FashionMNIST
from pyro_dgm.data.mixtures import GaussianGrid, GaussianRing
from pyro_dgm.data.splits import Dataset, Split
from pyro_dgm.data.toys import Checkerboard, Moons, Pinwheel, Rings

__all__ = [
    "DEBD",
    "MNIST",
    "Arrays",
    "BinarizedMNIST",
    "Checkerboard",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "GaussianGrid",
    "GaussianRing",
    "Moons",
    "Pinwheel",
    "Rings",
    "Split",
    "require_binary",
    "require_finite",
]
