"""The pre-activation residual block for images."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_dgm.shapes import positive_sizes


class ResidualBlock(nn.Module):
    r"""x + W_2 a(W_1 a(x)), with two 3x3 convolutions of stride 1.

    W_2 starts a tenth as large as a layer of PyTorch does, so that the block starts near the identity and a deep
    network of such blocks near a shallow one.

    Args:
        channels: channels of the images.
        activation: makes one activation layer; called once for each convolution.

    Shape:
        input and output (..., channels, H, W), with any leading dimensions.

    Raises:
        InvalidInput: fewer than one channel.

    Example:
        >>> import torch
        >>> ResidualBlock(8)(torch.zeros(50, 20, 8, 7, 7)).shape
        torch.Size([50, 20, 8, 7, 7])

    Reference: Identity Mappings in Deep Residual Networks (He, Zhang, Ren, Sun, 2016).
    """

    def __init__(self, channels: int, *, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        positive_sizes((channels,), "channels")
        last = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            last.weight.mul_(0.1)
        self.branch = nn.Sequential(
            activation(), nn.Conv2d(channels, channels, 3, padding=1), activation(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images ``x``, (..., channels, H, W), with what the branch adds to them."""
        images = x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:])
        return x + self.branch(images).reshape(x.shape)
