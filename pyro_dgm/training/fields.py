"""The fields of a batch against the arguments of model and guide, so that no row number is taken for a label."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from pyro_dgm.errors import InvalidInput

_OURS = ("x", "y", "index")  # what the fields of our data sets are called
_WORDS = {"y": "labels", "index": "index"}
_CURES = {"y": "labels: false in the data", "index": "index: false in the data"}


@runtime_checkable
class Named(Protocol):
    """Data that say what the tensors of a batch are."""

    @property
    def fields(self) -> Sequence[str]: ...


def require_fields(data: Any, pair: tuple[Callable[..., Any], Callable[..., Any]]) -> None:
    """An error for a batch that model or guide cannot take, or would take for something else.

    Tensors are passed by position. One named ``index`` where the function takes ``y`` is refused, as is one beyond
    the last argument, or an argument that no tensor is for. Other names are the user's own, ``*args`` takes
    anything, and data that do not name their fields are left alone.

    Args:
        data: a split, whose ``fields`` name the tensors of a batch.
        pair: model and guide.

    Raises:
        InvalidInput: the first such field.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> def model(x, y=None): ...
        >>> require_fields(SimpleNamespace(fields=("x", "y")), (model, model))
        >>> require_fields(SimpleNamespace(fields=("x", "index")), (model, model))
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: index where model takes y in data: (x, index); expected (x, y); try ...
    """
    if not isinstance(data, Named):
        return
    fields = tuple(data.fields)
    for function in pair:
        _require(fields, function)


def _require(fields: tuple[str, ...], function: Callable[..., Any]) -> None:
    try:
        # Not of what it wraps, whose arguments may be given by the wrapper.
        arguments = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):  # nothing is known of it
        return
    by_position = [p for p in arguments if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_all = any(p.kind is p.VAR_POSITIONAL for p in arguments)
    names = [p.name for p in by_position]
    needed = [p.name for p in by_position if p.default is p.empty]
    owner, listed = _name(function), f"({', '.join(fields)})"
    for place, field in enumerate(fields[1:], 1):
        word, cure = _WORDS.get(field, field), _CURES.get(field, "data without it")
        if place >= len(names):
            if takes_all:
                break
            taken = f"{' and '.join(names)} alone" if names else "nothing"
            raise InvalidInput(
                f"{word} where {owner} takes {taken}",
                where="data",
                value=listed,
                expected=f"({', '.join(names)})",
                cure=cure,
            )
        if names[place] != field and names[place] in _OURS and field in _OURS:
            raise InvalidInput(
                f"{word} where {owner} takes {names[place]}",
                where="data",
                value=listed,
                expected=f"({', '.join(names)})",
                cure=f"labels: true in the data, or {cure}" if names[place] == "y" else cure,
            )
    lacking = needed[len(fields) :]
    if lacking:
        raise InvalidInput(
            f"no {lacking[0]}, which {owner} takes",
            where="data",
            value=listed,
            expected=f"({', '.join(names)})",
            cure="labels: true in the data" if lacking[0] == "y" else "data with it",
        )


def _name(function: Any) -> str:
    """The class of a method of ours, else the name of a function."""
    owner = getattr(function, "__self__", None)
    return (
        str(getattr(function, "__name__", type(function).__name__)) if owner is None else type(owner).__name__
    )
