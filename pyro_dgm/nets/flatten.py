"""One datum as a vector, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_dgm.shapes import check_event, positive_sizes


def flatten_event(x: Tensor, event_shape: Sequence[int]) -> Tensor:
    """One datum as a vector: (..., *event_shape) -> (..., prod(event_shape)).

    Args:
        x: data, (..., *event_shape), with any leading dimensions.
        event_shape: the shape of one datum.

    Raises:
        InvalidInput: the last dimensions of ``x`` are not ``event_shape``.

    Example:
        >>> import torch
        >>> flatten_event(torch.zeros(5, 3, 1, 8, 8), (1, 8, 8)).shape
        torch.Size([5, 3, 64])
    """
    check_event(x, tuple(event_shape), "flatten_event")
    return x.reshape((*x.shape[: x.dim() - len(event_shape)], math.prod(event_shape)))


class FlattenEvent(nn.Module):
    """The layer that puts images before an MLP: (..., *event_shape) -> (..., prod(event_shape)).

    Unlike ``torch.nn.Flatten`` it keeps every leading dimension, so that particles stay apart.

    Args:
        event_shape: the shape of one datum.

    Example:
        >>> import torch
        >>> encoder = nn.Sequential(FlattenEvent((1, 8, 8)), nn.Linear(64, 10))
        >>> encoder(torch.zeros(5, 3, 1, 8, 8)).shape
        torch.Size([5, 3, 10])
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__()
        self.event_shape = positive_sizes(event_shape, "event_shape")

    def forward(self, x: Tensor) -> Tensor:
        """Flatten ``x``, (..., *event_shape), to (..., prod(event_shape))."""
        return flatten_event(x, self.event_shape)
