"""Convolutions with an inverse."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection, exactly
from pyro_dgm.distributions.transforms.composition import Chain
from pyro_dgm.distributions.transforms.parameters import Parameters
from pyro_dgm.errors import InvalidInput


class AutoregressiveConv(Bijection):
    r"""A convolution that sees pixels before its own in raster order, and of its own the channels up to each.

    .. math:: y_{ij} = T x_{ij} + \sum_{(k, l) < (i, j)} W_{i - k, j - l} \, x_{kl} + b, \quad
              \log |\det| = H W \sum_c \log |T_{cc}|

    with a triangular T of positive diagonal. The inverse goes pixel by pixel.

    Args:
        event_shape: (channels, height, width).
        kernel_size: odd side of the kernel, of which the half before the centre is used.
        flipped: whether the order is turned round, of pixels and of channels.
        context_features: size of a context, of which W, T and b are then linear functions; 0 for none.

    Raises:
        InvalidInput: no image, or an even kernel.

    Example:
        >>> conv = AutoregressiveConv((2, 4, 4))
        >>> x = torch.randn(10, 2, 4, 4)
        >>> y, log_det = conv.forward_and_log_det(x)
        >>> torch.allclose(conv.inverse_and_log_det(y)[0], x, atol=1e-5)
        True

    Reference: Emerging convolutions for generative normalizing flows (Hoogeboom, van den Berg, Welling, 2019).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        kernel_size: int = 3,
        *,
        flipped: bool = False,
        context_features: int = 0,
    ) -> None:
        if len(event_shape) != 3 or kernel_size % 2 != 1:
            raise InvalidInput(
                "no convolution",
                where="event_shape, kernel_size",
                value=f"{tuple(event_shape)}, {kernel_size}",
                expected="(channels, height, width) and an odd number",
            )
        super().__init__(event_shape, context_shape=(context_features,) if context_features else ())
        reach = kernel_size // 2
        around = [(di, dj) for di in range(-reach, 1) for dj in range(-reach, reach + 1)]
        self.before = [place for place in around if place < (0, 0)]
        self.reach, self.flipped = reach, flipped
        c = self.event_shape[0]
        shapes = {"earlier": (c, len(self.before) * c), "own": (c, c), "log_diagonal": (c,), "b": (c,)}
        zeros = {name: torch.zeros(shapes[name]) for name in ("log_diagonal", "b")}
        self.parameters_of = Parameters(shapes, context_features, scale=0.01, start=zeros)

    def _given(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W (..., C, before * C), T (..., C, C), b (..., C) and the log-determinant (...)."""
        given = self.parameters_of(context)
        own = given["own"].tril(-1) + torch.diag_embed(given["log_diagonal"].exp())
        _, h, w = self.event_shape
        return given["earlier"], own, given["b"], h * w * given["log_diagonal"].sum(-1)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        with exactly(x):
            return self._mapped(x, context)

    def _mapped(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        earlier, own, b, log_det = self._given(context)
        x = self._turned(x)
        _, h, w = self.event_shape
        r = self.reach
        padded = torch.nn.functional.pad(x, (r, r, r, 0))
        shifted = [padded[..., r + i : r + i + h, r + j : r + j + w] for i, j in self.before]
        y = own @ x.flatten(-2) + b.unsqueeze(-1)
        if shifted:
            y = y + earlier @ torch.cat(shifted, -3).flatten(-2)
        return self._turned(y.unflatten(-1, (h, w))), log_det.expand(y.shape[:-2])

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        with exactly(y):
            return self._solved(y, context)

    def _solved(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        earlier, own, b, log_det = self._given(context)
        y = self._turned(y)
        c, h, w = self.event_shape
        of_place = earlier.unflatten(-1, (len(self.before), c)).unbind(-2)
        found: dict[tuple[int, int], Tensor] = {}
        for i in range(h):
            for j in range(w):
                rest = (y[..., i, j] - b).unsqueeze(-1)
                for (di, dj), weight in zip(self.before, of_place, strict=True):
                    if (i + di, j + dj) in found:
                        rest = rest - weight @ found[i + di, j + dj]
                found[i, j] = torch.linalg.solve_triangular(own, rest, upper=False)
        x = torch.cat(list(found.values()), -1).unflatten(-1, (h, w))
        return self._turned(x), -log_det.expand(x.shape[:-3])

    def _turned(self, x: Tensor) -> Tensor:
        return x.flip((-3, -2, -1)) if self.flipped else x


def emerging_conv(event_shape: Sequence[int], kernel_size: int = 3, *, context_features: int = 0) -> Chain:
    """The emerging convolution: two autoregressive ones, one from each end, which together see all pixels around.

    Args:
        event_shape: (channels, height, width).
        kernel_size: odd side of the kernel of each.
        context_features: size of a context; 0 for none.

    Raises:
        InvalidInput: no image, or an even kernel.

    Example:
        >>> conv = emerging_conv((2, 4, 4))
        >>> conv.forward_and_log_det(torch.randn(10, 2, 4, 4))[0].shape
        torch.Size([10, 2, 4, 4])

    Reference: Emerging convolutions for generative normalizing flows (Hoogeboom, van den Berg, Welling, 2019).
    """
    return Chain(
        [
            AutoregressiveConv(event_shape, kernel_size, flipped=flipped, context_features=context_features)
            for flipped in (False, True)
        ]
    )
