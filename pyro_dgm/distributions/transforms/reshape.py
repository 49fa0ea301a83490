"""Another shape of the same elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection
from pyro_dgm.errors import InvalidInput


class Reshape(Bijection):
    """The elements in another shape, such as a vector as an image.

    Args:
        event_shape: shape of one x.
        out_shape: shape of one y, of as many elements.

    Raises:
        InvalidInput: another number of elements.

    Example:
        >>> import torch
        >>> Reshape((4,), (1, 2, 2)).forward_and_log_det(torch.zeros(5, 4))[0].shape
        torch.Size([5, 1, 2, 2])
    """

    def __init__(self, event_shape: Sequence[int], out_shape: Sequence[int]) -> None:
        super().__init__(event_shape, out_shape=out_shape)
        if math.prod(self.event_shape) != math.prod(self.out_shape):
            expected = f"{math.prod(self.event_shape)} elements, as {self.event_shape} has"
            raise InvalidInput(
                "another number of elements", where="out_shape", value=self.out_shape, expected=expected
            )

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._as(x, self.event_shape, self.out_shape)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._as(y, self.out_shape, self.event_shape)

    def _as(self, x: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        leading = x.shape[: x.dim() - len(old)]
        return x.reshape(leading + new), x.new_zeros(leading)
