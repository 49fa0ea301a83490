"""Conditionals of one element after the other, which an autoregressive distribution draws from."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput

Conditionals = Generator[tuple[Tensor, Tensor], Tensor, None]
"""Yields (index, params) of the next elements, positions (k,) and outputs (n, num_params, k); is sent (n, k) values."""
Values = Callable[[Tensor, Tensor], Tensor]
"""Values (n, k) of elements from their outputs (n, num_params, k) and positions (k,)."""


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


def drawn_in_order(steps: Conditionals, values: Values, shape: tuple[int, int]) -> Tensor:
    """Data (n, elements) of this shape: the values of each element, given those before it."""
    x = None
    index, params = next(steps)
    while True:
        value = values(params, index)
        x = value.new_zeros(shape) if x is None else x
        x[:, index] = value
        try:
            index, params = steps.send(value)
        except StopIteration:
            return x


def known_first(given: Tensor, observed: Tensor, draw: Values) -> Values:
    """Values of the elements given as long as they are observed, and then draws.

    Args:
        given: data (n, elements).
        observed: boolean mask, (elements,).
        draw: what to do for the elements that are missing.

    Raises:
        InvalidInput: from the function, for an element that is observed after one that is not.
    """
    missing = False

    def values(params: Tensor, index: Tensor) -> Tensor:
        nonlocal missing
        known = observed[index]
        if known.any() and (missing or not known.all()):
            raise InvalidInput(
                "an element that is known after a missing one",
                where="observed",
                value=f"flat position {int(index[known][0])}",
                expected="all known elements before all missing ones in the order of the network",
                cure="a model with another order",
            )
        missing = not known.any()
        return draw(params, index) if missing else given[:, index]

    return values
