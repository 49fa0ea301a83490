"""Callbacks: a user's own code between epochs."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.training.metrics import History


@dataclass
class TrainingState:
    """What a callback sees, and the one thing it may ask for.

    Args:
        program: the program in training; None where ``fit`` drives a step of the user's own.
        objective: its objective, or None.
        history: rows so far; the last one is the epoch that just ended.
        stop: set it to True to end training after this epoch.
    """

    program: nn.Module | None
    objective: Any
    history: History
    stop: bool = False

    @property
    def row(self) -> dict[str, Any]:
        """Row of the epoch that just ended."""
        return self.history.rows[-1]


class Callback(ABC):
    """Hooks of ``fit``; :meth:`on_epoch` is the one that must be written.

    Example:
        >>> class StopBelow(Callback):
        ...     def __init__(self, loss):
        ...         self.loss = loss
        ...     def on_epoch(self, state):
        ...         state.stop = state.row["loss"] < self.loss
    """

    def on_start(self, state: TrainingState) -> None:  # noqa: B027
        """Before the first step; there is no row yet, unless a run is resumed."""

    @abstractmethod
    def on_epoch(self, state: TrainingState) -> None:
        """After each epoch and its validation."""

    def on_end(self, state: TrainingState) -> None:  # noqa: B027
        """After the last epoch, with the final weights in place; also when training fails."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of the callback: plain data and tensors; nothing by default."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Takes up what :meth:`state_dict` gave, when a run is resumed, before :meth:`on_start`."""


class TensorBoard(Callback):
    """Rows of the history as TensorBoard scalars, against the step.

    Args:
        folder: where the event files go.

    Raises:
        InvalidInput: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InvalidInput(
                "tensorboard is not installed",
                where="TensorBoard",
                cure="pip install 'pyro-dgm[tensorboard]'",
            ) from error
        self._make: Callable[..., Any] = functools.partial(SummaryWriter, str(folder))
        self._writer: Any = None

    def on_start(self, state: TrainingState) -> None:
        # Points after the checkpoint that a run goes on from are drawn again.
        purged = state.row["step"] + 1 if state.history.rows else None
        self._writer = self._make(purge_step=purged)

    def on_epoch(self, state: TrainingState) -> None:
        for name, value in state.row.items():
            if value is not None and name != "step":
                self._writer.add_scalar(name, value, state.row["step"])

    def on_end(self, state: TrainingState) -> None:
        if self._writer is not None:
            self._writer.close()
