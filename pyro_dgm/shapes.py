"""Shapes and sizes checked at the door of whatever takes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput


def positive_sizes(sizes: Sequence[int], where: str) -> tuple[int, ...]:
    """The sizes as a tuple, each an integer of at least one.

    Args:
        sizes: sizes of dimensions.
        where: the name of the argument, for the message.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> positive_sizes([1, 8, 8], "data_shape")
        (1, 8, 8)
    """
    if not isinstance(sizes, Iterable):
        raise InvalidInput("no sequence", where=where, value=sizes, expected=f"[{sizes}], integers >= 1")
    if any(size < 1 or size != int(size) for size in sizes):
        raise InvalidInput("bad size", where=where, value=tuple(sizes), expected="integers >= 1")
    return tuple(int(size) for size in sizes)


# Steps or layers run one after the other, and each is a module or a site: more would not be made within minutes.
_MOST_IN_A_ROW = 1000


def count_in_a_row(number: int, where: str, *, least: int = 1) -> int:
    """The number of steps or layers that run one after the other.

    Args:
        number: how many.
        where: the name of the argument, for the message.
        least: the smallest number that makes sense.

    Raises:
        InvalidInput: fewer than that, or more than 1000.

    Example:
        >>> count_in_a_row(2, "num_blocks", least=0)
        2
    """
    if not least <= number <= _MOST_IN_A_ROW:
        expected = f"an integer >= {least}, at most {_MOST_IN_A_ROW}"
        raise InvalidInput("bad number", where=where, value=number, expected=expected)
    return int(number)


def check_event(x: Tensor, event_shape: tuple[int, ...], where: str) -> None:
    """Refuse a tensor whose last dimensions are not those of one datum.

    Args:
        x: a tensor, (..., *event_shape) if it is right.
        event_shape: the shape of one datum.
        where: the name of the receiver, for the message.

    Raises:
        InvalidInput: the shapes differ; the message suggests a transpose for channels-last images.
    """
    if x.shape[max(0, x.dim() - len(event_shape)) :] != torch.Size(event_shape):
        raise InvalidInput(
            "wrong event shape",
            where=where,
            value=tuple(x.shape),
            expected=f"(..., {', '.join(map(str, event_shape))})",
            cure=_cure(tuple(x.shape), event_shape),
        )


def _cure(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """The one call that would make the shape right, where there is an obvious one."""
    if len(expected) == 3 and found[-3:] == (*expected[1:], expected[0]):
        return "x.movedim(-1, -3): these look like channels-last images"
    if len(expected) == 3 and expected[0] == 1 and found[-2:] == expected[1:]:
        return "x.unsqueeze(-3): the channel dimension is missing"
    if len(expected) > 1 and found[-1:] == (math.prod(expected),):
        return f"x.unflatten(-1, {expected})"
    if len(expected) == 1 and any(math.prod(found[-n:]) == expected[0] for n in (2, 3)):
        return "FlattenEvent(data_shape) before it: these look like unflattened images"
    return ""
