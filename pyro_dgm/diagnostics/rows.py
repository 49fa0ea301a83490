"""Batches cut into their data, where each datum has weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import Site, sample_sites
from pyro_dgm.objectives.traces import Given, Layout, run_pair
from pyro_dgm.objectives.weights import batch_plate, log_weights, weigh


def require_data(batch: tuple[Any, ...]) -> None:
    """Raises InvalidInput for a batch without data."""
    if any(isinstance(field, Tensor) and 0 in field.shape for field in batch):
        raise InvalidInput("no data", where="batch", expected="at least one datum")


def num_rows(batch: tuple[Any, ...]) -> int | None:
    """Length that all tensors of a batch have; None where there is none, or an array that is no tensor."""
    lengths = {len(field) for field in batch if isinstance(field, Tensor) and field.dim()}
    if len(lengths) != 1 or any(isinstance(field, np.ndarray | list | dict) for field in batch):
        return None
    return lengths.pop()


def take_rows(batch: tuple[Any, ...], rows: Any) -> tuple[Any, ...]:
    """Some data of a batch; numbers and other arguments stay as they are.

    Args:
        batch: positional arguments of a model.
        rows: a slice, or a tensor of indices.
    """

    def of(field: Any) -> Any:
        if not isinstance(field, Tensor) or not field.dim():
            return field
        return field[rows.to(field.device) if isinstance(rows, Tensor) else rows]

    return tuple(map(of, batch))


@torch.no_grad()
def can_cut(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], layout: Layout
) -> bool:
    """Whether the data of a batch may be taken apart: some of them alone have the weights that they have among all.

    That fails for a guide with parameters for each datum, for data that the functions hold themselves, for a tensor
    that is as long as the data and belongs to none of them, and for latents that all data share.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        layout: of the pair.
    """
    size = num_rows(batch)
    if size is None or size < 2:
        return False
    single = Layout(layout.max_plate_nesting, False, layout.has_latents)
    try:
        with as_found():
            runs = run_pair(model, guide, batch, 1, single)
            plate = batch_plate(runs[0][0])
            if plate.size != size:
                return False
            whole = weigh(runs, single, num_particles=1)[0]
            for rows in (torch.tensor([size - 1]), torch.tensor([0, size - 1])):
                values = {
                    name: _rows_of(site, plate, rows) for name, site in sample_sites(runs[0][1]).items()
                }
                with Given(values):
                    part = weigh(
                        run_pair(model, guide, take_rows(batch, rows), 1, single), single, num_particles=1
                    )
                there = whole[rows.to(whole.device)]
                if part[0].shape != there.shape or not torch.allclose(
                    part[0], there, 1e-3, 1e-3, equal_nan=True
                ):
                    return False
    except (
        Exception
    ):  # whatever a user's own functions raise where they are given fewer data than they expect
        return False
    return True


def _rows_of(site: Site, plate: Any, rows: Tensor) -> Tensor:
    value: Tensor = site["value"]
    dim = plate.dim - site["fn"].event_dim
    is_inside = any(frame.name == plate.name for frame in site["cond_indep_stack"])
    if not is_inside or value.dim() < -dim or value.shape[dim] != plate.size:
        return value
    return value.index_select(dim, rows.to(value.device))


def is_joint(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], layout: Layout
) -> bool:
    """Whether a pair has weights of the whole data set alone.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        layout: of the pair.

    Raises:
        InvalidInput: a plate of another length than the batch, or no weights at all.
        IncompatibleModel: the model is implicit or unnormalised.
    """
    try:
        log_w = log_weights(model, guide, *batch, layout=layout)
    except InvalidInput:
        log_weights(model, guide, *batch, layout=layout, joint=True)
        return True
    if (size := num_rows(batch)) is not None and log_w.shape[1] != size:
        raise InvalidInput(
            "no weight for each datum",
            where="the plate of the data",
            value=f"{log_w.shape[1]} weights for {size} data",
            expected="a plate that is as long as the batch it is called with, without subsampling",
        )
    return False
