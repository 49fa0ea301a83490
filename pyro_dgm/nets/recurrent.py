"""Long short-term memory cells, of vectors and of images, that keep any leading dimensions and broadcast them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import positive_sizes


class Memory(NamedTuple):
    """State of a recurrent cell.

    Args:
        h: its output, (..., hidden), or (..., channels, H, W) for images.
        cell: what the gates keep, of the same shape.
    """

    h: Tensor
    cell: Tensor


def join(*tensors: Tensor, event_dims: int = 1) -> Tensor:
    """Tensors side by side along the first dimension of the event, their leading dimensions broadcast.

    Args:
        tensors: (..., features_i), or (..., channels_i, H, W).
        event_dims: number of dimensions of an event, 1 for vectors and 3 for images.

    Example:
        >>> join(torch.zeros(20, 3), torch.zeros(50, 20, 4), torch.zeros(5)).shape
        torch.Size([50, 20, 12])
    """
    leading = torch.broadcast_shapes(*(t.shape[: t.dim() - event_dims] for t in tensors))
    return torch.cat([t.expand(*leading, *t.shape[t.dim() - event_dims :]) for t in tensors], -event_dims)


def over_images(layer: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A layer that takes (batch, C, H, W), applied to images (..., C, H, W) with any leading dimensions.

    Args:
        layer: a convolution, or anything else on a batch of images.
        images: (..., C, H, W).

    Example:
        >>> over_images(nn.Conv2d(1, 4, 3), torch.zeros(50, 20, 1, 8, 8)).shape
        torch.Size([50, 20, 4, 6, 6])
    """
    leading = images.shape[:-3]
    out = layer(images.reshape(math.prod(leading), *images.shape[-3:]))
    return out.reshape(*leading, *out.shape[1:])


def remember(gates: Tensor, cell: Tensor, dim: int) -> Memory:
    """The new memory: cell' = sigmoid(f) cell + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(cell')."""
    kept, let_in, let_out, new = gates.chunk(4, dim)
    cell = kept.sigmoid() * cell + let_in.sigmoid() * new.tanh()
    return Memory(let_out.sigmoid() * cell.tanh(), cell)


class LSTMCell(nn.Module):
    """One step of a long short-term memory without peepholes, with a learned first state.

    The gates f, i, o, g are one affine map of [inputs, h]; then cell' = sigmoid(f) cell + sigmoid(i) tanh(g) and
    h' = sigmoid(o) tanh(cell'). ``torch.nn.LSTMCell`` takes one batch dimension only.

    Args:
        in_features: size of all inputs together.
        hidden: size of the state.

    Shape:
        memory (..., hidden) twice and inputs (..., features_i), whose leading dimensions broadcast; output the new
        memory.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> lstm = LSTMCell(7, 32)
        >>> memory = lstm(lstm.start(), torch.zeros(20, 3), torch.zeros(50, 20, 4))
        >>> memory.h.shape
        torch.Size([50, 20, 32])

    Reference: Long short-term memory (Hochreiter, Schmidhuber, 1997); Learning to forget (Gers, Schmidhuber,
    Cummins, 2000).
    """

    def __init__(self, in_features: int, hidden: int) -> None:
        super().__init__()
        positive_sizes((in_features,), "in_features")
        positive_sizes((hidden,), "hidden")
        self.of_inputs = nn.Linear(in_features, 4 * hidden)
        self.of_state = nn.Linear(hidden, 4 * hidden, bias=False)
        self.first = nn.Parameter(torch.zeros(2, hidden))

    def start(self) -> Memory:
        """The learned memory before the first step, (hidden,) twice."""
        return Memory(*self.first.unbind())

    def forward(self, memory: Memory, *inputs: Tensor) -> Memory:
        """The memory after one step."""
        return remember(self.of_inputs(join(*inputs)) + self.of_state(memory.h), memory.cell, -1)


class ConvLSTMCell(nn.Module):
    """One step of a long short-term memory of images: :class:`LSTMCell` with a convolution for its affine map.

    Args:
        in_channels: channels of all inputs together.
        channels: channels of the state.
        kernel_size: odd side of the kernel; the borders are padded with zeros, so that sizes stay.

    Shape:
        memory (..., channels, H, W) twice and inputs (..., channels_i, H, W), whose leading dimensions broadcast;
        output the new memory.

    Raises:
        InvalidInput: a size below one, or an even kernel.

    Example:
        >>> lstm = ConvLSTMCell(3, 8, kernel_size=5)
        >>> lstm(lstm.start((7, 5)), torch.zeros(50, 20, 3, 7, 5)).h.shape
        torch.Size([50, 20, 8, 7, 5])

    Reference: Convolutional LSTM network (Shi, Chen, Wang, Yeung, Wong, Woo, 2015), here without peepholes.
    """

    def __init__(self, in_channels: int, channels: int, *, kernel_size: int = 3) -> None:
        super().__init__()
        positive_sizes((in_channels,), "in_channels")
        positive_sizes((channels,), "channels")
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise InvalidInput(
                "bad kernel", where="kernel_size", value=kernel_size, expected="an odd integer >= 1"
            )
        self.gates = nn.Conv2d(in_channels + channels, 4 * channels, kernel_size, padding="same")
        self.first = nn.Parameter(torch.zeros(2, channels, 1, 1))

    def start(self, image_size: Sequence[int]) -> Memory:
        """The learned memory before the first step, (channels, H, W) twice, equal at all places."""
        return Memory(*self.first.expand(-1, -1, *image_size).unbind())

    def forward(self, memory: Memory, *inputs: Tensor) -> Memory:
        """The memory after one step."""
        gates = over_images(self.gates, join(*inputs, memory.h, event_dims=3))
        return remember(gates, memory.cell, -3)
