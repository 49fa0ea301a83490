"""The pre-activation residual block for images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from pyro_dgm.nets.shapes import positive_sizes


class ResidualBlock(nn.Module):
    r"""x + W_2 a(W_1 a(x)), with two 3x3 convolutions of stride 1.

    W_2 starts at zero, so that the block starts as the identity and a deep network of such blocks as a shallow one.

    Args:
        channels: channels of the images.
        activation: makes one activation layer; called once for each convolution.

    Shape:
        input and output (batch, channels, H, W).

    Raises:
        InvalidInput: fewer than one channel.

    Example:
        >>> import torch
        >>> x = torch.randn(2, 8, 7, 7)
        >>> bool((ResidualBlock(8)(x) == x).all())
        True

    Reference: Identity Mappings in Deep Residual Networks (He, Zhang, Ren, Sun, 2016).
    """

    def __init__(self, channels: int, *, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        positive_sizes((channels,), "channels")
        last = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(
            activation(), nn.Conv2d(channels, channels, 3, padding=1), activation(), last
        )

    def forward(self, x: Tensor) -> Tensor:
        """Image ``x``, (batch, channels, H, W), with what the branch adds to it."""
        out: Tensor = x + self.branch(x)
        return out
