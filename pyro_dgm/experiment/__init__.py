"""Experiments: a config made into objects and trained into a run directory, and the run read back."""

from pyro_dgm.experiment.commands import diagnose, evaluate, load, sample
from pyro_dgm.experiment.comparison import compare
from pyro_dgm.experiment.estimate import FUNCTIONS, estimate
from pyro_dgm.experiment.repetition import repeat
from pyro_dgm.experiment.run import Run, load_run
from pyro_dgm.experiment.training import train

__all__ = [
    "FUNCTIONS",
    "Run",
    "compare",
    "diagnose",
    "estimate",
    "evaluate",
    "load",
    "load_run",
    "repeat",
    "sample",
    "train",
]
