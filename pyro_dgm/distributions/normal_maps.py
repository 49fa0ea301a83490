"""Normal variables at each pixel, given an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyro.distributions import Independent, Normal
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.distributions.transforms.univariate import positive_number
from pyro_dgm.shapes import check_event, positive_sizes


class NormalMaps(nn.Module):
    """The conditional e_i | x ~ Normal(loc_i(x), scale_i(x)) at each element i of an image, by a network.

    Args:
        data_shape: shape of one image.
        network: from (..., *data_shape) to (..., 2, *data_shape), such as :class:`~pyro_dgm.nets.ConvMaps`.
        start_scale: scale that a network of zeros gives, in units of e.
        scale_floor: the smallest scale.

    Raises:
        InvalidInput: a size below one, a scale that is not positive, or, when called, data or maps of another shape.

    Example:
        >>> import torch
        >>> from pyro_dgm.nets import ConvMaps
        >>> piece = NormalMaps((1, 8, 8), ConvMaps(1, (2, 1), channels=16))
        >>> piece(torch.zeros(5, 1, 8, 8)).event_shape
        torch.Size([1, 8, 8])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        network: nn.Module,
        *,
        start_scale: float = 1.8,  # near the standard logistic's, so that dequantisation starts near the uniform one
        scale_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        self.network, self.scale_floor = network, positive_number(scale_floor, "scale_floor")
        self.raw_start = math.log(math.expm1(positive_number(start_scale, "start_scale")))

    def forward(self, x: Tensor) -> Independent:
        """The distribution given ``x``, (..., *data_shape), of event shape ``data_shape``."""
        check_event(x, self.data_shape, "NormalMaps")
        maps = at_least_float32(self.network(x))
        dims = len(self.data_shape)
        check_event(maps, (2, *self.data_shape), "maps of NormalMaps")
        loc, raw = maps.unbind(-1 - dims)
        return Normal(loc, positive(raw + self.raw_start, self.scale_floor)).to_event(dims)
