"""Sliced Wasserstein distance between two sets of draws."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_DIRECTIONS = 100


def sliced_wasserstein(left: Tensor, right: Tensor) -> Tensor:
    r"""Sliced Wasserstein distance :math:`E_u\, W_1(u^\top a, u^\top b)` over random unit vectors u.

    In one dimension it is the Wasserstein distance itself. In D dimensions a shift by d is seen as about
    :math:`d \sqrt{2 / (\pi D)}`. Follows torch's random numbers.

    Args:
        left: draws a, (draws, batch, dimensions).
        right: as many draws b, of the same shape.

    Returns:
        Distances (batch,).

    Example:
        >>> a = torch.randn(1000, 1, 1)
        >>> round(sliced_wasserstein(a, a + 0.5).item(), 3)
        0.5

    Reference:
        Rabin, Peyré, Delon and Bernot, "Wasserstein barycenter and its application to texture mixing", 2011.
    """
    directions = torch.randn(left.shape[-1], _DIRECTIONS if left.shape[-1] > 1 else 1).to(left)
    directions = directions / directions.norm(dim=0)
    distances = []
    for a, b in zip(left.unbind(1), right.unbind(1), strict=True):  # datum by datum, for the sake of memory
        distances.append(np.abs(_ordered(a @ directions) - _ordered(b @ directions)).mean())
    return torch.tensor(np.array(distances)).to(left)


def _ordered(projections: Tensor) -> np.ndarray:
    """Each column in order, as a row; NumPy sorts in a tenth of torch's time."""
    return np.sort(projections.T.contiguous().cpu().numpy())
