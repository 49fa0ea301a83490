"""Strided convolutional encoder and its mirror image, for images of any height and width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.residual import ResidualBlock
from pyro_dgm.shapes import check_event, count_in_a_row, positive_sizes


def _halvings(size: int, times: int) -> list[int]:
    """The sizes that stride-2 layers (kernel 3, padding 1) pass through: each is ceil(half) of the last.

    Example:
        >>> _halvings(28, 3)
        [28, 14, 7, 4]
    """
    sizes = [size]
    for _ in range(times):
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def _image_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    """The shape, checked to have a height and a width as its last two dimensions."""
    if len(shape) < 2:
        raise InvalidInput(
            "not an image", where=where, value=tuple(shape), expected="(..., H, W)", cure="MLP"
        )
    return positive_sizes(shape, where)


class ConvEncoder(nn.Module):
    """A strided convolutional network from images to feature vectors.

    One 3x3 convolution of stride 2 for each entry of ``channels``, each followed by ``num_blocks`` residual blocks
    and an activation, then one linear layer without activation. A side of length n becomes ceil(n/2) at each
    strided layer, so every height and width is allowed.

    Args:
        data_shape: shape of one image, (C, H, W) or (H, W).
        out_features: size of the feature vector.
        channels: widths of the layers from the data inwards.
        num_blocks: residual blocks at each resolution.
        activation: makes one activation layer; called once for each convolution.

    Shape:
        input (..., *data_shape), output (..., out_features), with any leading dimensions.

    Raises:
        InvalidInput: a size below one, fewer than no blocks or more than 1000, or an input of another event shape
            (channels-last images are recognised and the transpose is suggested).

    Example:
        >>> import torch
        >>> ConvEncoder((1, 28, 28), 128)(torch.zeros(5, 3, 1, 28, 28)).shape
        torch.Size([5, 3, 128])

    Reference: Striving for Simplicity: The All Convolutional Net (Springenberg, Dosovitskiy, Brox,
    Riedmiller, 2015).
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        num_blocks: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.data_shape = _image_shape(data_shape, "data_shape")
        positive_sizes((out_features,), "out_features")
        *_, height, width = self.data_shape
        widths = (math.prod(self.data_shape[:-2]), *positive_sizes(channels, "channels"))
        count_in_a_row(num_blocks, "num_blocks", least=0)
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            blocks = (ResidualBlock(fan_out, activation=activation) for _ in range(num_blocks))
            layers += [nn.Conv2d(fan_in, fan_out, 3, stride=2, padding=1), *blocks, activation()]
        self.convolutions = nn.Sequential(*layers)
        area = _halvings(height, len(channels))[-1] * _halvings(width, len(channels))[-1]
        self.head = nn.Linear(widths[-1] * area, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``x``, (..., *data_shape), to features, (..., out_features)."""
        check_event(x, self.data_shape, "ConvEncoder input")
        leading = x.shape[: x.dim() - len(self.data_shape)]
        # The batch size is spelt out, not -1, so that empty batches work.
        images = x.reshape(math.prod(leading), math.prod(self.data_shape[:-2]), *self.data_shape[-2:])
        features: Tensor = self.head(self.convolutions(images).flatten(1))
        return features.reshape((*leading, features.shape[-1]))


class ConvDecoder(nn.Module):
    """A strided transposed-convolutional network from feature vectors to images: ConvEncoder mirrored.

    One linear layer, then one 3x3 transposed convolution of stride 2 for each entry of ``channels``,
    from the last to the first; ``num_blocks`` residual blocks and an activation precede each. The last has no
    activation. The output padding of each layer is the one that gives back exactly the size that the encoder came
    from, so every height and width is allowed.

    Args:
        in_features: size of the input's last dimension.
        out_shape: shape of one output, (..., H, W): its last two dimensions are space, all before them
            are channels. A decoder for an observation with P parameters per pixel has
            ``out_shape=(P, C, H, W)``.
        channels: widths of the layers from the data inwards, as in ConvEncoder.
        num_blocks: residual blocks at each resolution.
        activation: makes one activation layer; called once for each transposed convolution.

    Shape:
        input (..., in_features), output (..., *out_shape), with any leading dimensions.

    Raises:
        InvalidInput: a size below one, or an input of another last dimension.

    Example:
        >>> import torch
        >>> ConvDecoder(8, (2, 3, 9, 5))(torch.zeros(5, 3, 8)).shape
        torch.Size([5, 3, 2, 3, 9, 5])

    Reference: Adaptive deconvolutional networks for mid and high level feature learning (Zeiler,
    Taylor, Fergus, 2011).
    """

    def __init__(
        self,
        in_features: int,
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (32, 64),
        num_blocks: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.out_shape = _image_shape(out_shape, "out_shape")
        (self.in_features,) = positive_sizes((in_features,), "in_features")
        *_, height, width = self.out_shape
        heights, breadths = _halvings(height, len(channels)), _halvings(width, len(channels))
        count_in_a_row(num_blocks, "num_blocks", least=0)
        widths = (math.prod(self.out_shape[:-2]), *positive_sizes(channels, "channels"))
        self.coarse_shape = (widths[-1], heights[-1], breadths[-1])
        self.stem = nn.Linear(self.in_features, math.prod(self.coarse_shape))
        layers: list[nn.Module] = []
        for level in reversed(range(len(channels))):
            # Without output padding a side n becomes 2n - 1: right for an odd size, one short for an even.
            padding = (1 - heights[level] % 2, 1 - breadths[level] % 2)
            blocks = (ResidualBlock(widths[level + 1], activation=activation) for _ in range(num_blocks))
            layers += [
                *blocks,
                activation(),
                nn.ConvTranspose2d(
                    widths[level + 1], widths[level], 3, stride=2, padding=1, output_padding=padding
                ),
            ]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, h: Tensor) -> Tensor:
        """Map features ``h``, (..., in_features), to (..., *out_shape)."""
        check_event(h, (self.in_features,), "ConvDecoder input")
        leading = h.shape[:-1]
        coarse = self.stem(h).reshape(math.prod(leading), *self.coarse_shape)
        out: Tensor = self.convolutions(coarse)  # (prod(leading), prod(out_shape[:-2]), H, W)
        return out.reshape((*leading, *self.out_shape))
