"""Real-valued non-volume preserving transformations, of vectors and of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions.transforms import (
    ActNorm,
    Bijection,
    Chain,
    Coupling,
    Inverse,
    MaskedCoupling,
    MultiScale,
    Sigmoid,
    Squeeze,
    alternating,
    checkerboard,
    halves,
)
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.flow import Flow, image_scales, vector_flow
from pyro_dgm.nets import ConvMaps
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
            kept = alternating(size, layer)
            coupling = Coupling(kept, hidden=hidden, activation=activation, context_features=features)
            maps += [coupling, ActNorm((size,))]
        return maps

    return vector_flow(data_shape, parts, base=base, num_classes=num_classes, context_shape=context_shape)


def real_nvp_images(
    data_shape: Sequence[int],
    *,
    num_scales: int = 2,
    channels: int = 64,
    num_blocks: int = 4,
    activation: Callable[[], nn.Module] = nn.ReLU,
    alpha: float = 0.05,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` of images in [0, 1]: at each of several scales, couplings of checkerboards and of channels.

    .. math:: x = \frac{\sigma(h) - \alpha}{1 - 2 \alpha}, \quad
              f_l: \; y_A = x_A, \; y_B = e^{s(x_A)} x_B + b(x_A)

    From data to noise a scale has three couplings that keep the fields of a checkerboard in turn, makes 2 x 2 pixels
    into channels, and has three that keep halves of the channels in turn; half of the channels are then done, and the
    rest goes on. After the last scale come four couplings of checkerboards. After each coupling channels are
    normalised, from the statistics of data on.

    Args:
        data_shape: shape of one image, (channels, height, width), both sides divisible by 2^num_scales, and more than
            one pixel left then.
        num_scales: number of scales.
        channels: channels of the networks.
        num_blocks: residual blocks of each network.
        activation: makes one activation layer.
        alpha: how far the support goes beyond [0, 1]: see :class:`~pyro_dgm.distributions.transforms.Sigmoid`.
        base: piece p(e), of flat e; standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: no image, a side that cannot be halved so often, an alpha outside [0, 1/2), or a context that is
            no vector.

    Example:
        >>> import torch
        >>> flow = real_nvp_images((1, 8, 8), channels=16, num_blocks=1)
        >>> flow().log_prob(torch.rand(5, 1, 8, 8)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))

    Reference:
        Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017.
    """
    shapes, features = image_scales(data_shape, num_scales, num_classes, context_shape)
    if shapes[-1][1:] == (2, 2):
        raise InvalidInput(
            "a checkerboard of one pixel",
            where="data_shape, num_scales",
            value=f"{tuple(data_shape)}, {num_scales}",
            expected="sides of which one is above 2^num_scales",
            cure="fewer scales",
        )

    def network(inside: int, outside: int) -> ConvMaps:
        sizes = (2, outside)
        return ConvMaps(
            inside + features, sizes, channels=channels, num_blocks=num_blocks, activation=activation
        )

    def of_pixels(shape: tuple[int, ...], number: int) -> list[Bijection]:
        maps: list[Bijection] = []
        for turn in range(number):
            kept = checkerboard(shape, turn)
            maps += [
                MaskedCoupling(kept, network(shape[0], shape[0]), context_features=features),
                ActNorm(shape),
            ]
        return maps

    def of_channels(shape: tuple[int, ...], number: int) -> list[Bijection]:
        maps: list[Bijection] = []
        for turn in range(number):
            kept, half = halves(shape[0], turn), shape[0] // 2
            coupling = Coupling(
                kept, network=network(half, half), event_shape=shape, context_features=features
            )
            maps += [coupling, ActNorm(shape)]
        return maps

    scales = []
    for place, shape in enumerate(shapes):
        squeeze = Squeeze(shape)
        inner = squeeze.out_shape
        ends = of_pixels(inner, 4) if place + 1 == num_scales else []
        scales.append(Chain([*ends, *of_channels(inner, 3), Inverse(squeeze), *of_pixels(shape, 3)]))
    chain = Chain([MultiScale(scales), Sigmoid(data_shape, alpha=alpha)])
    return Flow(chain, base=base, num_classes=num_classes, context_shape=context_shape)
