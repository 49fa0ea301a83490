"""Deep generative models as probabilistic programs, on Pyro."""

from pyro_dgm import data, diagnostics, distributions, evaluation, models, nets, objectives, training
from pyro_dgm.experiment import load
from pyro_dgm.objectives import log_weights
from pyro_dgm.program import Pair, Program
from pyro_dgm.training import fit

__version__ = "0.1.0"
__all__ = [
    "Pair",
    "Program",
    "data",
    "diagnostics",
    "distributions",
    "evaluation",
    "fit",
    "load",
    "log_weights",
    "models",
    "nets",
    "objectives",
    "training",
]
