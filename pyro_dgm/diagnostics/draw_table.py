"""Values at Pyro sites as arrays with named dimensions, gathered draw by draw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.sites import Site
from pyro_dgm.objectives.traces import PARTICLES

OBSERVED = "observed_data"  # the group that has no draws
_RESERVED = ("chain", "draw")  # arviz's own dimensions


@dataclass(frozen=True)
class Variable:
    """Values with named dimensions.

    Args:
        values: (draws, *dims), or (*dims) where nothing is drawn.
        dims: names of the dimensions, without that of the draws.
    """

    values: np.ndarray
    dims: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What one run of a model has at a site.

    Args:
        value: a tensor that may lack the dimensions of plates on which it does not depend.
        site: the site, whose plates name the dimensions.
        event_dim: number of dimensions at the right that belong to no plate.
    """

    value: Tensor
    site: Site
    event_dim: int


class DrawTable:
    """Arrays for all draws, filled run by run, so that nothing is held twice.

    Dimensions have the names of Pyro's plates (``chain_plate`` and ``draw_plate`` for those named ``chain`` and
    ``draw``); what no plate names is ``{site}_dim_0`` and so on.

    Args:
        num_samples: number of draws.
    """

    def __init__(self, num_samples: int) -> None:
        self.num_samples = num_samples
        self.groups: dict[str, dict[str, Variable]] = {}

    def add(self, found: Mapping[tuple[str, str], Found], start: int) -> int:
        """Puts what a run found, by group and site, into rows from ``start`` on; returns the number of rows.

        Raises:
            InvalidInput: sites, shapes or observed values that differ from those of the first run.
        """
        for _, name in found:
            if name in _RESERVED:
                raise InvalidInput(
                    "a site with the name of a dimension", where=f"site {name!r}", cure="another name"
                )
        if start:
            known = {(group, name) for group, variables in self.groups.items() for name in variables}
            for _, name in sorted(known ^ found.keys()):
                raise changing("a site that is not there in every draw", name)
        count = 0
        for (group, name), one in found.items():
            value, dims = _laid_out(one, name)
            rows, count = as_numpy(value), len(value)
            variables = self.groups.setdefault(group, {})
            if group == OBSERVED:
                first = variables.setdefault(name, Variable(np.array(rows[0]), dims)).values
                if any(not np.array_equal(first, row, equal_nan=True) for row in rows):
                    raise changing("an observed value that changes from run to run", name)
                continue
            if name not in variables:
                variables[name] = Variable(np.empty((self.num_samples, *rows.shape[1:]), rows.dtype), dims)
            if variables[name].values.shape[1:] != rows.shape[1:]:
                raise changing("a shape that changes from draw to draw", name)
            variables[name].values[start : start + count] = rows
        return count

    def size_of_a_draw(self) -> int:
        """Numbers in one draw of all variables, and in the data, of which a model has parameters for each draw."""
        return sum(
            math.prod(variable.values.shape[group != OBSERVED :])
            for group, variables in self.groups.items()
            for variable in variables.values()
        )


def plate_dim(plate: Any) -> str:
    """Name of the dimension of a plate (its frame)."""
    return f"{plate.name}_plate" if plate.name in _RESERVED else plate.name


def as_numpy(value: Tensor) -> np.ndarray:
    """Array of a tensor; half precision, which NumPy or netCDF lacks, becomes single."""
    if value.dtype in (torch.bfloat16, torch.float16):
        value = value.float()
    return value.detach().cpu().numpy()


def changing(what: str, name: str) -> InvalidInput:
    """The error for a site that is not what it was in the run before."""
    return InvalidInput(
        what,
        where=f"site {name!r}",
        expected="the same data and the same sites in every run",
        cure="the whole batch, without subsampling",
    )


def _laid_out(one: Found, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Value as (particles or 1, *plates, *event), with the names of all dimensions but the first."""
    frames = {frame.dim: frame for frame in one.site["cond_indep_stack"] if frame.vectorized}
    plates = [(frame.size,) + (1,) * (-dim - 1) for dim, frame in frames.items() if frame.size > 0]
    split = one.value.dim() - one.event_dim
    batch, event = one.value.shape[:split], one.value.shape[split:]
    batch = torch.broadcast_shapes(batch, one.site["fn"].batch_shape, *plates)
    value = one.value.expand(batch + event)
    names: list[str | None] = []
    sizes, first = [], None
    for position, size in enumerate(batch):
        frame = frames.get(position - len(batch))
        if frame is not None and frame.name == PARTICLES:
            first = position
        elif frame is not None or size > 1:  # else a dimension that the site has for the sake of others
            names.append(None if frame is None else plate_dim(frame))
            sizes.append(size)
    value = value.unsqueeze(0) if first is None else value.movedim(first, 0)
    value = value.reshape(len(value), *sizes, *event)
    names += [None] * one.event_dim
    unnamed = [index for index, given in enumerate(names) if given is None]
    numbers = {index: number for number, index in enumerate(unnamed)}
    return value, tuple(given or f"{name}_dim_{numbers[index]}" for index, given in enumerate(names))
