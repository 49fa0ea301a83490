"""Batches cut into their data, where each datum has weights of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.traces import Layout
from pyro_dgm.objectives.weights import log_weights


def has_rows(batch: tuple[Any, ...]) -> bool:
    """Whether a batch can be cut into data: tensors of one length."""
    tensors = all(isinstance(field, Tensor) and field.dim() for field in batch)
    return bool(batch) and tensors and len({len(field) for field in batch}) == 1


def first_rows(batch: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    """The first data of a batch, or all of it where it cannot be cut."""
    return tuple(field[:count] for field in batch) if has_rows(batch) else batch


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
    if has_rows(batch) and log_w.shape[1] != len(batch[0]):
        raise InvalidInput(
            "no weight for each datum",
            where="the plate of the data",
            value=f"{log_w.shape[1]} weights for {len(batch[0])} data",
            expected="a plate that is as long as the batch it is called with, without subsampling",
        )
    return False
