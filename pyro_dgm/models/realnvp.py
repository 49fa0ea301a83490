"""Real-valued non-volume preserving transformations, of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions.transforms import ActNorm, Bijection, Coupling
from pyro_dgm.models.flow import Flow, vector_flow
from pyro_dgm.shapes import count_in_a_row


def real_nvp(
    data_shape: Sequence[int],
    *,
    num_layers: int = 8,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[], nn.Module] = nn.ReLU,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` of affine couplings, which keep the elements at even and at odd places in turn.

    .. math:: x = f_L \circ \dots \circ f_1(e), \quad f_l: \; y_A = x_A, \; y_B = e^{s(x_A)} x_B + b(x_A)

    Between couplings each element is normalised, from the statistics of data on.

    Args:
        data_shape: shape of one datum, of two elements at least; those of images come one after the other.
        num_layers: number L of couplings.
        hidden: widths of the hidden layers of each network.
        activation: makes one activation layer.
        base: piece p(e); standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: a size below one, a single element, or a context that is no vector.

    Example:
        >>> import torch
        >>> flow = real_nvp((2,), hidden=(32,))
        >>> flow().log_prob(torch.zeros(5, 2)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 2]))

    Reference:
        Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017.
    """

    def parts(size: int, features: int) -> list[Bijection]:
        maps: list[Bijection] = []
        for layer in range(count_in_a_row(num_layers, "num_layers")):
            kept = [place % 2 == layer % 2 for place in range(size)]
            coupling = Coupling(kept, hidden=hidden, activation=activation, context_features=features)
            maps += [coupling, ActNorm((size,))]
        return maps

    return vector_flow(data_shape, parts, base=base, num_classes=num_classes, context_shape=context_shape)
