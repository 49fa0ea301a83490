"""Experiments: a config made into objects and trained into a run directory, and the run read back."""

from pyro_dgm.experiment.commands import evaluate, load, sample, train
from pyro_dgm.experiment.estimate import FUNCTIONS, estimate
from pyro_dgm.experiment.run import Run, load_run

__all__ = ["FUNCTIONS", "Run", "estimate", "evaluate", "load", "load_run", "sample", "train"]
