"""Which arguments of a model are the data it observes, and the arguments with other data in their place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput


class DataArguments:
    """The arguments of a model that hold the values of its observed sites.

    An argument holds a value that is the same tensor, a view of it, or a tensor that equals it.

    Args:
        batch: positional arguments of the model.
        values: what the model observed when it was called with them, by site.

    Raises:
        InvalidInput: a site whose value no argument holds.

    Example:
        >>> x, y = torch.zeros(3, 2), torch.ones(3)
        >>> arguments = DataArguments((x, y), {"left": x[:, 0]})
        >>> [field.tolist() for field in arguments.replaced({"left": torch.tensor([5.0, 6.0, 7.0])})]
        [[[5.0, 0.0], [6.0, 0.0], [7.0, 0.0]], [1.0, 1.0, 1.0]]
    """

    def __init__(self, batch: tuple[Any, ...], values: Mapping[str, Tensor]) -> None:
        self.batch = batch
        self.fed = {name: _fed(batch, name, value) for name, value in values.items()}

    def replaced(self, values: Mapping[str, Tensor]) -> tuple[Any, ...]:
        """The arguments with other values for the same sites.

        Args:
            values: new values by site, of as many elements as the old ones.

        Raises:
            InvalidInput: another number of elements, or real numbers for integers.
        """
        parts: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for name, drawn in values.items():
            for index, value in self.fed[name]:
                parts.setdefault(index, []).append((value, _fitting(name, drawn, value)))
        return tuple(
            _with(field, parts[index]) if index in parts else field for index, field in enumerate(self.batch)
        )


def _fed(batch: tuple[Any, ...], name: str, value: Tensor) -> list[tuple[int, Tensor]]:
    """The arguments that hold the value of an observed site, by index, with the part that does."""
    tensors = [(index, field) for index, field in enumerate(batch) if isinstance(field, Tensor)]
    fed = [(index, value) for index, field in tensors if _holds(field, value)]
    # A constant equals many a mask or weight by chance; it counts only if nothing better is there.
    if not fed or bool((value != value.flatten()[:1]).any()):
        views = {index for index, _ in fed}
        fed += [(index, field) for index, field in tensors if index not in views and _equal(field, value)]
    if not fed:
        raise InvalidInput(
            "observed data that are no argument of the model",
            where=f"site {name!r}",
            expected="obs= one of the arguments, or a view of it, so that drawn data can take its place",
            cure="the data as a positional argument, transformed before the call",
        )
    return fed


def _equal(field: Tensor, value: Tensor) -> bool:
    if field.shape != value.shape or field.device != value.device:
        return False
    return bool(((field == value) | (field.isnan() & value.isnan())).all())


def _holds(field: Tensor, value: Tensor) -> bool:
    """Whether all elements of ``value`` lie in the memory of ``field``."""
    if field is value:
        return True
    if field.dtype != value.dtype or _memory(field) != _memory(value):
        return False
    offset, span = value.storage_offset() - field.storage_offset(), _span(field)
    if offset < 0 or offset + _span(value) > span:
        return False
    marks = torch.zeros(span, dtype=torch.bool)
    marks.as_strided(value.shape, value.stride(), offset).fill_(True)
    wanted = marks.sum()
    kept = torch.zeros_like(marks)
    kept.as_strided(field.shape, field.stride()).fill_(True)
    return bool((marks & kept).sum() == wanted)


def _memory(value: Tensor) -> tuple[int, torch.device]:
    return value.untyped_storage().data_ptr(), value.device


def _span(value: Tensor) -> int:
    """Number of elements of the memory from the first to the last one of a tensor."""
    return 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))


def _with(field: Tensor, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """A copy of ``field`` in which each part, a view of it, has the values drawn for it."""
    if len(parts) == 1 and parts[0][0].shape == field.shape and parts[0][0].stride() == field.stride():
        return parts[0][1].to(field.dtype)
    offset = field.storage_offset()
    copy = field.as_strided((_span(field),), (1,), offset).clone()
    for part, drawn in parts:
        copy.as_strided(part.shape, part.stride(), part.storage_offset() - offset).copy_(drawn)
    return copy.as_strided(field.shape, field.stride())


def _fitting(name: str, drawn: Tensor, value: Tensor) -> Tensor:
    """Draws in the shape of the value whose place they take."""
    if drawn.numel() != value.numel():
        raise InvalidInput(
            "an observed value without the shape of its distribution",
            where=f"site {name!r}",
            value=tuple(value.shape),
            expected=str(tuple(drawn.shape)),
            cure="data that need not be broadcast",
        )
    if drawn.is_floating_point() and not value.is_floating_point() and bool((drawn % 1 != 0).any()):
        raise InvalidInput(
            "real draws in the place of integers",
            where=f"site {name!r}",
            expected="data of the type that the model draws",
            cure="x.float()",
        )
    return drawn.reshape(value.shape)
