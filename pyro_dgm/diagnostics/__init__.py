"""Diagnostics: whether an inference can be trusted, as numbers, pictures, words and arviz's InferenceData."""

from pyro_dgm.diagnostics.advice import Advice, advise
from pyro_dgm.diagnostics.examination import Examination, examine
from pyro_dgm.diagnostics.examination_report import report_examination
from pyro_dgm.diagnostics.gap_parts import InferenceGap, gap_difference
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.diagnostics.gradient_noise import GradientQuality, gradient_quality
from pyro_dgm.diagnostics.importance_weights import Importance, importance
from pyro_dgm.diagnostics.inference_data import to_inferencedata
from pyro_dgm.diagnostics.latent_pictures import traversal_grid
from pyro_dgm.diagnostics.model_comparison import compare_log_p, loo
from pyro_dgm.diagnostics.netcdf import write_inferencedata
from pyro_dgm.diagnostics.nonfinite import NonFiniteExplanation, explain_nonfinite
from pyro_dgm.diagnostics.nuts import NutsReference, nuts_reference
from pyro_dgm.diagnostics.pictures import (
    image_grid,
    reconstruction_grid,
    scatter,
    training_curve,
    worst_explained,
)
from pyro_dgm.diagnostics.posterior_collapse import Collapse, SiteCollapse, collapse
from pyro_dgm.diagnostics.simulated_calibration import Calibration, calibration
from pyro_dgm.diagnostics.simulation import Simulation, simulate
from pyro_dgm.diagnostics.traversals import Traversals, latent_traversals
from pyro_dgm.diagnostics.verdict import Reliability, reliability

__all__ = [
    "Advice",
    "Calibration",
    "Collapse",
    "Examination",
    "GradientQuality",
    "Importance",
    "InferenceGap",
    "NonFiniteExplanation",
    "NutsReference",
    "Reliability",
    "Simulation",
    "SiteCollapse",
    "Traversals",
    "advise",
    "calibration",
    "collapse",
    "compare_log_p",
    "examine",
    "explain_nonfinite",
    "gap_difference",
    "gradient_quality",
    "image_grid",
    "importance",
    "inference_gap",
    "latent_traversals",
    "loo",
    "nuts_reference",
    "reconstruction_grid",
    "reliability",
    "report_examination",
    "scatter",
    "simulate",
    "to_inferencedata",
    "training_curve",
    "traversal_grid",
    "worst_explained",
    "write_inferencedata",
]
