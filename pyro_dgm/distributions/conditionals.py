"""Conditionals of one element after the other, which an autoregressive distribution draws from."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

Conditionals = Generator[tuple[Tensor, Tensor], Tensor, None]
"""Yields (index, params) of the next elements, positions (k,) and outputs (n, num_params, k); is sent (n, k) values."""


def naive_conditionals(
    network: Callable[[Tensor, Tensor | None], Tensor],
    like: Tensor,
    number: int,
    context: Tensor | None = None,
    order: Tensor | None = None,
) -> Conditionals:
    """Conditionals of any causal network, by a pass over the whole data for each element.

    Args:
        network: maps data and context to outputs (n, num_params, *data_shape).
        like: a datum, (*data_shape).
        number: number n of data.
        context: (n, ...).
        order: positions of the elements from first to last; as they lie if None.
    """
    size = like.numel()
    order = torch.arange(size, device=like.device) if order is None else order
    x = like.new_zeros(number, size)
    for index in order.split(1):
        params = network(x.reshape(number, *like.shape), context)
        x[:, index] = yield (
            index,
            params.reshape(number, math.prod(params.shape[1:]) // size, size)[..., index],
        )
