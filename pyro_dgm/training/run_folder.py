"""What a training run leaves on the disk: rows as they come, and checkpoints."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pyro_dgm.errors import ResourceError
from pyro_dgm.training.best import BestWeights
from pyro_dgm.training.checkpoint import save_checkpoint
from pyro_dgm.training.checkpoint_files import write
from pyro_dgm.training.learner import Learner
from pyro_dgm.training.metrics import as_json
from pyro_dgm.training.steps import Players


class RunFolder:
    """``metrics.jsonl``, ``checkpoints/last`` and ``checkpoints/best`` in one folder.

    A step of the user's own, whose state is its own affair, leaves metrics only.

    Args:
        out: the folder; made if need be.
        seconds: least time between two checkpoints; a small model's epoch takes less than flushing to the
            disk.
        weights: which checkpoint has the weights that the run ends with, ``"last"`` or ``"best"``.

    Raises:
        ResourceError: the folder cannot be written.
    """

    def __init__(self, out: str | Path, *, seconds: float, weights: str) -> None:
        self.out = Path(out)
        self._metrics = self.out / "metrics.jsonl"
        self._seconds = seconds
        self._weights = weights
        self._next = 0.0
        self._saved_loss: float | None = None
        try:
            (self.out / "checkpoints").mkdir(parents=True, exist_ok=True)
            self._metrics.open("a").close()
        except OSError as error:
            raise ResourceError(
                "folder that cannot be written",
                where="out",
                value=f"{out} ({error.strerror})",
                cure="another folder",
            ) from error

    def add(self, row: dict[str, Any]) -> None:
        """Appends one row to the metrics."""
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(as_json(row) + "\n")
        except OSError as error:
            raise ResourceError(
                "metrics not written", where=str(self._metrics), value=error.strerror
            ) from error

    def save(self, learner: Learner, best: BestWeights, row: dict[str, Any], *, now: bool = False) -> None:
        """Saves the state of training and, where they are new, the best weights, if it is time.

        Args:
            learner: whose state it is.
            best: the best weights so far.
            row: row of the epoch that ended.
            now: saves even if it is not time.
        """
        if learner.program is None or (not now and time.monotonic() < self._next):
            return
        if best.states and self._saved_loss != best.loss:
            tensors = {f"{part}/{k}": v for part, state in best.states.items() for k, v in state.items()}
            plain = {"state": {"val_loss": best.loss, "weights": "best"}, "step": None, "ema": None}
            write(self.out / "checkpoints" / "best", tensors, plain)
            self._saved_loss = best.loss
        save_checkpoint(
            self.out / "checkpoints" / "last",
            program=learner.program,
            objective=learner.objective,
            step=learner.step if isinstance(learner.step, Players) else None,
            average=learner.average,
            state={"row": row, "weights": self._weights},
        )
        self._next = time.monotonic() + self._seconds
