"""Draws from a guide with all that belongs to them: weights, likelihoods and predictions of the same draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
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
from pyro_dgm.diagnostics.simulation import Anew
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.divergence_terms import divergence_terms
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.sites import Site, latent_sites, observed_sites, sample_sites
from pyro_dgm.objectives.traces import PARTICLES, Given, Layout, run_pair
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
        divergences: KL(q(z | x) || p(z)) in nats of each latent site, averaged over the draws, per datum or of the
            whole data set; none for latents that were given, or where weights alone were asked for.
        without_predictions: why there are none, where the model cannot be sampled.
    """

    groups: Mapping[str, Mapping[str, Variable]]
    log_weight: Variable
    divergences: Mapping[str, Variable]
    without_predictions: str = ""

    def repeated(self, times: int) -> Draws:
        """The same with each draw as many times as asked."""
        groups = {
            group: variables
            if group == OBSERVED
            else {name: _repeated(one, times) for name, one in variables.items()}
            for group, variables in self.groups.items()
        }
        return replace(self, groups=groups, log_weight=_repeated(self.log_weight, times))

    @property
    def num_samples(self) -> int:
        """Number of draws."""
        return len(self.log_weight.values)

    @property
    def data_dims(self) -> tuple[str, ...]:
        """Name of the dimension of the data, if each datum has a weight."""
        return self.log_weight.dims

    @property
    def is_local(self) -> bool:
        """Whether there are latents, and each belongs to one datum."""
        latents = self.groups.get("posterior", {})
        return bool(latents) and all(
            bool(self.data_dims) and self.data_dims[0] in variable.dims for variable in latents.values()
        )


@torch.no_grad()
def take_draws(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    num_samples: int,
    *,
    predicts: bool = True,
    given: Mapping[str, Tensor] | None = None,
) -> Draws:
    """Draws from the guide, each with its weight, likelihood and prediction, in passes of bounded memory.

    Without latents all draws have the same weight and likelihood: unless there are predictions to draw, the pair runs
    once.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_samples: number of draws, at least 1.
        predicts: whether to draw predictions and to compute divergences, which weights alone do not need.
        given: values (draws, ...) of latent sites in place of the guide's.

    Raises:
        InvalidInput: sites or observed values that change from draw to draw, or a pair without weights.
        IncompatibleModel: the model is implicit or unnormalised.
    """
    given = given or {}
    with Given({name: values[0] for name, values in given.items()}):
        layout = inspect_pair(model, guide, batch, num_samples)
    is_exact = not (layout.has_latents or given or predicts)
    rows, weights, divergences = (
        _Rows(model, batch, 1 if is_exact else num_samples, predicts=predicts),
        _Weights(),
        _Divergences(),
    )
    while rows.left:
        count = min(rows.per_pass, rows.left)
        if given and not layout.vectorized:
            count = 1
        with Given(rows.next_of(given, count, layout)):
            runs = run_pair(model, guide, batch, count, layout)
        weights.add(runs, layout, count)
        for model_trace, guide_trace in runs:
            if predicts and not given:
                divergences.add(model_trace, guide_trace)
            rows.add(model_trace)
    model_trace = runs[0][0]
    draws = Draws(
        rows.table.groups,
        weights.variable(model_trace),
        divergences.variables(model_trace, num_samples),
        rows.without_predictions,
    )
    return draws.repeated(num_samples) if is_exact else draws


class _Rows:
    """Draws as rows of a table, filled a pass at a time; a pass is as large as memory should be."""

    def __init__(
        self, model: Callable[..., Any], batch: tuple[Any, ...], num_samples: int, *, predicts: bool
    ) -> None:
        self.model, self.batch, self.predicts = model, batch, predicts
        self.table = DrawTable(num_samples)
        self.left = num_samples
        self.per_pass = 1  # the first draw shows how much a draw takes
        self.event_dims: dict[str, int] = {}
        self.without_predictions = ""

    def next_of(self, given: Mapping[str, Tensor], count: int, layout: Layout) -> dict[str, Tensor]:
        """The next draws of given latents, as a single run or a plate of particles has them."""
        start = self.table.num_samples - self.left
        if count == 1:
            return {name: values[start] for name, values in given.items()}
        pieces = {}
        for name, values in given.items():
            gap = int(layout.max_plate_nesting) + self.event_dims[name] - (values.dim() - 1)
            pieces[name] = values[start : start + count].reshape(count, *(1,) * gap, *values.shape[1:])
        return pieces

    def add(self, model_trace: Trace) -> None:
        found = _found(model_trace)
        self.event_dims = {name: site["fn"].event_dim for name, site in latent_sites(model_trace).items()}
        if self.predicts:
            try:
                found |= _predicted(self.model, self.batch, model_trace)
            except NotImplementedError as error:
                self.predicts, self.without_predictions = False, repr(error)
        self.left -= self.table.add(found, self.table.num_samples - self.left)
        self.per_pass = max(1, _ELEMENTS_PER_PASS // self.table.size_of_a_draw())


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


class _Divergences:
    """Sums over draws of the divergence of each site from its prior."""

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}

    def add(self, model_trace: Trace, guide_trace: Trace) -> None:
        particles = _particles(guide_trace)
        count = 1 if particles is None else particles.size
        for name, terms in divergence_terms(model_trace, guide_trace).items():
            total = as_numpy(terms.per_datum.double().mean(0)) * count
            self.sums[name] = self.sums.get(name, 0.0) + total

    def variables(self, model_trace: Trace, num_samples: int) -> dict[str, Variable]:
        return {
            name: Variable(total / num_samples, (plate_dim(batch_plate(model_trace)),) if total.ndim else ())
            for name, total in self.sums.items()
        }


def _found(model_trace: Trace) -> dict[tuple[str, str], Found]:
    found = {}
    for name, site in latent_sites(model_trace).items():
        found["posterior", name] = Found(site["value"], site, site["fn"].event_dim)
    for name, site in observed_sites(model_trace).items():
        log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
        if bool(log_prob.isnan().any()) and bool(torch.as_tensor(site["value"]).isnan().any()):
            raise InvalidInput(
                "NaN in the data",
                where=f"site {name!r}",
                expected="numbers, or a mask (poutine.mask) where there are none",
            )
        found["log_likelihood", name] = Found(log_prob, site, 0)
        if not _is_factor(site):
            found[OBSERVED, name] = Found(site["value"], site, site["fn"].event_dim)
    return found


def _repeated(variable: Variable, times: int) -> Variable:
    return Variable(np.repeat(variable.values, times, axis=0), variable.dims)


def _predicted(
    model: Callable[..., Any], batch: tuple[Any, ...], model_trace: Trace
) -> dict[tuple[str, str], Found]:
    """Observed sites drawn anew from a model that has the latents of a trace."""
    particles = _particles(model_trace)
    if particles is not None:
        model = pyro.plate(PARTICLES, particles.size, dim=particles.dim)(model)
    latents = {name: site["value"] for name, site in latent_sites(model_trace).items()}
    with Anew(latents) as anew:  # outside the plate, which leaves a given site alone
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


def _particles(trace: Trace) -> Any | None:
    """Frame of the plate of particles, if there is one."""
    frames = (frame for site in sample_sites(trace).values() for frame in site["cond_indep_stack"])
    return next((frame for frame in frames if frame.name == PARTICLES), None)


def _is_factor(site: Site) -> bool:
    """Whether a site is ``pyro.factor``: a term of log p without a value."""
    return site["value"].numel() == 0
