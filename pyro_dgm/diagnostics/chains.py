"""Draws of Pyro's Markov chains, with the likelihoods and predictions that belong to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pyro import poutine
from pyro.infer.mcmc.api import AbstractMCMC
from torch import Tensor

from pyro_dgm.diagnostics.draw_table import Variable
from pyro_dgm.diagnostics.draws import Draws, take_draws
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import is_finite, latent_sites
from pyro_dgm.objectives.traces import prior_of


def take_chains(model: Callable[..., Any], mcmc: AbstractMCMC, batch: tuple[Any, ...]) -> tuple[Draws, int]:
    """All draws, chain after chain, and the number of chains.

    Args:
        model: the model that the chains are of, called with the batch.
        mcmc: a finished run.
        batch: positional arguments of the model.

    Raises:
        InvalidInput: a run that has not been made, keeps no draws, or has other latents than the model.
    """
    try:
        samples = mcmc.get_samples(group_by_chain=True)
    except (AttributeError, NotImplementedError) as error:
        raise _no_draws(type(mcmc).__name__) from error
    if not samples:
        raise _no_draws(type(mcmc).__name__)
    missing = _missing(model, samples, batch)
    drawn = poutine.block(prior_of(model), hide=missing)
    guide = complete_guide(model, drawn, batch, all_finite=True) if missing else drawn
    num_chains = len(next(iter(samples.values())))
    flat: dict[str, Tensor] = {name: values.flatten(0, 1) for name, values in samples.items()}
    num_samples = len(next(iter(flat.values())))
    return take_draws(model, guide, batch, num_samples, given=flat), num_chains


def _missing(model: Callable[..., Any], samples: dict[str, Tensor], batch: tuple[Any, ...]) -> list[str]:
    """Discrete latents that the chains have summed out; all others they must have, and no more."""
    with as_found():
        sites = latent_sites(poutine.trace(model).get_trace(*batch))
    missing = [name for name in sites if name not in samples]
    for name in missing:
        if not is_finite(sites[name]):
            raise InvalidInput(
                "a latent that the chains do not have",
                where=f"site {name!r}",
                value=type(sites[name]["fn"]).__name__,
                expected="draws of every latent but those of finitely many values, which NUTS sums out",
                cure="the model that the chains ran on",
            )
    for name, values in samples.items():
        if name in sites and values.shape[2:] != sites[name]["value"].shape:
            raise InvalidInput(
                "draws of another shape than the latent",
                where=f"site {name!r}",
                value=tuple(values.shape[2:]),
                expected=f"{tuple(sites[name]['value'].shape)}; Pyro's NUTS starts a latent that depends on a discrete "
                "one with a copy for each of its values",
                cure="nuts_reference, or an init_strategy of the right shape",
            )
    for name in samples:
        if name not in sites:
            raise InvalidInput(
                "draws of a site that the model lacks",
                where=f"site {name!r}",
                expected=", ".join(sites),
                cure="the model that the chains ran on",
            )
    return missing


def divergences(mcmc: AbstractMCMC, num_chains: int, num_draws: int) -> Variable:
    """Whether each transition diverged, chain after chain.

    Args:
        mcmc: a finished run.
        num_chains: number of its chains.
        num_draws: draws of each.
    """
    diverging = np.zeros((num_chains, num_draws), dtype=bool)
    for chain, places in enumerate(mcmc.diagnostics().get("divergences", {}).values()):
        diverging[chain, list(places)] = True
    return Variable(diverging.reshape(-1), ())


def _no_draws(kind: str) -> InvalidInput:
    return InvalidInput(
        "no draws of chains",
        where=kind,
        expected="a finished run of pyro.infer.MCMC",
        cure="mcmc.run(*batch) first",
    )
