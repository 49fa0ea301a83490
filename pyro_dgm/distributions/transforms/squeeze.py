"""Images with fewer pixels and more channels, and the other way."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection
from pyro_dgm.errors import InvalidInput


class Squeeze(Bijection):
    """Blocks of 2 x 2 pixels as four times as many channels: (C, H, W) to (4C, H/2, W/2).

    Args:
        event_shape: (C, H, W).

    Raises:
        InvalidInput: another number of dimensions, or an odd height or width.

    Example:
        >>> import torch
        >>> Squeeze((1, 2, 2)).forward_and_log_det(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))[0].flatten()
        tensor([1., 2., 3., 4.])

    Reference: Density estimation using Real NVP (Dinh, Sohl-Dickstein, Bengio, 2017), section 3.6.
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        if len(event_shape) != 3 or event_shape[1] % 2 or event_shape[2] % 2:
            expected = "(channels, height, width), height and width even"
            raise InvalidInput(
                "cannot be squeezed", where="event_shape", value=tuple(event_shape), expected=expected
            )
        c, h, w = event_shape
        super().__init__(event_shape, out_shape=(4 * c, h // 2, w // 2))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        c, h, w = self.event_shape
        blocks = x.reshape((*x.shape[:-3], c, h // 2, 2, w // 2, 2))
        y = blocks.movedim((-3, -1), (-4, -3)).reshape((*x.shape[:-3], *self.out_shape))
        return y, x.new_zeros(x.shape[:-3])

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        c, h, w = self.event_shape
        blocks = y.reshape((*y.shape[:-3], c, 2, 2, h // 2, w // 2))
        x = blocks.movedim((-4, -3), (-3, -1)).reshape((*y.shape[:-3], *self.event_shape))
        return x, y.new_zeros(y.shape[:-3])
