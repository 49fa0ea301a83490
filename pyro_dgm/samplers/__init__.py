"""Samplers: Markov chains and annealing on densities given as functions, without models or guides."""

from pyro_dgm.samplers.ais import AnnealedSamples, annealed_importance_sampling, temperatures
from pyro_dgm.samplers.hamiltonian import hmc

__all__ = ["AnnealedSamples", "annealed_importance_sampling", "hmc", "temperatures"]
