"""Draws from a guide with all that belongs to them: weights, likelihoods and predictions of the same draws."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dgm.diagnostics.draw_table import (
    OBSERVED,
    DrawTable,
    Found,
    Variable,
    as_numpy,
    changing,
    plate_dim,
)
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.traces import (
    PARTICLES,
    Layout,
    Site,
    latent_sites,
    observed_sites,
    run_pair,
    sample_sites,
)
from pyro_dgm.objectives.weights import batch_plate, weigh

# Numbers at the sites of one pass; what the networks hold between them is a small multiple of it.
_ELEMENTS_PER_PASS = 2**21


@dataclass(frozen=True)
class Draws:
    """What :func:`take_draws` returns.

    Args:
        groups: variables by site, by group: ``posterior`` (latent sites, without auxiliary ones),
            ``posterior_predictive``, ``log_likelihood`` (log p(x | z) in nats; masks count, scales do not) and
            ``observed_data``.
        log_weight: log p(x, z) - log q(z | x) of these draws, per datum or of the whole data set.
    """

    groups: Mapping[str, Mapping[str, Variable]]
    log_weight: Variable


@torch.no_grad()
def take_draws(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_samples: int
) -> Draws:
    """Draws from the guide, each with its weight, likelihood and prediction, in passes of bounded memory.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_samples: number of draws, at least 1.

    Raises:
        InvalidInput: sites or observed values that change from draw to draw, or a pair without weights.
        IncompatibleModel: the model is implicit or unnormalised.
    """
    layout = inspect_pair(model, guide, batch, num_samples)
    table, weights = DrawTable(num_samples), _Weights()
    done, per_pass, predict = 0, 1, True  # the first draw shows how much a draw takes
    while done < num_samples:
        count = min(per_pass, num_samples - done)
        runs = run_pair(model, guide, batch, count, layout)
        weights.add(runs, layout, count)
        for model_trace, _ in runs:
            found = _found(model_trace)
            if predict:
                try:
                    found |= _predicted(model, batch, model_trace)
                except NotImplementedError as error:
                    predict = False
                    warnings.warn(
                        f"no posterior_predictive, since the model cannot be sampled: {error!r}", stacklevel=4
                    )
            done += table.add(found, done)
        per_pass = max(1, _ELEMENTS_PER_PASS // table.size_of_a_draw())
    return Draws(table.groups, weights.variable(runs[0][0]))


class _Weights:
    """Weights per datum if the pair has any in every draw, else weights of the whole data set."""

    def __init__(self) -> None:
        self.pieces: dict[bool, list[np.ndarray]] = {False: [], True: []}  # by whether they are joint
        self.refused: dict[bool, InvalidInput] = {}

    def add(self, runs: list[tuple[Trace, Trace]], layout: Layout, count: int) -> None:
        for joint, pieces in self.pieces.items():
            try:
                pieces.append(as_numpy(weigh(runs, layout, num_particles=count, joint=joint).double()))
            except InvalidInput as error:
                self.refused[joint] = error

    def variable(self, model_trace: Trace) -> Variable:
        joint = False in self.refused
        if joint and True in self.refused:
            raise self.refused[True]
        dims = () if joint else (plate_dim(batch_plate(model_trace)),)
        return Variable(np.concatenate(self.pieces[joint]), dims)


def _found(model_trace: Trace) -> dict[tuple[str, str], Found]:
    found = {}
    for name, site in latent_sites(model_trace).items():
        found["posterior", name] = Found(site["value"], site, site["fn"].event_dim)
    for name, site in observed_sites(model_trace).items():
        log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
        found["log_likelihood", name] = Found(log_prob, site, 0)
        if not _is_factor(site):
            found[OBSERVED, name] = Found(site["value"], site, site["fn"].event_dim)
    return found


def _predicted(
    model: Callable[..., Any], batch: tuple[Any, ...], model_trace: Trace
) -> dict[tuple[str, str], Found]:
    """Observed sites drawn anew from a model that has the latents of a trace."""
    frames = (frame for site in sample_sites(model_trace).values() for frame in site["cond_indep_stack"])
    particles = next((frame for frame in frames if frame.name == PARTICLES), None)
    if particles is not None:
        model = pyro.plate(PARTICLES, particles.size, dim=particles.dim)(model)
    latents = {name: site["value"] for name, site in latent_sites(model_trace).items()}
    with _Anew(latents) as anew:  # outside the plate, which leaves a given site alone
        model(*batch)
    for name, site in observed_sites(model_trace).items():
        again = anew.observed.get(name)
        if again is None or not np.array_equal(as_numpy(again), as_numpy(site["value"]), equal_nan=True):
            raise changing("an observed value that changes from run to run", name)
    return {
        ("posterior_predictive", name): Found(site["value"], site, site["fn"].event_dim)
        for name, site in anew.sites.items()
        if not _is_factor(site)
    }


class _Anew(Messenger):
    """Gives latent sites the values they had, and draws observed ones.

    ``poutine.uncondition`` would draw ``pyro.deterministic`` sites too, and with a wrong shape.
    """

    def __init__(self, latents: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.latents = latents
        self.observed: dict[str, Tensor] = {}
        self.sites: dict[str, Site] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.latents:
            msg["value"], msg["done"] = self.latents[msg["name"]], True
        elif msg["is_observed"] and not msg["infer"].get("_deterministic", False):
            self.observed[msg["name"]] = msg["value"]
            msg["value"], msg["is_observed"] = None, False

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.observed:
            self.sites[msg["name"]] = msg.copy()


def _is_factor(site: Site) -> bool:
    """Whether a site is ``pyro.factor``: a term of log p without a value."""
    return site["value"].numel() == 0
