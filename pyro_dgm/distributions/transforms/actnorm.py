"""Normalisation of channels, started at the statistics of data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection
from pyro_dgm.distributions.transforms.parameters import Parameters


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
        self.parameters_of = Parameters({"s": shape, "b": shape}, context_features, scale=0.0)
        self.places = math.prod(self.event_shape[1:])
        self.register_buffer("started", torch.tensor(False))

    @torch.no_grad()
    def start(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Sets the parameters, if nothing has yet, and maps the data back."""
        if not self.started:
            columns = y.movedim(-len(self.event_shape), 0).flatten(1)
            s, b = columns.std(1, correction=0).clamp(min=1e-6).log(), columns.mean(1)
            self.parameters_of.bias.copy_(torch.cat([s, b]))
            self.started.fill_(True)
        return super().start(y, context)

    def _log_det(self, s: Tensor, x: Tensor) -> Tensor:
        leading = x.shape[: x.dim() - len(self.event_shape)]
        log_det = self.places * s.flatten(-len(self.event_shape)).sum(-1)
        return log_det.expand(torch.broadcast_shapes(log_det.shape, leading))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given = self.parameters_of(context)
        return x * given["s"].exp() + given["b"], self._log_det(given["s"], x)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given = self.parameters_of(context)
        return (y - given["b"]) * (-given["s"]).exp(), -self._log_det(given["s"], y)
