"""Diagnostics: pictures of a run."""

from pyro_dgm.diagnostics.pictures import image_grid, reconstruction_grid, scatter, training_curve

__all__ = ["image_grid", "reconstruction_grid", "scatter", "training_curve"]
