"""The normalising flow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.distributions import FlowDistribution, StandardNormal
from pyro_dgm.distributions.transforms import Bijection, Chain, Reshape
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.tractable import TractableModel
from pyro_dgm.shapes import count_in_a_row, positive_sizes


class Flow(TractableModel):
    r"""Normalising flow.

    .. math:: e \sim p_0(e), \quad x = f(e; c); \qquad
              \log p(x \mid c) = \log p_0(f^{-1}(x; c)) + \log |\det \partial f^{-1} / \partial x|

    The map goes from noise to data; one that is made the other way is turned by
    :class:`~pyro_dgm.distributions.transforms.Inverse`. The guide is empty, and every bound is log p(x) itself. As a
    piece it is a prior, or what a user's own model observes.

    Args:
        bijection: the map f.
        base: piece p_0, whose call returns a distribution of event shape ``bijection.event_shape``; standard normal by
            default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context; () for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel`, or a map that takes another context.

    Example:
        >>> from pyro_dgm.distributions.transforms import Chain, Coupling
        >>> flow = Flow(Chain([Coupling([True, False]), Coupling([False, True])]))
        >>> flow().log_prob(torch.zeros(5, 2)).shape, flow.sample(3).shape
        (torch.Size([5]), torch.Size([3, 2]))

    Reference:
        Rezende and Mohamed, "Variational inference with normalizing flows", 2015.
        Papamakarios, Nalisnick, Rezende, Mohamed and Lakshminarayanan, "Normalizing flows for probabilistic modeling
        and inference", 2021.
    """

    def __init__(
        self,
        bijection: Bijection,
        *,
        base: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(bijection.out_shape, num_classes=num_classes, context_shape=context_shape)
        if bijection.context_shape != self.context_shape:
            raise InvalidInput(
                "a map of another context",
                where="bijection",
                value=bijection.context_shape,
                expected=f"{self.context_shape}",
                cure="context_features in its parts, or none here",
            )
        self.bijection = bijection
        self.base = StandardNormal(bijection.event_shape) if base is None else base

    def forward(self, c: Tensor | None = None) -> FlowDistribution:
        """The distribution p(x | c)."""
        self.check_context(c)
        return FlowDistribution(self.base(), self.bijection, c)

    @torch.no_grad()
    def initialize(self, x: Tensor, y: Tensor | None = None, *rest: Any) -> None:
        """Checks every y, and starts what depends on data, such as ``ActNorm``."""
        self._check(x, y, values=True)
        context = y if self.context is None or y is None else self.context(y)
        self.bijection.start(x, context)


Parts = Callable[[int, int], list[Bijection]]
"""From the size of a vector and of its context to the maps of a flow, the one next to the noise first."""


def vector_flow(
    data_shape: Sequence[int],
    parts: Parts,
    *,
    base: nn.Module | None,
    num_classes: int | None,
    context_shape: Sequence[int],
) -> Flow:
    """The flow of maps of vectors, whose data may have any shape: their elements come one after the other.

    Args:
        data_shape: shape of one datum.
        parts: makes the maps.
        base: piece p(e); standard normal by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, a vector; () for none.

    Raises:
        InvalidInput: a size below one, or a context that is no vector.
    """
    shape = positive_sizes(data_shape, "data_shape")
    size = math.prod(shape)
    maps = parts(size, _features(num_classes, context_shape))
    chain = Chain([*maps, Reshape((size,), shape)] if len(shape) > 1 else maps)
    return Flow(chain, base=base, num_classes=num_classes, context_shape=context_shape)


def image_scales(
    data_shape: Sequence[int], num_scales: int, num_classes: int | None, context_shape: Sequence[int]
) -> tuple[list[tuple[int, ...]], int]:
    """What comes to each scale of a flow of images, half of whose channels go on, and the size of a context.

    Raises:
        InvalidInput: no image, a side that cannot be halved so often, or a context that is no vector.

    Example:
        >>> image_scales((1, 28, 28), 2, None, ())
        ([(1, 28, 28), (2, 14, 14)], 0)
    """
    shape, times = positive_sizes(data_shape, "data_shape"), count_in_a_row(num_scales, "num_scales")
    if len(shape) != 3 or any(side % 2**times for side in shape[1:]):
        raise InvalidInput(
            "an image that cannot be squeezed so often",
            where="data_shape, num_scales",
            value=f"{shape}, {times}",
            expected="(channels, height, width), height and width divisible by 2^num_scales",
        )
    c, h, w = shape
    shapes: list[tuple[int, ...]] = [(c * 2**place, h // 2**place, w // 2**place) for place in range(times)]
    return shapes, _features(num_classes, context_shape)


def _features(num_classes: int | None, context_shape: Sequence[int]) -> int:
    if len(context_shape) > 1:
        raise InvalidInput(
            "a context that is no vector",
            where="context_shape",
            value=tuple(context_shape),
            expected="(features,)",
            cure="a network before it that gives features",
        )
    return num_classes or sum(context_shape)
