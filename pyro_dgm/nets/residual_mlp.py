"""Residual layers for vectors: a step that may take a second input, and a tower that gives all its stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.flatten import FlattenEvent
from pyro_dgm.shapes import check_event, count_in_a_row, positive_sizes


class ResidualMLP(nn.Module):
    r"""A residual step with a second input: h + W_3 a(W_2 a(h)) from h + W_1 z.

    W_3 starts ``gain`` times as large as a linear layer of PyTorch does. With :math:`1 / \sqrt{L}` in a network of L
    such steps the branches of all of them start about as large as that of one.

    Args:
        width: size of h.
        in_features: size of the second input z; 0 for none.
        gain: factor of the initial weights and biases of W_3; 0 makes the branch start at zero.
        activation: makes one activation layer; called twice.

    Shape:
        h (..., width) and z (..., in_features), whose leading dimensions broadcast; output (..., width).

    Raises:
        InvalidInput: a width below one, or negative in_features or gain; or an input of another last dimension.

    Example:
        >>> step = ResidualMLP(32, 4)
        >>> step(torch.zeros(32), torch.zeros(50, 20, 4)).shape  # (particles, batch, width)
        torch.Size([50, 20, 32])

    Reference: Identity Mappings in Deep Residual Networks (He, Zhang, Ren, Sun, 2016). Very Deep VAEs Generalize
    Autoregressive Models and Can Outperform Them on Images (Child, 2021), for the gain.
    """

    def __init__(
        self,
        width: int,
        in_features: int = 0,
        *,
        gain: float = 1.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        (self.width,) = positive_sizes((width,), "width")
        for name, value in (("in_features", in_features), ("gain", gain)):
            if not 0 <= value < math.inf:
                raise InvalidInput("bad number", where=name, value=value, expected="a finite number >= 0")
        self.in_features = in_features
        self.second = nn.Linear(in_features, width) if in_features else None
        last = nn.Linear(width, width)
        with torch.no_grad():
            last.weight.mul_(gain)
            last.bias.mul_(gain)
        self.branch = nn.Sequential(activation(), nn.Linear(width, width), activation(), last)

    def forward(self, h: Tensor, z: Tensor | None = None) -> Tensor:
        """Step from ``h``, (..., width), with ``z``, (..., in_features)."""
        check_event(h, (self.width,), "ResidualMLP input")
        if self.second is not None and z is not None:
            check_event(z, (self.in_features,), "ResidualMLP second input")
            h = h + self.second(z)
        out: Tensor = h + self.branch(h)
        return out


class ResidualTower(nn.Module):
    """A linear layer and residual steps on top of each other; gives the vector after every step.

    Args:
        data_shape: shape of one datum.
        width: size of each vector.
        num_stages: number L of steps; their gain is the inverse of its root.
        activation: makes one activation layer.

    Shape:
        input (..., *data_shape); output a tuple of ``num_stages`` tensors (..., width), from the data up.

    Raises:
        InvalidInput: a size below one, or more than 1000 steps.

    Example:
        >>> [d.shape for d in ResidualTower((1, 8, 8), 32, 2)(torch.zeros(5, 1, 8, 8))]
        [torch.Size([5, 32]), torch.Size([5, 32])]

    Reference: Deep Residual Learning for Image Recognition (He, Zhang, Ren, Sun, 2016).
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        width: int,
        num_stages: int,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        count_in_a_row(num_stages, "num_stages")
        flatten = FlattenEvent(data_shape)
        self.stem = nn.Sequential(flatten, nn.Linear(math.prod(flatten.event_shape), width))
        gain = 1 / math.sqrt(num_stages)
        self.steps = nn.ModuleList(
            ResidualMLP(width, gain=gain, activation=activation) for _ in range(num_stages)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Vectors after each step for ``x``, (..., *data_shape)."""
        d, stages = self.stem(x), []
        for step in self.steps:
            d = step(d)
            stages.append(d)
        return tuple(stages)
