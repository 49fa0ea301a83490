"""Convolutions in time: causal ones, which see the past alone, and one that brings coarse features to every sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.shapes import check_event, positive_sizes


class CausalConv1d(nn.Module):
    r"""A dilated convolution in time whose outputs see the present and the past, or the past alone.

    .. math:: y_t = b + \sum_{j=0}^{k-1} W_j \, x_{t - s - j d}, \qquad s = 1 \text{ if strict, else } 0

    Before the first sample there are zeros, so that the output is as long as the input.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: number k of samples that an output sees.
        dilation: distance d between them, in samples.
        strict: whether an output sees only samples before its own.

    Shape:
        input (..., in_channels, T), output (..., out_channels, T), of any length T >= 1.

    Raises:
        InvalidInput: a size below one, or an input of another number of channels.

    Example:
        >>> conv = CausalConv1d(1, 1, 2, dilation=3, strict=True)
        >>> x = torch.zeros(1, 8, requires_grad=True)
        >>> conv(x)[0, 5].backward()
        >>> x.grad[0].nonzero().flatten(), conv.reach
        (tensor([1, 4]), 4)

    Reference: WaveNet: a generative model for raw audio (van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves,
    Kalchbrenner, Senior, Kavukcuoglu, 2016).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        dilation: int = 1,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = positive_sizes((in_channels, out_channels), "channels")
        self.kernel_size, self.dilation = positive_sizes((kernel_size, dilation), "kernel_size, dilation")
        self.strict = strict
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, dilation=dilation)

    @property
    def reach(self) -> int:
        """How far back the earliest sample lies that an output sees, in samples."""
        return (self.kernel_size - 1) * self.dilation + int(self.strict)

    @property
    def taps(self) -> Tensor:
        """The matrices W_j from the latest sample to the earliest, (kernel_size, out_channels, in_channels)."""
        return self.conv.weight.flip(-1).movedim(-1, 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, (..., in_channels, T), to (..., out_channels, T)."""
        check_event(x, (self.in_channels, x.shape[-1]), "CausalConv1d input")
        rows = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
        own = int(self.strict)  # the last sample is cut off where an output may not see it
        taps = min(self.kernel_size, 1 + max(0, x.shape[-1] - 1 - own) // self.dilation)
        if taps == self.kernel_size:
            out = self.conv(nn.functional.pad(rows, (self.reach, -own)))
        else:  # other matrices would multiply zeros before the first sample, however many those are
            weight, dilation = self.conv.weight[..., -taps:], self.dilation if taps > 1 else 1
            padded = nn.functional.pad(rows, ((taps - 1) * dilation + own, -own))
            out = nn.functional.conv1d(padded, weight, self.conv.bias, dilation=dilation)
        return out.reshape((*x.shape[:-2], self.out_channels, x.shape[-1]))


class Upsampling(nn.Module):
    r"""Features at every sample from features once in ``factor`` samples, by a transposed convolution.

    .. math:: y_{f i + j} = W_j x_i, \qquad 0 \le j < f

    Each :math:`W_j` starts as the identity, so that the features are repeated.

    Args:
        features: number of features.
        factor: number f of samples for each frame of features.

    Shape:
        input (..., features, T), output (..., features, factor T).

    Raises:
        InvalidInput: a size below one, or an input of another number of features.

    Example:
        >>> Upsampling(1, 3)(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 1., 1., 2., 2., 2.]], grad_fn=<ViewBackward0>)

    Reference: WaveNet: a generative model for raw audio (van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves,
    Kalchbrenner, Senior, Kavukcuoglu, 2016), section 2.5.
    """

    def __init__(self, features: int, factor: int) -> None:
        super().__init__()
        self.features, self.factor = positive_sizes((features, factor), "features, factor")
        self.conv = nn.ConvTranspose1d(features, features, factor, stride=factor, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(features).unsqueeze(-1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, (..., features, T), to (..., features, factor T)."""
        check_event(x, (self.features, x.shape[-1]), "Upsampling input")
        rows = x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])
        return self.conv(rows).reshape((*x.shape[:-1], self.factor * x.shape[-1]))


def queue_slots(layers: Sequence[CausalConv1d], length: int) -> tuple[Tensor, int]:
    """Places where the past of layers is kept, when they run one sample at a time.

    Each layer has a ring of as many places as it reaches back, or as there are samples if those are fewer, all rings
    after one another in one tensor. At sample t the earliest input that a layer sees makes room for its present one.

    Args:
        layers: layers of the same kernel size, none strict.
        length: number of samples.

    Returns:
        Places (length, layers, kernel_size - 1) of the inputs that each sample sees, from the latest to the earliest,
        and the number of places.

    Example:
        >>> slots, number = queue_slots([CausalConv1d(1, 1, 2), CausalConv1d(1, 1, 2, dilation=2)], 4)
        >>> slots.flatten(1).tolist(), number
        ([[0, 1], [0, 2], [0, 1], [0, 2]], 3)

    Reference: Fast WaveNet generation algorithm (Le Paine, Khorrami, Chang, Zhang, Ramachandran, Hasegawa-Johnson,
    Huang, 2016).
    """
    sizes = torch.tensor([min(layer.reach, length) for layer in layers])
    starts = (sizes.cumsum(0) - sizes).unsqueeze(-1)
    distances = torch.stack([layer.dilation * torch.arange(1, layer.kernel_size) for layer in layers])
    distances = distances.minimum(sizes.unsqueeze(-1))  # before the first sample: a place not filled yet
    times = torch.arange(length).reshape(-1, 1, 1)
    return starts + (times - distances) % sizes.unsqueeze(-1), int(sizes.sum())
