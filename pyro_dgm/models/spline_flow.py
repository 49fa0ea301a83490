"""Neural spline flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions.transforms import (
    ActNorm,
    Bijection,
    Coupling,
    Inverse,
    LULinear,
    RationalQuadratic,
    alternating,
)
from pyro_dgm.models.flow import Flow, vector_flow
from pyro_dgm.shapes import count_in_a_row


def neural_spline_flow(
    data_shape: Sequence[int],
    *,
    num_layers: int = 4,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[], nn.Module] = nn.ReLU,
    num_bins: int = 8,
    bound: float = 3.0,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` of couplings by monotone rational-quadratic splines, with linear maps between them: RQ-NSF (C).

    .. math:: e = f_1 \circ W_1 \circ \dots \circ f_L \circ W_L(N x), \quad
              f_l: \; y_A = x_A, \; y_B = \mathrm{spline}(x_B; \theta(x_A))

    Couplings keep the elements at even and at odd places in turn. N normalises data, from their statistics on.
    RQ-NSF (AR) is :func:`maf` with ``univariate=RationalQuadratic``.

    Args:
        data_shape: shape of one datum, of two elements at least; those of images come one after the other.
        num_layers: number L of couplings.
        hidden: widths of the hidden layers of each network.
        activation: makes one activation layer.
        num_bins: number of bins of a spline.
        bound: splines are on [-bound, bound], and the identity outside.
        base: piece p(e); standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: a size below one, a single element, a bound that is not positive, or a context that is no vector.

    Example:
        >>> import torch
        >>> flow = neural_spline_flow((6,), hidden=(32,))
        >>> flow().log_prob(torch.zeros(5, 6)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 6]))

    Reference:
        Durkan, Bekasov, Murray and Papamakarios, "Neural spline flows", 2019.
    """

    def parts(size: int, features: int) -> list[Bijection]:
        maps: list[Bijection] = []
        for layer in range(count_in_a_row(num_layers, "num_layers")):
            kept = alternating(size, layer)
            spline = RationalQuadratic(num_bins, bound=bound)
            coupling = Coupling(kept, spline, hidden=hidden, activation=activation, context_features=features)
            maps += [Inverse(coupling), Inverse(LULinear((size,), rotated=False))]
        return [*maps, ActNorm((size,))]

    return vector_flow(data_shape, parts, base=base, num_classes=num_classes, context_shape=context_shape)
