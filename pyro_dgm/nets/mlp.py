"""The multilayer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_dgm.shapes import check_event, positive_sizes


class MLP(nn.Module):
    """A multilayer perceptron, h_l = a(W_l h_{l-1} + b_l), with a linear last layer.

    The last layer has no activation, so that the network may be a decoder of logits. An encoder that
    is followed by another linear head wants one more activation between the two.

    Args:
        in_features: size of the input's last dimension.
        hidden: widths of the hidden layers; empty for an affine map.
        out_shape: shape of one output, or its size.
        activation: makes one activation layer; called once for each hidden layer.

    Shape:
        input (..., in_features), output (..., *out_shape), with any leading dimensions.

    Raises:
        InvalidInput: a size below one, or an input of another last dimension.

    Example:
        >>> import torch
        >>> decoder = MLP(8, (32, 32), (1, 1, 8, 8), activation=nn.Tanh)
        >>> decoder(torch.zeros(50, 20, 8)).shape  # (particles, batch, latent)
        torch.Size([50, 20, 1, 1, 8, 8])

    Reference: Learning representations by back-propagating errors (Rumelhart, Hinton, Williams, 1986).
    """

    def __init__(
        self,
        in_features: int,
        hidden: Sequence[int],
        out_shape: Sequence[int] | int,
        *,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.out_shape = positive_sizes(
            (out_shape,) if isinstance(out_shape, int) else out_shape, "out_shape"
        )
        (self.in_features,) = positive_sizes((in_features,), "in_features")
        widths = (self.in_features, *positive_sizes(hidden, "hidden"))
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], math.prod(self.out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, (..., in_features), to (..., *out_shape)."""
        check_event(x, (self.in_features,), "MLP input")
        out: Tensor = self.layers(x)  # (..., prod(out_shape))
        return out.reshape((*x.shape[:-1], *self.out_shape))
