"""Nested plain data with tensors in it, as a flat dict of tensors and JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from pyro_dgm.errors import InvalidInput

# JSON has neither tensors nor tuples, and only strings as keys; these marks stand for them.
TENSOR, TUPLE, ITEMS = "$tensor", "$tuple", "$items"


@runtime_checkable
class Stateful(Protocol):
    """Module, optimiser, schedule or anything else that can give its state and take it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...


def states_of(part: Any) -> Any:
    """A tree in which whatever has a state is replaced by it.

    Args:
        part: what has ``state_dict``; dicts and lists of such; tensors; plain data.
    """
    if isinstance(part, Stateful):
        return states_of(part.state_dict())
    if isinstance(part, Mapping):
        return {name: states_of(value) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return type(part)(states_of(value) for value in part)
    return part


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Plain data for JSON, and the tensors by their path.

    Args:
        tree: dicts, lists and tuples of tensors, numbers, strings, booleans and None.

    Raises:
        InvalidInput: something else is in it, named by its path.

    Example:
        >>> import torch
        >>> plain, tensors = flatten({"state": {0: {"m": torch.ones(2)}}, "betas": (0.9, 0.99)})
        >>> sorted(tensors)
        ['state/0/m']
        >>> unflatten(plain, tensors)
        {'state': {0: {'m': tensor([1., 1.])}}, 'betas': (0.9, 0.99)}
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            while path in tensors:  # a name may have slashes of its own
                path += "'"
            tensors[path] = value
            return {TENSOR: path}
        if isinstance(value, Mapping):
            items = [(key, walk(item, f"{path}/{key}" if path else str(key))) for key, item in value.items()]
            plain = all(type(key) is str and not key.startswith("$") for key in value)
            return dict(items) if plain else {ITEMS: [list(item) for item in items]}
        if isinstance(value, (list, tuple)):
            walked = [walk(item, f"{path}/{i}" if path else str(i)) for i, item in enumerate(value)]
            return {TUPLE: walked} if isinstance(value, tuple) else walked
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise InvalidInput(
            "a state that is not plain data",
            where=path,
            value=type(value).__name__,
            expected="tensors, numbers, strings, lists and dicts",
        )

    return walk(tree, ""), tensors


def unflatten(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that :func:`flatten` took apart.

    Args:
        plain: its plain data.
        tensors: its tensors.

    Raises:
        KeyError: a tensor is missing.
    """
    if isinstance(plain, dict):
        if TENSOR in plain:
            return tensors[plain[TENSOR]]
        if TUPLE in plain:
            return tuple(unflatten(item, tensors) for item in plain[TUPLE])
        if ITEMS in plain:
            return {key: unflatten(item, tensors) for key, item in plain[ITEMS]}
        return {key: unflatten(item, tensors) for key, item in plain.items()}
    if isinstance(plain, list):
        return [unflatten(item, tensors) for item in plain]
    return plain
