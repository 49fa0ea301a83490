"""Evaluation: numbers about the model."""

from pyro_dgm.evaluation.activity import active_units
from pyro_dgm.evaluation.likelihood import LogLikelihood, log_likelihood

__all__ = ["LogLikelihood", "active_units", "log_likelihood"]
