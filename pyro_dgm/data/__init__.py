"""Data sets held in memory, with fixed splits and stated preprocessing, and checks of a user's own data."""

from pyro_dgm.data.arrays import Arrays
from pyro_dgm.data.audio import AudioDataset, WaveFormat
from pyro_dgm.data.checks import require_finite
from pyro_dgm.data.debd import DEBD
from pyro_dgm.data.image_folder import ImageFolder
from pyro_dgm.data.images import MNIST, BinarizedMNIST, Digits, FashionMNIST
from pyro_dgm.data.mixtures import GaussianGrid, GaussianRing
from pyro_dgm.data.mu_law import mu_law_decode, mu_law_encode
from pyro_dgm.data.natural_patches import BSDS300
from pyro_dgm.data.particle_physics import MiniBooNE
from pyro_dgm.data.splits import Dataset, Split
from pyro_dgm.data.spoken_digits import SpokenDigits
from pyro_dgm.data.tones import Tones
from pyro_dgm.data.toys import Checkerboard, Moons, Pinwheel, Rings

__all__ = [
    "BSDS300",
    "DEBD",
    "MNIST",
    "Arrays",
    "AudioDataset",
    "BinarizedMNIST",
    "Checkerboard",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "GaussianGrid",
    "GaussianRing",
    "ImageFolder",
    "MiniBooNE",
    "Moons",
    "Pinwheel",
    "Rings",
    "Split",
    "SpokenDigits",
    "Tones",
    "WaveFormat",
    "mu_law_decode",
    "mu_law_encode",
    "require_finite",
]
