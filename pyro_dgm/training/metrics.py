"""What a training run measured: rows, their file, means over an epoch, and the watch for a loss that explodes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_dgm.errors import IntegrityError, ResourceError


@dataclass
class History:
    """Rows of a training run, one an epoch.

    A row has ``step`` (steps done), ``epoch`` (epochs begun), ``loss`` (mean over the epoch, nats per datum;
    with several players the first one's, and ``loss_NAME`` for each), what the objective tells beside it (``elbo``,
    the untouched bound, and ``kl``; means over the epoch), ``val_loss`` (of the objective in evaluation mode; None
    where none was computed, or it was not finite), ``learning_rate`` and ``gradient_norm`` (mean before clipping, per
    datum; both of the first player, None for a step that does not tell), ``seconds`` (since the start).

    Args:
        rows: the rows, in order.
        stopped_by: why training ended: ``"length"``, ``"early stopping"`` or ``"callback"``.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped_by: str = "length"

    @property
    def best(self) -> dict[str, Any]:
        """Row with the lowest validation loss; where there is none, with the lowest training loss."""
        validated = [row for row in self.rows if row["val_loss"] is not None]
        key = "val_loss" if validated else "loss"
        return min((row for row in self.rows if row[key] is not None), key=lambda row: row[key])

    def column(self, name: str) -> list[Any]:
        """One quantity over the epochs.

        Args:
            name: key of the rows; None where a row lacks it.
        """
        return [row.get(name) for row in self.rows]


def finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row whose numbers JSON knows: others become None, in memory too, so that a run that goes on has the same.

    Example:
        >>> finite({"step": 3, "val_loss": float("inf")})
        {'step': 3, 'val_loss': None}
    """
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


class Means:
    """Running means of what the steps of an epoch report."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts since the last :meth:`take`."""
        return {"sums": self._sums, "counts": self._counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {name: float(total) for name, total in state["sums"].items()}
        self._counts = {name: max(int(state["counts"][name]), 1) for name in self._sums}

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


class ExplosionWatch:
    """One warning when a finite loss leaves the range it began in.

    A loss counts as exploding when it exceeds the lowest one so far by ``factor`` (1 + |first loss|).

    Args:
        factor: how far; 100 is far beyond the noise of a batch.
    """

    def __init__(self, factor: float = 100.0) -> None:
        self.factor = factor
        self._lowest = math.inf
        self._limit = math.inf
        self._margin: float | None = None

    def look(self, loss: float, step: int) -> None:
        """Takes one loss per datum, of step number `step`."""
        if loss > self._limit:
            warnings.warn(
                f"the loss explodes: {loss:.4g} per datum at step {step}, after {self._lowest:.4g}; try "
                "a lower learning rate or clip_norm; max_loss stops such a run",
                stacklevel=4,
            )
            self._limit = math.inf
            self._lowest = -math.inf  # said once
        elif loss < self._lowest:
            if self._margin is None:
                self._margin = self.factor * (1.0 + abs(loss))
            self._lowest = loss
            self._limit = loss + self._margin

    def state_dict(self) -> dict[str, Any]:
        """What it has seen."""
        return {"lowest": self._lowest, "limit": self._limit, "margin": self._margin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._lowest, self._limit, self._margin = state["lowest"], state["limit"], state["margin"]


class MetricsFile:
    """Rows on the disk, one a line, cut back to what a checkpoint knew of them when a run goes on.

    Args:
        path: of the file, which exists when it is first used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._bytes, self._hash = 0, hashlib.sha256()

    @property
    def known(self) -> dict[str, Any]:
        """Length and hash of what was written so far, for a checkpoint."""
        return {"bytes": self._bytes, "sha256": self._hash.hexdigest()}

    def rewind(self, known: Mapping[str, Any], *, cut: bool) -> list[dict[str, Any]]:
        """The rows that a checkpoint knew of.

        Args:
            known: what :attr:`known` was then.
            cut: whether to remove what came after them.

        Raises:
            IntegrityError: they are not those that were written.
            ResourceError: the file cannot be read or written.
        """
        try:
            content = self.path.read_bytes()[: known["bytes"]]
            self._bytes, self._hash = len(content), hashlib.sha256(content)
            if self.known != known:
                raise IntegrityError(
                    "damaged metrics",
                    where=str(self.path),
                    expected=f"the {known['bytes']} bytes that the checkpoint knows",
                    cure="the file as it was written",
                )
            if cut:
                os.truncate(self.path, self._bytes)
        except OSError as error:
            raise self._unwritten(error) from error
        try:
            return [json.loads(line) for line in content.splitlines()]
        except ValueError as error:
            raise IntegrityError("damaged metrics", where=str(self.path), value=error) from error

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends a row, or nothing.

        Raises:
            ResourceError: the disk is full or cannot be written.
        """
        line = (json.dumps(row, allow_nan=False) + "\n").encode()
        try:
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, self._bytes)
            raise self._unwritten(error) from error
        self._hash.update(line)
        self._bytes += len(line)

    def sync(self) -> None:
        """Brings the rows to the disk before a checkpoint that speaks of them.

        Raises:
            ResourceError: the disk is full or cannot be written.
        """
        try:
            with self.path.open("ab") as file:
                os.fsync(file.fileno())
        except OSError as error:
            raise self._unwritten(error) from error

    def _unwritten(self, error: OSError) -> ResourceError:
        return ResourceError(
            "metrics not written", where=str(self.path), value=error.strerror, cure="a folder with space"
        )
