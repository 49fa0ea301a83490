"""Evaluation: numbers about the model."""

from pyro_dgm.evaluation.activity import active_units, unit_activity
from pyro_dgm.evaluation.likelihood import LogLikelihood, log_likelihood

__all__ = ["LogLikelihood", "active_units", "log_likelihood", "unit_activity"]
