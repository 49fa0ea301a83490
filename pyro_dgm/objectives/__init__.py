"""Objectives: ``loss(model, guide, *batch)`` gives a scalar tensor, the negative bound summed over the data."""

from pyro_dgm.objectives.elbo import ELBO
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.iwae import IWAE
from pyro_dgm.objectives.player import HasPlayers, Player
from pyro_dgm.objectives.pyro_elbo import PyroELBO
from pyro_dgm.objectives.weights import log_weights

__all__ = ["ELBO", "IWAE", "HasPlayers", "Player", "PyroELBO", "complete_guide", "log_weights"]
