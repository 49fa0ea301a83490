"""Active units: how many latent dimensions say anything about the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.sites import latent_sites

ACTIVE_UNIT = 0.01  # smallest variance, in squared units of z
_DRAWS = 10  # of the latents that other latents depend on


def active_units(
    guide: Callable[..., Any], *batch: Tensor, threshold: float = ACTIVE_UNIT, rows: int = 1000
) -> dict[str, int]:
    r"""Number of units u of each latent site with :math:`\mathrm{Var}_x(\mathbb{E}_{q(z \mid x)}[z_u]) >` threshold.

    See :func:`unit_activity`.

    Args:
        guide: Pyro guide, called with a piece of the batch.
        batch: tensors whose first dimension is the datum (at least two data).
        threshold: smallest variance of an active unit.
        rows: data per pass.

    Returns:
        Count by site name; sites outside the batch or without a mean are left out.

    Raises:
        InvalidInput: fewer than two data.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> active_units(ppca.guide, 10 * torch.randn(100, 4))
        {'z': 2}

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """
    activity = unit_activity(guide, *batch, rows=rows)
    return {name: int((variance > threshold).sum()) for name, variance in activity.items()}


@torch.no_grad()
def unit_activity(guide: Callable[..., Any], *batch: Tensor, rows: int = 1000) -> dict[str, Tensor]:
    r"""Activity :math:`\mathrm{Var}_x(\mathbb{E}_{q(z \mid x)}[z_u])` of each unit u of each latent site.

    The mean of a site that depends on other latents is taken over draws of them, and the variance that their noise
    leaves in it is taken off.

    Args:
        guide: Pyro guide, called with a piece of the batch.
        batch: tensors whose first dimension is the datum (at least two data).
        rows: data per pass.

    Returns:
        Variance (units,) by site name, in squared units of z; sites outside the batch or without a mean are left out.

    Raises:
        InvalidInput: fewer than two data.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> unit_activity(ppca.guide, 10 * torch.randn(100, 4))["z"].shape
        torch.Size([2])

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """
    if not batch or len(batch[0]) < 2:
        raise InvalidInput("too few data for a variance", where="batch", expected="at least 2 data")
    num_data = len(batch[0])
    if any(len(field) != num_data for field in batch) or rows < 1:
        raise InvalidInput(
            "fields that cannot be cut into pieces",
            where=f"batch, rows={rows}",
            value=", ".join(str(tuple(field.shape)) for field in batch),
            expected="tensors of one length, and rows >= 1",
        )
    means: dict[str, list[Tensor]] = {}
    noise: dict[str, list[Tensor]] = {}
    for start in range(0, num_data, rows):
        piece = tuple(t[start : start + rows] for t in batch)
        draws = [_means(guide, piece), _means(guide, piece)]
        if any(not torch.equal(mean, draws[1][name]) for name, mean in draws[0].items()):
            draws += [_means(guide, piece) for _ in range(_DRAWS - 2)]
        for name in draws[0]:
            stacked = torch.stack([draw[name] for draw in draws])  # (draws, rows, units)
            means.setdefault(name, []).append(stacked.mean(0))
            noise.setdefault(name, []).append(stacked.var(0) / len(draws))
    found = {}
    for name, parts in means.items():
        mean = torch.cat(parts)
        if len(mean) == num_data:  # else a plate that was once, by chance, as long as a piece
            found[name] = mean.var(0) - torch.cat(noise[name]).mean(0)
    return found


def _means(guide: Callable[..., Any], piece: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Mean of each latent site in the batch, (rows, units), given a draw of those before it."""
    found = {}
    for name, site in latent_sites(poutine.trace(guide).get_trace(*piece)).items():
        frames = [f for f in site["cond_indep_stack"] if f.vectorized and f.size == len(piece[0])]
        try:
            mean = site["fn"].mean
        except NotImplementedError:  # a flow, for example
            continue
        if frames and not mean.isnan().all():  # NaN: torch's mean of a category
            rows_first = mean.movedim(frames[0].dim - site["fn"].event_dim, 0)
            found[name] = rows_first.reshape(len(piece[0]), -1)
    return found
