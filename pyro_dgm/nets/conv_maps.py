"""Convolutional network from feature maps to the parameters of each pixel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_dgm.nets.residual import ResidualBlock
from pyro_dgm.shapes import count_in_a_row, positive_sizes


class ConvMaps(nn.Module):
    """A 3x3 convolution, hidden layers of the same height and width, and a 3x3 convolution that starts at zero.

    Hidden layers are residual blocks, or one 1x1 convolution where there are no blocks.

    Args:
        in_channels: channels of the input.
        out_channels: sizes of the output before height and width, such as (num_params, channels).
        channels: channels of the hidden layers.
        num_blocks: number of residual blocks.
        activation: makes one activation layer.

    Shape:
        input (..., in_channels, H, W), output (..., *out_channels, H, W), with any leading dimensions.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> import torch
        >>> ConvMaps(3, (2, 6), channels=16)(torch.zeros(50, 20, 3, 8, 8)).shape
        torch.Size([50, 20, 2, 6, 8, 8])

    Reference:
        Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017, for the blocks.
        Kingma and Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", 2018, for the last layer's start.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: Sequence[int],
        *,
        channels: int = 64,
        num_blocks: int = 0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        positive_sizes((in_channels, channels), "in_channels, channels")
        self.out_channels = positive_sizes(out_channels, "out_channels")
        blocks: list[nn.Module] = [
            ResidualBlock(channels, activation=activation)
            for _ in range(count_in_a_row(num_blocks, "num_blocks", least=0))
        ]
        last = nn.Conv2d(channels, math.prod(self.out_channels), 3, padding=1)
        for tensor in last.parameters():
            nn.init.zeros_(tensor)
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1),
            *(blocks or (activation(), nn.Conv2d(channels, channels, 1))),
            activation(),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps of ``x``, (..., in_channels, H, W)."""
        maps = self.layers(x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]))
        return maps.reshape((*x.shape[:-3], *self.out_channels, *x.shape[-2:]))
