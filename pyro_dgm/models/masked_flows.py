"""Masked autoregressive flows, and inverse ones: the same maps in either direction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions.transforms import ActNorm, Bijection, Inverse, MaskedAutoregressive, Univariate
from pyro_dgm.models.flow import Flow, vector_flow
from pyro_dgm.shapes import count_in_a_row


def maf(
    data_shape: Sequence[int],
    *,
    num_layers: int = 5,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[], nn.Module] = nn.ReLU,
    univariate: Callable[[], Univariate] | None = None,
    direct: bool = True,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` whose maps from data to noise are autoregressive, with the order turned round after each.

    .. math:: e = f_1 \circ \dots \circ f_L(x), \quad f_l: \; y_t = \tau(x_t; \theta_t(x_{<t}, c))

    A density takes one pass of each network; a draw goes element by element, but computes each unit of a network
    once. With one layer and affine maps it is a Gaussian MADE. Between layers each element is normalised, from the
    statistics of data on.

    Args:
        data_shape: shape of one datum; the elements of images come one after the other.
        num_layers: number L of autoregressions.
        hidden: widths of the hidden layers of each network.
        activation: makes one elementwise activation layer.
        univariate: makes the map tau of one element; affine by default.
        direct: whether the data are also seen by the outputs of each network directly, as in MADE.
        base: piece p(e); standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: a size below one, or a context that is no vector.

    Example:
        >>> import torch
        >>> flow = maf((6,), hidden=(32,))
        >>> flow().log_prob(torch.zeros(5, 6)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 6]))

    Reference:
        Papamakarios, Pavlakou and Murray, "Masked autoregressive flow for density estimation", 2017.
    """

    def parts(size: int, features: int) -> list[Bijection]:
        maps = _autoregressions(num_layers, size, features, hidden, activation, univariate, direct)
        return [part for each in maps for part in (Inverse(each), ActNorm((size,)))]

    return vector_flow(data_shape, parts, base=base, num_classes=num_classes, context_shape=context_shape)


def iaf(
    data_shape: Sequence[int],
    *,
    num_layers: int = 5,
    hidden: Sequence[int] = (64, 64),
    activation: Callable[[], nn.Module] = nn.ReLU,
    univariate: Callable[[], Univariate] | None = None,
    direct: bool = True,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` whose maps from noise to data are autoregressive, with the order turned round after each.

    .. math:: x = f_L \circ \dots \circ f_1(e), \quad f_l: \; y_t = \tau(x_t; \theta_t(x_{<t}, c))

    A draw takes one pass of each network, and its own density none more; the density of other data goes element by
    element, but computes each unit of a network once. So it is for draws by the thousand, as the student of a
    distillation under :class:`~pyro_dgm.objectives.ReverseKL`. A guide of such maps is
    :func:`~pyro_dgm.distributions.iaf_posterior`. For data, :func:`maf` trains in one pass.

    Args:
        data_shape: shape of one datum; the elements of images come one after the other.
        num_layers: number L of autoregressions.
        hidden: widths of the hidden layers of each network.
        activation: makes one elementwise activation layer.
        univariate: makes the map tau of one element; affine by default.
        direct: whether the data are also seen by the outputs of each network directly, as in MADE.
        base: piece p(e); standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: a size below one, or a context that is no vector.

    Example:
        >>> import torch
        >>> flow = iaf((6,), hidden=(32,))
        >>> flow().log_prob(torch.zeros(5, 6)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 6]))

    Reference:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved variational inference with inverse
        autoregressive flow", 2016.
    """

    def parts(size: int, features: int) -> list[Bijection]:
        maps = _autoregressions(num_layers, size, features, hidden, activation, univariate, direct)
        return [part for each in maps for part in (each, ActNorm((size,)))]

    return vector_flow(data_shape, parts, base=base, num_classes=num_classes, context_shape=context_shape)


def _autoregressions(
    num_layers: int,
    size: int,
    features: int,
    hidden: Sequence[int],
    activation: Callable[[], nn.Module],
    univariate: Callable[[], Univariate] | None,
    direct: bool,
) -> list[Bijection]:
    return [
        MaskedAutoregressive(
            (size,),
            None if univariate is None else univariate(),
            hidden=hidden,
            activation=activation,
            order=range(size)[:: -1 if layer % 2 else 1],
            direct=direct,
            context_features=features,
        )
        for layer in range(count_in_a_row(num_layers, "num_layers"))
    ]
