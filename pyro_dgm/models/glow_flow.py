"""Generative flow with invertible 1x1 convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions.transforms import (
    ActNorm,
    Bijection,
    Chain,
    Coupling,
    Inverse,
    LULinear,
    MultiScale,
    Squeeze,
    halves,
)
from pyro_dgm.models.flow import Flow, image_scales
from pyro_dgm.nets import ConvMaps
from pyro_dgm.shapes import count_in_a_row


def glow(
    data_shape: Sequence[int],
    *,
    num_scales: int = 2,
    num_steps: int = 8,
    channels: int = 64,
    num_blocks: int = 0,
    activation: Callable[[], nn.Module] = nn.ReLU,
    base: nn.Module | None = None,
    num_classes: int | None = None,
    context_shape: Sequence[int] = (),
) -> Flow:
    r"""A :class:`Flow` of images: at several scales, steps of a normalisation, a 1x1 convolution and a coupling.

    .. math:: \text{step}: \; h' = \mathrm{coupling}(W (s \, h + b)), \quad
              \log |\det W| = \sum \log |u|, \; W = P L (U + \mathrm{diag}(u))

    From data to noise a scale makes 2 x 2 pixels into channels and takes its steps; half of the channels are then done,
    normal given the others, and the rest goes on to the next scale.

    Args:
        data_shape: shape of one image, (channels, height, width), both sides divisible by 2^num_scales.
        num_scales: number of scales.
        num_steps: number of steps at each.
        channels: channels of the networks of the couplings.
        num_blocks: residual blocks of those networks; with 0 they are the three convolutions of the paper.
        activation: makes one activation layer.
        base: piece p(e), of flat e; standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: no image, a side that cannot be halved so often, or a context that is no vector.

    Example:
        >>> import torch
        >>> flow = glow((1, 8, 8), num_steps=2, channels=16)
        >>> flow().log_prob(torch.rand(5, 1, 8, 8)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))

    Reference:
        Kingma and Dhariwal, "Glow: generative flow with invertible 1x1 convolutions", 2018.
    """
    shapes, features = image_scales(data_shape, num_scales, num_classes, context_shape)

    def coupling(shape: tuple[int, ...]) -> Coupling:
        half = shape[0] // 2
        network = ConvMaps(
            half + features, (2, half), channels=channels, num_blocks=num_blocks, activation=activation
        )
        return Coupling(halves(shape[0]), network=network, event_shape=shape, context_features=features)

    scales = []
    for place, shape in enumerate(shapes):
        squeeze = Squeeze(shape)
        inner = squeeze.out_shape
        parts: list[Bijection] = [] if place + 1 == num_scales else [coupling(inner)]  # of what is done here
        for _ in range(count_in_a_row(num_steps, "num_steps")):
            parts += [coupling(inner), Inverse(LULinear(inner)), ActNorm(inner)]
        scales.append(Chain([*parts, Inverse(squeeze)]))
    return Flow(MultiScale(scales), base=base, num_classes=num_classes, context_shape=context_shape)
