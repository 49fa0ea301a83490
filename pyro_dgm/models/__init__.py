"""Models: one file per paper."""

from pyro_dgm.models.ppca import PPCA
from pyro_dgm.models.vae import VAE

__all__ = ["PPCA", "VAE"]
