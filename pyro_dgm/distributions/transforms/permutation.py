"""Another order of the elements."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection
from pyro_dgm.nets.masked import order_of


class Permutation(Bijection):
    """y_i = x_{order[i]} along the first dimension of an event: elements of a vector, channels of an image.

    Args:
        order: each of 0 ... n - 1 once.
        event_shape: shape of one datum; (n,) by default.

    Raises:
        InvalidInput: no permutation, or of another length than the first dimension.

    Example:
        >>> import torch
        >>> Permutation([1, 2, 0]).forward_and_log_det(torch.tensor([1.0, 2.0, 3.0]))
        (tensor([2., 3., 1.]), tensor(0.))
    """

    order: Tensor

    def __init__(self, order: Sequence[int] | Tensor, *, event_shape: Sequence[int] | None = None) -> None:
        super().__init__((len(order),) if event_shape is None else event_shape)
        self.register_buffer("order", order_of(order, self.event_shape[0]))

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._moved(x, self.order)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._moved(y, self.order.argsort())

    def _moved(self, x: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        leading = x.shape[: x.dim() - len(self.event_shape)]
        return x.index_select(len(leading), order), x.new_zeros(leading)
