"""Several scales: a part of the channels is done after each, and the rest goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_dgm.distributions.transforms.bijection import Bijection, shared_context
from pyro_dgm.errors import InvalidInput


class MultiScale(Bijection):
    r"""Maps at several scales, from a flat x: the y of a scale is the first part of what the scale before it maps.

    .. math:: h_L = f_L(x_L), \quad h_l = f_l([h_{l+1}, x_l]), \quad y = h_1, \quad x = [x_1, \dots, x_L]

    So from data to noise each scale leaves the last of its channels as they are then and hands on the first. A prior of
    those given these is a :class:`Coupling` at the start of a scale that keeps the first channels.

    Args:
        scales: the maps f_1, the one next to the data, to f_L, of images (channels, height, width).

    Raises:
        InvalidInput: no scales, or one that is no part of what the scale before it maps.

    Example:
        >>> from pyro_dgm.distributions.transforms import ActNorm, Chain, Inverse, Squeeze
        >>> scales = [Chain([ActNorm((4, 4, 4)), Inverse(Squeeze((1, 8, 8)))]), ActNorm((2, 4, 4))]
        >>> MultiScale(scales).forward_and_log_det(torch.zeros(5, 64))[0].shape
        torch.Size([5, 1, 8, 8])

    Reference: Density estimation using Real NVP (Dinh, Sohl-Dickstein, Bengio, 2017), section 3.6.
    """

    def __init__(self, scales: Sequence[Bijection]) -> None:
        scales = list(scales)
        if not scales:
            raise InvalidInput("no scales", where="scales", value="none", expected="one map or more")
        for here, after in pairwise(scales):
            inner, outer = after.out_shape, here.event_shape
            if len(inner) != len(outer) or inner[1:] != outer[1:] or not inner[0] < outer[0]:
                expected = f"fewer channels than {outer}, and its other sizes"
                raise InvalidInput("no part of a scale", where="scales", value=inner, expected=expected)
        context_shape = shared_context(scales, "scales")
        left = [scale.event_shape for scale in scales]
        own = [
            (shape[0] - scales[place + 1].out_shape[0], *shape[1:]) if place + 1 < len(scales) else shape
            for place, shape in enumerate(left)
        ]
        sizes = [math.prod(shape) for shape in own]
        super().__init__((sum(sizes),), out_shape=scales[0].out_shape, context_shape=context_shape)
        self.shapes, self.sizes = own, sizes
        self.scales = nn.ModuleList(scales)

    def _maps(self) -> list[Bijection]:
        return [scale for scale in self.scales if isinstance(scale, Bijection)]

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        parts = [
            part.unflatten(-1, shape)
            for part, shape in zip(x.split(self.sizes, -1), self.shapes, strict=True)
        ]
        h, total = parts[-1].narrow(-len(self.shapes[-1]), 0, 0), x.new_zeros(())
        for scale, part in zip(reversed(self._maps()), reversed(parts), strict=True):
            h = torch.cat([h, part], -len(scale.event_shape))
            h, log_det = scale._forward(h, context if scale.context_shape else None)
            total = total + log_det
        return h, total

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        parts, total = [], y.new_zeros(())
        for place, scale in enumerate(self._maps()):
            h, log_det = scale._inverse(y, context if scale.context_shape else None)
            y, part = self._split(h, place)
            parts.append(part)
            total = total + log_det
        return torch.cat(parts, -1), total

    @property
    def codomain(self) -> constraints.Constraint:
        return self._maps()[0].codomain

    def start(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        parts = []
        for place, scale in enumerate(self._maps()):
            y, part = self._split(scale.start(y, context if scale.context_shape else None), place)
            parts.append(part)
        return torch.cat(parts, -1)

    def _split(self, h: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """What goes on, and what is done, flat."""
        dims, mine = len(self.shapes[place]), self.shapes[place][0]
        dim = h.dim() - dims
        rest, done = h.split([h.shape[dim] - mine, mine], dim)
        return rest, done.flatten(dim)
