"""Normalisation of channels, started at the statistics of data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32
from pyro_dgm.distributions.transforms.bijection import Bijection


class ActNorm(Bijection):
    r"""The map :math:`y = e^{s} x + b` with a parameter s and b for each element of the first dimension.

    :meth:`start` sets them so that the x of the data it is given have mean 0 and deviation 1. With a context, what is
    linear in it is added to both; its weights start at zero.

    Args:
        event_shape: shape of one datum: (features,), or (channels, height, width).
        context_features: size of a context; 0 for none.

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

    def __init__(self, event_shape: Sequence[int], *, context_features: int = 0) -> None:
        super().__init__(event_shape, context_shape=(context_features,) if context_features else ())
        shape = (self.event_shape[0], *(1,) * (len(self.event_shape) - 1))
        self.s, self.b = nn.Parameter(torch.zeros(shape)), nn.Parameter(torch.zeros(shape))
        self.of_context = None
        if context_features:
            self.of_context = nn.Linear(context_features, 2 * self.event_shape[0], bias=False)
            nn.init.zeros_(self.of_context.weight)
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

    def _parts(self, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """s and b, of the event's dimensions, or (..., those) for contexts (..., context_features)."""
        if self.of_context is None or context is None:
            return self.s, self.b
        added = at_least_float32(self.of_context(context))
        s, b = added.reshape((*context.shape[:-1], 2, *self.s.shape)).unbind(-self.s.dim() - 1)
        return self.s + s, self.b + b

    def _log_det(self, s: Tensor, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - len(self.event_shape)]
        log_det = self.places * s.flatten(-len(self.event_shape)).sum(-1)
        return log_det.expand(torch.broadcast_shapes(log_det.shape, leading))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, b = self._parts(context)
        return x * s.exp() + b, self._log_det(s, x)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        s, b = self._parts(context)
        return (y - b) * (-s).exp(), -self._log_det(s, y)
