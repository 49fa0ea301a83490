"""Normalisation of channels, started at the statistics of data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.transforms.bijection import Bijection


class ActNorm(Bijection):
    r"""The map :math:`y = e^{s} x + b` with a parameter s and b for each element of the first dimension.

    :meth:`start` sets them so that the x of the data it is given have mean 0 and deviation 1.

    Args:
        event_shape: shape of one datum: (features,), or (channels, height, width).

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> norm = ActNorm((3,))
        >>> x = norm.start(5 + 2 * torch.randn(1000, 3))
        >>> bool(x.mean().abs() < 1e-4), bool((x.std(correction=0) - 1).abs() < 1e-4)
        (True, True)

    Reference: Glow: generative flow with invertible 1x1 convolutions (Kingma, Dhariwal, 2018), section 3.1.
    """

    started: Tensor

    def __init__(self, event_shape: Sequence[int]) -> None:
        super().__init__(event_shape)
        shape = (self.event_shape[0], *(1,) * (len(self.event_shape) - 1))
        self.s, self.b = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.places = math.prod(self.event_shape[1:])
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def start(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the parameters, if nothing has yet, and maps the data back."""
        if not self.started:
            columns = y.movedim(-len(self.event_shape), 0).flatten(1)
            self.b.copy_(columns.mean(1).reshape(self.b.shape))
            self.s.copy_(columns.std(1, correction=0).clamp(min=1e-6).log().reshape(self.s.shape))
            self.started.fill_(True)
        return super().start(y, context)

    def _log_det(self, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - len(self.event_shape)]
        return (self.places * self.s.sum()).expand(leading)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return x * self.s.exp() + self.b, self._log_det(x)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return (y - self.b) * (-self.s).exp(), -self._log_det(y)
