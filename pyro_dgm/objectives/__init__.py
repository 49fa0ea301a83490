"""Objectives: ``loss(model, guide, *batch)`` gives a scalar tensor, the negative bound summed over the data."""

from pyro_dgm.objectives.elbo import ELBO
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.implicit_posterior import ImplicitPosterior
from pyro_dgm.objectives.iwae import IWAE
from pyro_dgm.objectives.player import HasPlayers, Player
from pyro_dgm.objectives.pyro_elbo import PyroELBO
from pyro_dgm.objectives.renyi import Renyi
from pyro_dgm.objectives.reporting import Reports
from pyro_dgm.objectives.reverse_kl import ReverseKL
from pyro_dgm.objectives.schedules import Cyclical, Linear, Schedule, Sigmoid, Weight
from pyro_dgm.objectives.weights import log_weights

__all__ = [
    "ELBO",
    "IWAE",
    "Cyclical",
    "HasPlayers",
    "ImplicitPosterior",
    "Linear",
    "Player",
    "PyroELBO",
    "Renyi",
    "Reports",
    "ReverseKL",
    "Schedule",
    "Sigmoid",
    "Weight",
    "complete_guide",
    "log_weights",
]
