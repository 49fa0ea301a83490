"""What a context adds to feature maps: the same everywhere for a vector, another at each pixel for maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import check_event


class ContextMaps(nn.Module):
    """A linear map from a context to feature maps, without bias.

    Args:
        context_shape: shape of one context: (features,), or (features, H, W) with the size of the images.
        channels: feature maps.
        image_size: (H, W) of the images.

    Shape:
        (..., *context_shape) to (prod(...), channels, 1, 1) for a vector, (prod(...), channels, H, W) for maps.

    Raises:
        InvalidInput: a context of another number of dimensions, or maps of another size.

    Example:
        >>> import torch
        >>> ContextMaps((10,), 4, (8, 8))(torch.zeros(5, 10)).shape
        torch.Size([5, 4, 1, 1])
    """

    def __init__(self, context_shape: Sequence[int], channels: int, image_size: Sequence[int]) -> None:
        super().__init__()
        self.context_shape = tuple(context_shape)
        if len(self.context_shape) not in (1, 3) or (
            len(self.context_shape) == 3 and self.context_shape[1:] != tuple(image_size)
        ):
            height, width = image_size
            raise InvalidInput(
                "wrong shape",
                where="context_shape",
                value=self.context_shape,
                expected=f"(features,) or (features, {height}, {width})",
            )
        features = self.context_shape[0]
        self.linear = nn.Conv2d(features, channels, 1, bias=False)

    def forward(self, context: Tensor) -> Tensor:
        """The maps that the contexts add."""
        check_event(context, self.context_shape, "context")
        leading = context.shape[: context.dim() - len(self.context_shape)]
        size = self.context_shape[1:] or (1, 1)
        out: Tensor = self.linear(context.reshape(math.prod(leading), self.context_shape[0], *size))
        return out
