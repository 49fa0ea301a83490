"""Chains of the No-U-Turn sampler on the latents of a trained model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_uniform
from torch import Tensor

from pyro_dgm.diagnostics.ranking import Units
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import refuse_subsample
from pyro_dgm.objectives.sites import Site
from pyro_dgm.objectives.traces import PARTICLES, Layout

_FEW_NUMBERS = 2**16


def is_sampled(name: str, site: Site) -> bool:
    """Whether NUTS samples a latent; a discrete one is summed out."""
    refuse_subsample(name, site)
    if site["fn"].has_enumerate_support:
        return False
    if site["fn"].support.is_discrete:
        raise InvalidInput(
            "a discrete latent variable that cannot be summed out",
            where=f"site {name!r}",
            value=type(site["fn"]).__name__,
            expected="continuous latents, or discrete ones of finitely many values",
            cure="Categorical over a range that is wide enough",
        )
    return True


@contextmanager
def frozen_parameters() -> Iterator[None]:
    """Block in which no parameter has a gradient: trajectories take two thirds of the time."""
    frozen = [value for _, value in pyro.get_param_store().named_parameters() if value.requires_grad]
    try:
        for value in frozen:
            value.requires_grad_(False)
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.filterwarnings("ignore", ".* was not registered in the param store", UserWarning)
            yield
    finally:
        for value in frozen:
            value.requires_grad_(True)


@contextmanager
def suitable_threads(size: int) -> Iterator[None]:
    """Block in which torch works with one thread if a draw has few numbers: to wake a second one takes longer.

    Args:
        size: numbers at the sites of one draw of all chains.
    """
    threads = torch.get_num_threads()
    try:
        if size < _FEW_NUMBERS:
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)


def _start_of(nesting: int) -> Callable[[Site], Tensor]:
    """Pyro's uniform start, of one value for all values of the discrete latents that are summed out.

    Pyro gives a latent that depends on such a one a copy for each of its values, and then samples another posterior.
    """

    def start(site: Site) -> Tensor:
        value = init_to_uniform(site)
        return value[(0,) * max(0, value.dim() - nesting - site["fn"].event_dim)]

    return start


def run_chains(
    model: Callable[..., Any],
    batch: tuple[Any, ...],
    units: Units,
    layout: Layout,
    num_samples: int,
    warmup: int,
    num_chains: int,
    progress: bool,
) -> tuple[dict[str, Tensor], np.ndarray]:
    """Draws (chains, draws, *shape) by site, and (chains, draws) whether they diverged."""
    nesting = int(layout.max_plate_nesting)
    together = layout.vectorized and units.plate_dim is not None
    if together:
        nesting += 1
        model = pyro.plate(PARTICLES, num_chains, dim=-nesting)(model)
    found: dict[str, list[Tensor]] = {name: [] for name in units.shapes}
    diverging = np.zeros((num_chains, num_samples), dtype=bool)
    for chain in range(1 if together else num_chains):
        kernel = NUTS(model, max_plate_nesting=nesting, init_strategy=_start_of(nesting))
        mcmc = MCMC(kernel, num_samples, warmup_steps=warmup, disable_progbar=not progress)
        try:
            mcmc.run(*batch)
        except ValueError as error:
            if "valid initial params" not in str(error):
                raise
            raise InvalidInput(
                "no point of finite density to start from",
                where="model",
                expected="a finite log-density near zero in unconstrained space",
                cure="a look at the data and parameters",
            ) from None
        for name, values in mcmc.get_samples().items():
            values = values.detach().cpu()
            shape = units.shapes[name]
            if together:
                found[name] += values.reshape(num_samples, num_chains, *shape).unbind(1)
            else:
                found[name].append(values.reshape(num_samples, *shape))
        diverging[slice(None) if together else chain, mcmc.diagnostics()["divergences"]["chain 0"]] = True
    return {name: torch.stack(values) for name, values in found.items()}, diverging
