"""Diagnostics: InferenceData for arviz, whether it can be trusted, and pictures of a run."""

from pyro_dgm.diagnostics.inference_data import to_inferencedata
from pyro_dgm.diagnostics.netcdf import write_inferencedata
from pyro_dgm.diagnostics.pictures import image_grid, reconstruction_grid, scatter, training_curve
from pyro_dgm.diagnostics.verdict import Reliability, reliability

__all__ = [
    "Reliability",
    "image_grid",
    "reconstruction_grid",
    "reliability",
    "scatter",
    "to_inferencedata",
    "training_curve",
    "write_inferencedata",
]
