"""Active units: how many latent dimensions say anything about the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.traces import latent_sites


@torch.no_grad()
def active_units(
    guide: Callable[..., Any], *batch: Tensor, threshold: float = 0.01, rows: int = 1000
) -> dict[str, int]:
    r"""Number of units u of each latent site with :math:`\mathrm{Var}_x(\mathbb{E}_{q(z \mid x)}[z_u]) >` threshold.

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
    if not batch or len(batch[0]) < 2:
        raise InvalidInput("too few data for a variance", where="batch", expected="at least 2 data")
    means: dict[str, list[Tensor]] = {}
    for start in range(0, len(batch[0]), rows):
        piece = tuple(t[start : start + rows] for t in batch)
        trace = poutine.trace(guide).get_trace(*piece)
        for name, site in latent_sites(trace).items():
            try:
                mean = site["fn"].mean
            except NotImplementedError:  # a flow, for example
                continue
            if mean.dim() and len(mean) == len(piece[0]):
                means.setdefault(name, []).append(mean.reshape(len(mean), -1))
    return {name: int((torch.cat(parts).var(0) > threshold).sum()) for name, parts in means.items()}
