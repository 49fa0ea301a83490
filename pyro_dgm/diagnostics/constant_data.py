"""What a model was called with and does not observe: labels, covariates, sizes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pyro_dgm.diagnostics.draw_table import Variable, as_numpy


def constant_data(
    model: Callable[..., Any], batch: tuple[Any, ...], observed: Mapping[str, Variable], dims: tuple[str, ...]
) -> dict[str, Variable]:
    """Arguments that are numbers and no observed values, by the names that they have in the model.

    Args:
        model: Pyro model, called with the batch.
        batch: positional arguments of it.
        observed: observed sites.
        dims: name of the dimension of the data, which an argument's first dimension has where it is as long; empty for
            that of any plate of the observed sites, if it alone is as long.
    """
    sizes = {dim: size for variable in observed.values() for dim, size in _sizes(variable).items()}
    plates = dims or tuple(
        dim for dim in sizes if not any(dim.startswith(f"{name}_dim_") for name in observed)
    )
    found = {}
    for name, argument in zip(_names(model, len(batch)), batch, strict=True):
        values = _as_array(argument)
        if values is None or any(_is_same(values, variable.values) for variable in observed.values()):
            continue
        labels = [f"{name}_dim_{number}" for number in range(values.ndim)]
        as_long = [dim for dim in plates if values.ndim and sizes.get(dim) == len(values)]
        if len(as_long) == 1:
            labels[0] = as_long[0]
        # A variable with the name of a dimension would be taken for its coordinates.
        key = f"{name}_" if name in dims or name in sizes else name
        found[key] = Variable(values, tuple(labels))
    return found


def _names(model: Callable[..., Any], count: int) -> list[str]:
    """Names of the first positional parameters; ``argument_0`` and so on where there are none."""
    names = [f"argument_{number}" for number in range(count)]
    try:
        parameters = list(inspect.signature(model).parameters.values())
    except (TypeError, ValueError):
        return names
    for number, parameter in enumerate(parameters[:count]):
        if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            break
        names[number] = parameter.name
    return names


def _as_array(argument: Any) -> np.ndarray | None:
    if isinstance(argument, Tensor):
        return as_numpy(argument)
    if isinstance(argument, (bool, int, float, np.ndarray, np.number)):
        values = np.asarray(argument)
        return values if values.dtype.kind in "biuf" else None
    return None


def _sizes(variable: Variable) -> dict[str, int]:
    return dict(zip(variable.dims, variable.values.shape, strict=True))


def _is_same(left: np.ndarray, right: np.ndarray) -> bool:
    return left.size == right.size and np.array_equal(
        left.ravel(), right.ravel(), equal_nan=left.dtype.kind == "f"
    )
