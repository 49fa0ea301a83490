"""A grid of Gaussian filters that is placed on an image, to read a glimpse of it or to write one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import check_event, positive_sizes

# Beyond e^8 = 2981 image widths or pixels there is nothing to see; the bound keeps exp and its gradient finite.
_LARGEST = 8.0


class Filters(NamedTuple):
    """An N x N grid of Gaussian filters on images of height H and width W.

    Args:
        y: weights (..., N, H); each row sums to one over the height.
        x: weights (..., N, W); each row sums to one over the width.
        intensity: (...), the number gamma by which a glimpse is multiplied.
    """

    y: Tensor
    x: Tensor
    intensity: Tensor

    def read(self, image: Tensor) -> Tensor:
        """Glimpse gamma F_Y x F_X', (..., C, N, N), of an ``image`` (..., C, H, W)."""
        seen = self.y.unsqueeze(-3) @ image @ self.x.unsqueeze(-3).mT
        return self.intensity[..., None, None, None] * seen

    def write(self, patch: Tensor) -> Tensor:
        """Image F_Y' w F_X / gamma, (..., C, H, W), of a ``patch`` w (..., C, N, N)."""
        drawn = self.y.unsqueeze(-3).mT @ patch @ self.x.unsqueeze(-3)
        return drawn / self.intensity[..., None, None, None]


class GaussianFilterbank(nn.Module):
    r"""The grid of N x N Gaussian filters that five real numbers place on an image.

    From :math:`(\tilde g_X, \tilde g_Y, \log \sigma^2, \log \tilde\delta, \log \gamma)`, for pixels numbered from 1:

    .. math:: g_X = \tfrac{W + 1}{2} (\tilde g_X + 1), \quad g_Y = \tfrac{H + 1}{2} (\tilde g_Y + 1), \quad
              \delta = \tfrac{\max(H, W) - 1}{N - 1} \tilde\delta, \quad
              \mu^i = g + (i - \tfrac{N + 1}{2})\, \delta, \quad
              F[i, a] \propto \exp\Bigl(-\tfrac{(a - \mu^i)^2}{2 \sigma^2}\Bigr)

    Each row is divided by its sum over the pixels in log-space, so that a filter far outside the image gives its
    nearest pixel and not 0/0. The five numbers are cut to [-8, 8]. A grid of one filter has no stride.

    Args:
        image_size: (H, W), in pixels.
        size: N, at most the longer side of the image.

    Shape:
        input (..., 5), output :class:`Filters` of leading dimensions (...).

    Raises:
        InvalidInput: a size below one, a grid with more filters than pixels, or an input of another last dimension.

    Example:
        >>> filters = GaussianFilterbank((28, 28), 5)(torch.zeros(50, 20, 5))  # (particles, batch, 5)
        >>> filters.read(torch.rand(20, 1, 28, 28)).shape
        torch.Size([50, 20, 1, 5, 5])

    Reference: DRAW: a recurrent neural network for image generation (Gregor, Danihelka, Graves, Rezende, Wierstra,
    2015), section 3.2.
    """

    rows: Tensor
    columns: Tensor
    grid: Tensor

    def __init__(self, image_size: Sequence[int], size: int) -> None:
        super().__init__()
        height, width = positive_sizes(image_size, "image_size")
        require_fit(size, height, width, "GaussianFilterbank", "a smaller one")
        self.register_buffer("rows", torch.arange(1.0, height + 1), persistent=False)
        self.register_buffer("columns", torch.arange(1.0, width + 1), persistent=False)
        self.register_buffer("grid", torch.arange(size) - (size - 1) / 2, persistent=False)
        self.unit_stride = (max(height, width) - 1) / max(size - 1, 1)

    def forward(self, numbers: Tensor) -> Filters:
        """The filters that ``numbers``, (..., 5), stand for."""
        check_event(numbers, (5,), "GaussianFilterbank input")
        # A half-precision layer may aim, but its filters would miss by whole pixels if computed like it.
        numbers = numbers.to(torch.promote_types(numbers.dtype, self.grid.dtype))
        g_x, g_y, *logs = numbers.clamp(-_LARGEST, _LARGEST).unbind(-1)
        variance, stride, intensity = (log.exp() for log in logs)
        offsets = self.grid * (self.unit_stride * stride).unsqueeze(-1)  # (..., N)
        return Filters(
            _filters(self.rows, g_y, offsets, variance),
            _filters(self.columns, g_x, offsets, variance),
            intensity,
        )


def _filters(pixels: Tensor, center: Tensor, offsets: Tensor, variance: Tensor) -> Tensor:
    """Rows of normalised Gaussian weights: (A,), (...), (..., N), (...) -> (..., N, A)."""
    means = (len(pixels) + 1) / 2 * (center.unsqueeze(-1) + 1) + offsets  # (..., N)
    distances = pixels - means.unsqueeze(-1)  # (..., N, A)
    return (-distances.square() / (2 * variance[..., None, None])).softmax(-1)


def require_fit(size: int, height: int, width: int, piece: str, cure: str) -> None:
    """Refuse a grid of no filters, or of more than the longer side has pixels."""
    if not 1 <= size <= max(height, width):
        raise InvalidInput(
            "a glimpse that does not fit the image",
            where=f"size of {piece}",
            value=size,
            expected=f"1 to {max(height, width)} filters a side for images of {height} x {width}",
            cure=cure,
        )
