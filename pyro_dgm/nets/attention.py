"""Reading from an image and writing to one: through grids of Gaussian filters (selective attention), or all of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.filterbank import GaussianFilterbank, require_fit
from pyro_dgm.nets.flatten import flatten_event
from pyro_dgm.nets.recurrent import join
from pyro_dgm.shapes import check_event, positive_sizes


class AttentiveRead(nn.Module):
    r"""Glimpses of an image and of the error image, aimed by a state h: gamma [F_Y x F_X', F_Y e F_X'].

    Args:
        data_shape: shape of one image, (..., H, W); what stands before the height counts as channels.
        state_features: size of h.
        size: N; a glimpse is an N x N patch.

    Shape:
        input (..., *data_shape) twice and (..., state_features), output (..., out_features).

    Raises:
        InvalidInput: no height and width, a size below one, or a glimpse larger than the image.

    Example:
        >>> read = AttentiveRead((1, 28, 28), 256, 2)
        >>> x, error, h = torch.rand(20, 1, 28, 28), torch.rand(50, 20, 1, 28, 28), torch.zeros(50, 20, 256)
        >>> read(x, error, h).shape, read.out_features
        (torch.Size([50, 20, 8]), 8)

    Reference: DRAW: a recurrent neural network for image generation (Gregor, Danihelka, Graves, Rezende, Wierstra,
    2015), section 3.3.
    """

    def __init__(self, data_shape: Sequence[int], state_features: int, size: int) -> None:
        super().__init__()
        self.data_shape = _image_shape(data_shape, size, "AttentiveRead", "FullRead")
        self.filterbank = GaussianFilterbank(self.data_shape[-2:], size)
        self.aim = nn.Linear(state_features, 5)
        self.out_features = 2 * math.prod(self.data_shape[:-2]) * size**2

    def forward(self, x: Tensor, error: Tensor, h: Tensor) -> Tensor:
        """Both glimpses as one vector, (..., out_features)."""
        filters = self.filterbank(self.aim(h))
        glimpses = [filters.read(_as_channels(image, self.data_shape)).flatten(-3) for image in (x, error)]
        return torch.cat(glimpses, -1)


class AttentiveWrite(nn.Module):
    """A patch drawn into an image at a place aimed by a state h: F_Y' w F_X / gamma, where w = W h + b.

    Args:
        out_shape: shape of what is written, (..., H, W); what stands before the height counts as channels.
        state_features: size of h.
        size: N; a patch is N x N.

    Shape:
        input (..., state_features), output (..., *out_shape).

    Raises:
        InvalidInput: no height and width, a size below one, or a patch larger than the image.

    Example:
        >>> AttentiveWrite((1, 1, 28, 28), 256, 5)(torch.zeros(50, 20, 256)).shape
        torch.Size([50, 20, 1, 1, 28, 28])

    Reference: DRAW: a recurrent neural network for image generation (Gregor, Danihelka, Graves, Rezende, Wierstra,
    2015), section 3.3.
    """

    def __init__(self, out_shape: Sequence[int], state_features: int, size: int) -> None:
        super().__init__()
        self.out_shape = _image_shape(out_shape, size, "AttentiveWrite", "FullWrite")
        self.filterbank = GaussianFilterbank(self.out_shape[-2:], size)
        self.aim = nn.Linear(state_features, 5)
        self.patch_shape = (math.prod(self.out_shape[:-2]), size, size)
        self.patch = nn.Linear(state_features, math.prod(self.patch_shape))

    def forward(self, h: Tensor) -> Tensor:
        """What ``h``, (..., state_features), draws: (..., *out_shape)."""
        image = self.filterbank(self.aim(h)).write(self.patch(h).unflatten(-1, self.patch_shape))
        return image.reshape((*h.shape[:-1], *self.out_shape))


class FullRead(nn.Module):
    """The whole datum and the whole error, [x, e]: what reads where there is no attention.

    Args:
        data_shape: shape of one datum.

    Shape:
        input (..., *data_shape) twice and a state that is not looked at, output (..., out_features).

    Example:
        >>> FullRead((1, 8, 8))(torch.zeros(20, 1, 8, 8), torch.zeros(50, 20, 1, 8, 8), torch.zeros(())).shape
        torch.Size([50, 20, 128])

    Reference: DRAW: a recurrent neural network for image generation (Gregor, Danihelka, Graves, Rezende, Wierstra,
    2015), section 3.1.
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        self.out_features = 2 * math.prod(self.data_shape)

    def forward(self, x: Tensor, error: Tensor, h: Tensor) -> Tensor:
        """Both as one vector, (..., out_features)."""
        return join(flatten_event(x, self.data_shape), flatten_event(error, self.data_shape))


class FullWrite(nn.Module):
    """One affine map from a state to all that is written, W h + b: what writes where there is no attention.

    Args:
        out_shape: shape of what is written.
        state_features: size of h.

    Shape:
        input (..., state_features), output (..., *out_shape).

    Example:
        >>> FullWrite((1, 1, 8, 8), 32)(torch.zeros(50, 20, 32)).shape
        torch.Size([50, 20, 1, 1, 8, 8])

    Reference: DRAW: a recurrent neural network for image generation (Gregor, Danihelka, Graves, Rezende, Wierstra,
    2015), section 3.1.
    """

    def __init__(self, out_shape: Sequence[int], state_features: int) -> None:
        super().__init__()
        self.out_shape = positive_sizes(out_shape, "out_shape")
        self.linear = nn.Linear(state_features, math.prod(self.out_shape))

    def forward(self, h: Tensor) -> Tensor:
        """What ``h``, (..., state_features), draws: (..., *out_shape)."""
        drawn: Tensor = self.linear(h)
        return drawn.reshape((*h.shape[:-1], *self.out_shape))


def _image_shape(shape: Sequence[int], size: int, piece: str, cure: str) -> tuple[int, ...]:
    """The shape, checked to have channels, a height and a width, into which a glimpse fits."""
    if len(shape) < 3:
        raise InvalidInput(
            "not an image",
            where=f"data_shape of {piece}",
            value=tuple(shape),
            expected="(channels, height, width)",
            cure=f"{cure}, which takes data of any shape",
        )
    shape = positive_sizes(shape, f"data_shape of {piece}")
    require_fit(size, shape[-2], shape[-1], piece, f"that, or {cure}")
    return shape


def _as_channels(image: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(..., *shape) -> (..., prod(shape[:-2]), H, W)."""
    check_event(image, shape, "AttentiveRead input")
    return image.flatten(-len(shape), -3)
