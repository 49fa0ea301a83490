"""Estimates of log p(x), of a guide's bound and of the best bound of its family, for data that are taken together."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pyro_dgm.diagnostics.local_guide import LocalGuide, fit_local_guide
from pyro_dgm.diagnostics.psis import effective_sample_size, k_hat_threshold, pareto_k
from pyro_dgm.diagnostics.rows import take_rows
from pyro_dgm.diagnostics.unconstrained import UnconstrainedModel
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.inspection import as_found, new_seed
from pyro_dgm.objectives.sites import sample_sites
from pyro_dgm.objectives.traces import Layout, run_pair
from pyro_dgm.objectives.weights import batch_plate, log_weights
from pyro_dgm.samplers.ais import AnnealedSamples

# Numbers at the sites of one pass; what the networks hold between them is a small multiple of it.
_ELEMENTS_PER_PASS = 2**20
_CHAINS = 16  # for which the data of an annealing are counted out
_SELECTION = 500  # draws that choose between the guide and its local optimum
_WATCHED = 32  # draws of the bound that the optimisation is watched by
_EXACT = 1e-6  # variance of log weights in nats^2, twice the divergence from the posterior
_FEW = 100  # effective draws, where k-hat could not be estimated


class Piece:
    """A batch of a pair, and what can be estimated of each datum.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        layout: of the pair.
        joint: whether the whole data set counts as one datum.
        is_cuttable: whether the batch may be taken apart.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        batch: tuple[Any, ...],
        layout: Layout,
        *,
        joint: bool,
        is_cuttable: bool,
    ) -> None:
        self.model, self.guide, self.batch, self.layout, self.joint = model, guide, batch, layout, joint
        self.is_cuttable = is_cuttable
        with as_found():
            ((model_trace, guide_trace),) = run_pair(model, guide, batch, 1, layout)
        self.plate = None if joint else batch_plate(model_trace)
        sites = [*sample_sites(model_trace).values(), *sample_sites(guide_trace).values()]
        self.size_of_a_draw = sum(site["value"].numel() for site in sites)
        self.num_data = 1 if self.plate is None else int(self.plate.size)

    def log_weights(self, num: int, seed: int, local: LocalGuide | None = None) -> np.ndarray:
        """Log weights (num, data) in nats, in passes; the same noise for the same seed, with offsets or without."""
        found, per_pass = [], max(1, _ELEMENTS_PER_PASS // self.size_of_a_draw)
        with as_found(), torch.no_grad(), local or contextlib.nullcontext():
            torch.manual_seed(seed)
            for done in range(0, num, per_pass):
                log_w = log_weights(
                    self.model,
                    self.guide,
                    *self.batch,
                    num_particles=min(per_pass, num - done),
                    joint=self.joint,
                    layout=self.layout,
                )
                found.append(log_w.reshape(len(log_w), -1).double().cpu().numpy())
        return np.concatenate(found)

    def best_member(self, steps: int) -> LocalGuide:
        """Offsets of the guide that are the best for each datum."""
        local = LocalGuide(self.guide, self.batch, plate=None if self.plate is None else self.plate.name)
        seed = new_seed()
        if local.offsets:  # else every latent has its exact conditional
            fit_local_guide(
                local,
                self.model,
                self.guide,
                self.batch,
                steps=steps,
                bound=lambda: self.log_weights(_WATCHED, seed, local).mean(axis=0),
            )
        return local

    def annealed(self, start: str) -> UnconstrainedModel:
        """Densities to anneal between, from the prior or the guide."""
        guide = self.guide if start == "guide" else None
        return UnconstrainedModel(self.model, self.batch, self.layout, joint=self.joint, start=guide)

    def part(self, rows: np.ndarray) -> Piece:
        """The piece of some data alone, where the batch can be cut."""
        chosen = take_rows(self.batch, torch.from_numpy(rows))
        return Piece(self.model, self.guide, chosen, self.layout, joint=False, is_cuttable=True)


def bounds(piece: Piece, *, num_particles: int, steps: int) -> dict[str, np.ndarray]:
    """Bounds of the guide and of the best member, and log p(x) by importance weights; by the names of the result."""
    local = piece.best_member(steps)
    seed = new_seed()
    ours, theirs = (piece.log_weights(_SELECTION, seed, by) for by in (None, local))
    with np.errstate(invalid="ignore"):
        # Weights that do not vary are those of the exact posterior, and the search has only gone astray from it.
        varies = ours.var(axis=0) > _EXACT
        is_better = varies & (theirs.mean(axis=0) > ours.mean(axis=0))
        proposes = varies & (effective_sample_size(theirs) > effective_sample_size(ours))
        # Many effective draws and a heavy tail: the local optimum has left out a mode that the guide covers.
        fails, loses = (pareto_k(weights) > k_hat_threshold(_SELECTION) for weights in (ours, theirs))
        proposes &= fails | ~loses
    seed = new_seed()
    ours, theirs = (piece.log_weights(num_particles, seed, by) for by in (None, local))
    if not np.isfinite(ours).all():
        raise InvalidInput(
            "a log-weight that is not finite",
            where="log p(x, z) - log q(z | x)",
            value=f"{(~np.isfinite(ours)).any(axis=0).sum()} of {ours.shape[1]} data",
            expected="finite densities wherever the guide draws",
        )
    best = np.where(is_better, theirs, ours)
    weights = np.where(proposes, theirs, ours)
    log_p, error = log_mean(weights)
    return {
        "log_p": log_p,
        "log_p_standard_error": error,
        "elbo": ours.mean(axis=0),
        "elbo_standard_error": _error(ours),
        "best_elbo": best.mean(axis=0),
        "best_elbo_standard_error": _error(best),
        "amortisation_standard_error": _error(best - ours),
        "k_hat": pareto_k(weights),
        "estimator": np.full(len(log_p), "iwae", dtype="<U5"),
    }


def failed(log_p_standard_error: np.ndarray, k_hat: np.ndarray, num_particles: int) -> np.ndarray:
    """Whether importance weights are not to be trusted, per datum: by k-hat, or by the effective draws without it."""
    # The inverse of log_mean: its relative variance is 1 / ESS - 1 / K.
    ess = 1 / (log_p_standard_error**2 + 1 / num_particles)
    few = ess < min(_FEW, num_particles / 2)
    return np.where(np.isnan(k_hat), few, k_hat > k_hat_threshold(num_particles))


def error_by_tail(log_p_standard_error: np.ndarray, k_hat: np.ndarray, num_particles: int) -> np.ndarray:
    """Order of the error of a mean of weights whose tail has the shape k, infinite where k is not known.

    S^(k - 1/2) times the standard error that the draws themselves show, as they would of a light tail.
    """
    with np.errstate(over="ignore"):
        enlarged = log_p_standard_error * float(num_particles) ** np.maximum(k_hat - 0.5, 0)
    return np.where(np.isnan(k_hat), math.inf, enlarged)


def annealed_log_p(
    piece: Piece, chosen: np.ndarray, *, start: str, ais: Callable[..., AnnealedSamples]
) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) of the chosen data and its standard error, by annealed importance sampling."""
    if not piece.is_cuttable:
        return tuple(array[chosen] for array in _anneal(piece, start, ais))
    rows = np.flatnonzero(chosen)
    per_run = max(1, _ELEMENTS_PER_PASS * piece.num_data // (_CHAINS * piece.size_of_a_draw))
    runs = [
        _anneal(piece.part(rows[first : first + per_run]), start, ais)
        for first in range(0, len(rows), per_run)
    ]
    log_p, error = (np.concatenate(arrays) for arrays in zip(*runs, strict=True))
    return log_p, error


def _anneal(piece: Piece, start: str, ais: Callable[..., AnnealedSamples]) -> tuple[np.ndarray, np.ndarray]:
    """log p(x) and its standard error; NaN where a weight is not a number."""
    try:
        unconstrained = piece.annealed(start)
        log_w = ais(unconstrained.densities, unconstrained.sample).log_weight.double().cpu().numpy()
    except (
        NotImplementedError,
        KeyError,
        RuntimeError,
    ) as error:  # a prior or a flow that has no sampler or density
        raise InvalidInput(
            "a model or guide that cannot be annealed",
            where=f"start={start!r}",
            value=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            expected="a start that can be sampled and has a density everywhere",
            cure="estimator='iwae'",
        ) from error
    return log_mean(log_w)


def log_mean(log_w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the mean weight, and its standard error to first order, over the first dimension."""
    largest = log_w.max(axis=0)
    with np.errstate(invalid="ignore"):
        value = largest + np.log(np.exp(log_w - largest).mean(axis=0))
        error = np.sqrt(np.maximum(1 / effective_sample_size(log_w) - 1 / len(log_w), 0))
    return value, error


def _error(values: np.ndarray) -> np.ndarray:
    """Standard error of the mean over draws; of a single one it is not known."""
    if len(values) < 2:
        return np.full(values.shape[1:], math.nan)
    return np.asarray(values.std(axis=0, ddof=1) / math.sqrt(len(values)))
