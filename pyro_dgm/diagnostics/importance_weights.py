"""Importance weights of a guide's draws: how well they can be averaged, per datum, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from pyro_dgm.diagnostics.draw_table import Variable
from pyro_dgm.diagnostics.draws import take_draws
from pyro_dgm.diagnostics.psis import effective_sample_size, k_hat_threshold, smooth
from pyro_dgm.diagnostics.rows import can_cut, num_rows, require_data, take_rows
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import inspect_pair

_LARGEST_SHIFT = 0.2  # in standard deviations of the guide
_LARGEST_STRETCH = 1.25


@dataclass(frozen=True)
class Importance:
    r"""What the weights :math:`w_s = p(x, z_s) / q(z_s \mid x)` of S draws say, per datum or of the whole data set.

    Args:
        k_hat: shape of the weights' tail, (N,), or () where a latent lies outside the plate of the data.
        ess: Kish's effective sample size of the raw weights.
        log_p: log of the mean smoothed weight in nats, an estimate of log p(x).
        log_p_standard_error: its Monte Carlo standard error, to first order.
        elbo: mean log-weight in nats, an unbiased estimate of the ELBO.
        shift: the largest distance, over the latents, of the reweighted mean from the guide's own, in standard
            deviations of the guide.
        stretch: the largest ratio, over the latents, of the reweighted to the guide's own standard deviation, or the
            other way round.
        num_samples: number S of draws.
    """

    k_hat: np.ndarray
    ess: np.ndarray
    log_p: np.ndarray
    log_p_standard_error: np.ndarray
    elbo: np.ndarray
    shift: np.ndarray
    stretch: np.ndarray
    num_samples: int

    @property
    def reweighted_reliable(self) -> np.ndarray:
        r"""Whether averages with the weights can be trusted: k-hat at most :math:`\min(1 - 1/\log_{10} S, 0.7)`.

        A mode that no draw visited has no weight: it cannot be seen.
        """
        return np.asarray(self.k_hat <= k_hat_threshold(self.num_samples))

    @property
    def usable_as_is(self) -> np.ndarray:
        """Whether the guide's draws do without weights: reliable, and weights change no latent by much.

        No mean moves by more than 0.2 standard deviations, and no standard deviation by more than a factor of 1.25.
        """
        unchanged = (self.shift <= _LARGEST_SHIFT) & (self.stretch <= _LARGEST_STRETCH)
        return np.asarray(self.reweighted_reliable & unchanged)


def importance(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_samples: int = 1000,
    rows: int = 100,
) -> Importance:
    r"""k-hat, effective sample size, log p(x) and the shift of the means, all of one set of draws from the guide.

    Data are taken ``rows`` at a time, so that memory does not grow with their number, where they may be taken apart
    (:func:`~pyro_dgm.diagnostics.rows.can_cut`). Where a latent lies outside their plate, all of them together have
    one weight.

    Args:
        model: Pyro model, called with a piece of the batch.
        guide: Pyro guide, called with a piece of the batch.
        batch: positional arguments of both; tensors whose first dimension is the datum are cut into pieces.
        num_samples: number S of draws; k-hat needs more than 20.
        rows: data per piece.

    Raises:
        InvalidInput: no data, no draws, or a pair without weights, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=5).detach()
        >>> found = importance(ppca.model, ppca.guide, x)
        >>> bool(abs(found.log_p - ppca.log_prob(x).detach().numpy()).max() < 1e-4), found.usable_as_is.all()
        (True, np.True_)

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024.
        Yao, Vehtari, Simpson and Gelman, "Yes, but did it work?: Evaluating variational inference", 2018.
    """
    for name, value in (("num_samples", num_samples), ("rows", rows)):
        if value < 1:
            raise InvalidInput("too few", where=name, value=value, expected="an integer >= 1")
    require_data(batch)
    guide = complete_guide(model, guide, batch)
    pieces = [batch]
    size = num_rows(batch) or 0
    if size > rows and can_cut(model, guide, batch, inspect_pair(model, guide, batch)):
        pieces = [take_rows(batch, slice(start, start + rows)) for start in range(0, size, rows)]
    found = []
    for piece in pieces:
        draws = take_draws(model, guide, piece, num_samples, predicts=False)
        found.append(of_draws(draws.log_weight, draws.groups.get("posterior", {})))
    if len(found) == 1:
        return found[0]
    names = [field.name for field in fields(Importance) if field.name != "num_samples"]
    joined = {name: np.concatenate([getattr(one, name) for one in found]) for name in names}
    return Importance(**joined, num_samples=num_samples)


def of_draws(log_weight: Variable, latents: Mapping[str, Variable]) -> Importance:
    """Importance of draws that were taken.

    Args:
        log_weight: (draws, data), or (draws,) for the whole data set.
        latents: variables of the same draws.
    """
    values = log_weight.values
    smoothed = smooth(values)
    weights = np.exp(smoothed.log_weights)
    shift, stretch = np.zeros(values.shape[1:]), np.ones(values.shape[1:])
    for variable in latents.values():
        draws = variable.values
        if log_weight.dims:
            if log_weight.dims[0] not in variable.dims:
                continue  # outside the plate of the data, with log p - log q identically zero
            draws = np.moveaxis(draws, variable.dims.index(log_weight.dims[0]) + 1, 1)
        draws = draws.reshape(*values.shape, -1)
        if draws.shape[-1]:
            moved, stretched = _changes(draws.astype(np.float64), weights)
            shift, stretch = np.maximum(shift, moved), np.maximum(stretch, stretched)
    return Importance(
        k_hat=smoothed.k_hat,
        ess=effective_sample_size(values),
        log_p=smoothed.log_mean,
        log_p_standard_error=smoothed.log_mean_standard_error,
        elbo=values.mean(axis=0),
        shift=shift,
        stretch=stretch,
        num_samples=len(values),
    )


def _changes(draws: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest shift and stretch over the units of draws (draws, data, units), each (data,)."""
    center, deviation = draws.mean(axis=0), draws.std(axis=0)
    moved = ((draws - center) * weights[..., None]).sum(axis=0)
    spread = np.sqrt((((draws - center - moved) ** 2) * weights[..., None]).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        # A latent that does not vary (a discrete one that is certain) cannot be elsewhere.
        shift = np.where(deviation > 0, np.abs(moved) / deviation, 0.0)
        stretch = np.where(deviation > 0, np.maximum(spread / deviation, deviation / spread), 1.0)
    return shift.max(axis=-1), stretch.max(axis=-1)
