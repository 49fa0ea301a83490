"""Batches of in-memory data, in an order of their own random generator."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.training.processes import OneProcess, Processes

STEPS_WITHOUT_DATA = 100


@runtime_checkable
class Split(Protocol):
    """Part of a data set in memory: ``split.batch(index)`` gives its tensors, ``split[:n]`` a shorter one."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> Split: ...

    def batch(self, index: Tensor) -> tuple[Any, ...]: ...

    def to(self, device: torch.device, dtype: torch.dtype) -> Split: ...


@runtime_checkable
class Dataset(Protocol):
    """Data set with a training and a validation split."""

    @property
    def train(self) -> Any: ...

    @property
    def val(self) -> Any: ...


class Batches:
    """Training batches, epoch after epoch, each epoch in a new order.

    An incomplete last batch is dropped, since its gradient would be noisier than the others and one of a
    single datum breaks batch normalisation; the next epoch's order gives its data another chance. Data fewer
    than a batch make a batch by themselves, with one warning.

    Args:
        split: the data; None for a program that closes over its data: batches are then empty, and 100 make an
            epoch.
        batch_size: number of data in a batch.
        seed: of the order, which no other random draw changes.
        processes: those that train together, each on its own piece of a batch.

    Example:
        >>> for index, batch in Batches(None, batch_size=128, seed=0).epoch():
        ...     break
        >>> index is None, batch
        (True, ())
    """

    def __init__(
        self,
        split: Split | None,
        *,
        batch_size: int,
        seed: int,
        processes: Processes = OneProcess(torch.device("cpu")),  # noqa: B008  # immutable
    ) -> None:
        self.split = split
        self.processes = processes
        self.device = processes.device
        self.batch_size = batch_size
        self._generator = torch.Generator().manual_seed(seed)
        self._order = self._generator.get_state()  # that this epoch's order is drawn from
        self._position = 0  # batches of this epoch that were given out
        if split is not None and len(split) < batch_size:
            warnings.warn(
                f"batches of {len(split)} instead of {batch_size}: there are no more data", stacklevel=3
            )
            self.batch_size = len(split)
        if split is not None:
            processes.check(self.batch_size)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return STEPS_WITHOUT_DATA if self.split is None else len(self.split) // self.batch_size

    def epoch(self) -> Iterator[tuple[Tensor | None, tuple[Any, ...]]]:
        """Pairs of the data's indices and the batch: those of this epoch that were not yet given out."""
        if self.split is None:
            while self._position < STEPS_WITHOUT_DATA:
                self._position += 1
                yield None, ()
            return
        self._generator.set_state(self._order)
        order = torch.randperm(len(self.split), generator=self._generator).to(self.device)
        for index in order.split(self.batch_size)[self._position : len(self)]:
            self._position += 1
            own = self.processes.shard(index)
            yield own, self.split.batch(own)

    @property
    def exhausted(self) -> bool:
        """Whether all batches of this epoch were given out."""
        return self._position >= len(self)

    def end_epoch(self) -> None:
        """The next epoch gets an order of its own."""
        self._order, self._position = self._generator.get_state(), 0

    def state_dict(self) -> dict[str, Any]:
        """Where in the data training is, to the batch."""
        return {"order": self._order, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where :meth:`state_dict` was taken."""
        self._order, self._position = state["order"], state["position"]
        self._generator.set_state(self._order)


def splits_of(data: Any) -> tuple[Split | None, Split | None]:
    """Training and validation split of what was given as data; a split alone has no validation.

    Args:
        data: a data set, a split or None.

    Raises:
        InvalidInput: it is none of these, or there is nothing to train on.
    """
    if data is None:
        return None, None
    train, val = (data.train, data.val) if isinstance(data, Dataset) else (data, None)
    if not isinstance(train, Split):
        raise InvalidInput(
            "not a data set",
            where="data",
            value=type(data).__name__,
            expected="a data set, one of its splits, or None",
            cure="pyro_dgm.data.Arrays for arrays of your own",
        )
    if len(train) == 0:
        raise InvalidInput("no data", where="data", value=0, expected="at least one datum to train on")
    return train, val if val is not None and len(val) else None
