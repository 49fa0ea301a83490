"""Non-linear independent components estimation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions import StandardLogistic
from pyro_dgm.distributions.transforms import ActNorm, Bijection, Coupling, Shift, alternating
from pyro_dgm.models.flow import Flow, vector_flow
from pyro_dgm.shapes import count_in_a_row, positive_sizes


def nice(
    data_shape: Sequence[int],
    *,
    num_layers: int = 4,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[], nn.Module] = nn.ReLU,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` of additive couplings, which keep volumes, and one rescaling of each element next to the noise.

    .. math:: x = f_L \circ \dots \circ f_1(S e), \quad f_l: \; y_A = x_A, \; y_B = x_B + b(x_A); \qquad
              \log |\det| = \sum_i \log S_i

    Couplings keep the elements at even and at odd places in turn. The rescaling, and a shift with it, start at the
    statistics of data. The base is logistic.

    Args:
        data_shape: shape of one datum, of two elements at least; those of images come one after the other.
        num_layers: number L of couplings.
        hidden: widths of the hidden layers of each network.
        activation: makes one activation layer.
        base: piece p(e); independent standard logistic variables by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: a size below one, a single element, or a context that is no vector.

    Example:
        >>> import torch
        >>> flow = nice((6,), hidden=(32,))
        >>> flow().log_prob(torch.zeros(5, 6)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 6]))

    Reference:
        Dinh, Krueger and Bengio, "NICE: non-linear independent components estimation", 2015.
    """

    def parts(size: int, features: int) -> list[Bijection]:
        maps: list[Bijection] = [ActNorm((size,))]
        for layer in range(count_in_a_row(num_layers, "num_layers")):
            kept = alternating(size, layer)
            maps.append(
                Coupling(kept, Shift(), hidden=hidden, activation=activation, context_features=features)
            )
        return maps

    shape = positive_sizes(data_shape, "data_shape")
    base = StandardLogistic(math.prod(shape)) if base is None else base
    return vector_flow(shape, parts, base=base, num_classes=num_classes, context_shape=context_shape)
