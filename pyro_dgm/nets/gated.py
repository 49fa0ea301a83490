"""Dense layers with gates, and the multilayer perceptron made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from pyro_dgm.shapes import check_event, positive_sizes


class GatedLinear(nn.Module):
    r"""A dense layer with a gate for each output, :math:`h = (W x + b) \odot \sigma(V x + c)`.

    The gate is the nonlinearity: the layer is followed by no activation. W and V start as normal draws of variance
    2 / in_features: the gates about halve the signal, and the factor makes up for that.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.

    Shape:
        input (..., in_features), output (..., out_features), with any leading dimensions.

    Raises:
        InvalidInput: a size below one, or an input of another last dimension.

    Example:
        >>> import torch
        >>> GatedLinear(64, 32)(torch.zeros(5, 3, 64)).shape
        torch.Size([5, 3, 32])

    Reference: Language modeling with gated convolutional networks (Dauphin, Fan, Auli, Grangier, 2017).
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        (self.in_features,) = positive_sizes((in_features,), "in_features")
        (self.out_features,) = positive_sizes((out_features,), "out_features")
        self.linear = nn.Linear(in_features, 2 * out_features)  # W above V
        nn.init.normal_(self.linear.weight, std=math.sqrt(2 / in_features))
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, (..., in_features), to (..., out_features)."""
        check_event(x, (self.in_features,), "GatedLinear input")
        return nn.functional.glu(self.linear(x), dim=-1)


class GatedMLP(nn.Module):
    r"""A multilayer perceptron of gated layers, with a linear last layer.

    .. math:: h_l = (W_l h_{l-1} + b_l) \odot \sigma(V_l h_{l-1} + c_l)

    Args:
        in_features: size of the input's last dimension.
        hidden: widths of the hidden layers; empty for an affine map.
        out_shape: shape of one output, or its size.

    Shape:
        input (..., in_features), output (..., *out_shape), with any leading dimensions.

    Raises:
        InvalidInput: a size below one, or an input of another last dimension.

    Example:
        >>> import torch
        >>> decoder = GatedMLP(8, (32, 32), (1, 1, 8, 8))
        >>> decoder(torch.zeros(50, 20, 8)).shape  # (particles, batch, latent)
        torch.Size([50, 20, 1, 1, 8, 8])

    Reference: Language modeling with gated convolutional networks (Dauphin, Fan, Auli, Grangier, 2017).
    """

    def __init__(self, in_features: int, hidden: Sequence[int], out_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.out_shape = positive_sizes(
            (out_shape,) if isinstance(out_shape, int) else out_shape, "out_shape"
        )
        (self.in_features,) = positive_sizes((in_features,), "in_features")
        widths = (self.in_features, *positive_sizes(hidden, "hidden"))
        gated = [GatedLinear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)]
        self.layers = nn.Sequential(*gated, nn.Linear(widths[-1], math.prod(self.out_shape)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x``, (..., in_features), to (..., *out_shape)."""
        check_event(x, (self.in_features,), "GatedMLP input")
        out: Tensor = self.layers(x)  # (..., prod(out_shape))
        return out.reshape((*x.shape[:-1], *self.out_shape))
