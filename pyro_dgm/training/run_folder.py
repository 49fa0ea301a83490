"""What a training run leaves on the disk: rows as they come, and checkpoints from which it can go on."""

from __future__ import annotations

import contextlib
import json
import logging
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError
from pyro_dgm.training.checkpoint import best_of, read_tree, save_checkpoint
from pyro_dgm.training.checkpoint_files import (
    BEST,
    CHECKPOINTS,
    STATE,
    STEP,
    flush,
    folder_name,
    is_ours,
    remove,
    saved,
)
from pyro_dgm.training.lock import FolderLock
from pyro_dgm.training.manifest import NEWER, damaged
from pyro_dgm.training.metrics import MetricsFile
from pyro_dgm.training.processes import OneProcess, Processes
from pyro_dgm.training.validation import BestWeights

METRICS = "metrics.jsonl"
_KEPT = 2  # checkpoints; should the newest one be damaged, there is one before it
_SHARE = 20  # a save may take a twentieth of the time

logger = logging.getLogger(__name__)


class RunFolder:
    """``metrics.jsonl`` and ``checkpoints/`` in one folder, which one process at a time holds.

    ``checkpoints/step-N`` is the whole of training after N steps; the two newest are kept, and ``best-M``, the best
    validated weights that they speak of. A step of the user's own, whose state is its own affair, leaves metrics only.

    Args:
        out: the folder; made if need be.
        seconds: least time between two checkpoints within an epoch or at its end; 0 saves after each step. A
            checkpoint that takes long to write is written more rarely.
        resume: whether the folder may hold a run, which then goes on.
        processes: those that train together; all but the first one only read.

    Raises:
        InvalidInput: on entering; the folder holds a run and ``resume`` is not set.
        IntegrityError: on entering; there are checkpoints and none of them is good.
        ResourceError: on entering; the folder cannot be written, or another process holds it.
    """

    def __init__(
        self,
        out: str | Path,
        *,
        seconds: float,
        resume: bool,
        processes: Processes = OneProcess(torch.device("cpu")),  # noqa: B008  # immutable
    ) -> None:
        self.out = Path(out)
        self.tree: dict[str, Any] | None = None  # of the checkpoint to go on from
        self._resume = resume
        self._processes = processes
        self._seconds = seconds
        self._stack = contextlib.ExitStack()
        self._metrics = MetricsFile(self.out / METRICS)
        self._next = 0.0
        self._best: dict[str, Any] = {"folder": None, "loss": None}

    def __enter__(self) -> RunFolder:
        if self._processes.is_main:
            self._open()
        step = -1.0 if self.tree is None else self.tree["loop"]["count"]
        step = self._processes.broadcast(step)
        if not self._processes.is_main and step >= 0:
            self.tree = self._read(self.out / CHECKPOINTS / folder_name(STEP, int(step)))
        self._next = time.monotonic() + self._seconds
        return self

    def _open(self) -> None:
        try:
            (self.out / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            self._metrics.path.open("a").close()
            for folder in (self.out, self.out.parent):
                flush(folder)
        except OSError as error:
            raise ResourceError(
                "folder that cannot be written",
                where="out",
                value=f"{self.out} ({error.strerror})",
                cure="another folder",
            ) from error
        with contextlib.ExitStack() as stack:
            stack.enter_context(FolderLock(self.out))
            folders = saved(self.out)
            if (self._metrics.path.stat().st_size or folders) and not self._resume:
                raise InvalidInput(
                    "output exists",
                    where="out",
                    value=self.out,
                    expected="a folder without a run",
                    cure="resume=True, or another folder",
                )
            self.tree = self._newest(folders)
            self._stack = stack.pop_all()

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _newest(self, folders: list[Path]) -> dict[str, Any] | None:
        """Newest good checkpoint."""
        fault = None
        for folder in folders:
            try:
                return self._read(folder)
            except (IntegrityError, InvalidInput) as error:  # the best weights may be gone
                if error.what == NEWER:  # to go on from an older one would remove it
                    raise
                warnings.warn(f"{error}; {folder.name} is left out", stacklevel=2)
                fault = error
        if fault is not None:
            raise IntegrityError(
                "no good checkpoint left", where=str(self.out / CHECKPOINTS), cure="a new run"
            ) from fault
        return None

    def _read(self, folder: Path) -> dict[str, Any]:
        """A checkpoint, with the best weights that it speaks of under ``best/states``."""
        tree = _checked(folder, read_tree(folder))
        if tree["best"]["folder"] is not None:
            states = read_tree(folder.with_name(tree["best"]["folder"]))
            tree["best"]["states"] = {part: states[part] for part in states if part != "val_loss"}
        return tree

    def rewind(self) -> list[dict[str, Any]]:
        """Cuts the metrics to what the checkpoint to go on from knew of; returns those rows.

        Raises:
            IntegrityError: the rows are not those that were written.
        """
        known = self._metrics.known
        if self.tree is not None:
            known = self.tree["metrics"]
            self._best = {"folder": self.tree["best"]["folder"], "loss": self.tree["best"]["loss"]}
        return self._metrics.rewind(known, cut=self._processes.is_main)

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends one row to the metrics."""
        if self._processes.is_main:
            self._metrics.add(row)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self._processes.is_main and time.monotonic() >= self._next

    def save(self, parts: Mapping[str, Any], best: BestWeights, *, step: int) -> Path:
        """Saves all of training and, where they are new, the best weights.

        Args:
            parts: see :func:`save_checkpoint`.
            best: the best weights so far.
            step: number of steps done.
        """
        started = time.monotonic()
        checkpoints = self.out / CHECKPOINTS
        folder = checkpoints / folder_name(STEP, step)
        if not self._processes.is_main:
            return folder
        self._metrics.sync()
        if best.states and self._best["loss"] != best.loss:
            name = folder_name(BEST, best.step)
            save_checkpoint(checkpoints / name, {**best.states, "val_loss": best.loss})
            self._best = {"folder": name, "loss": best.loss}
        about_best = {**self._best, "waited": best.waited, "restored": best.wanted}
        save_checkpoint(folder, {**parts, "metrics": self._metrics.known, "best": about_best})
        logger.info("checkpoint at step %d in %s", step, folder)
        self._prune(folder)
        now = time.monotonic()
        self._next = now + (self._seconds and max(self._seconds, _SHARE * (now - started)))
        return folder

    def _prune(self, newest: Path) -> None:
        """Removes what no kept checkpoint needs: older ones, damaged ones, and what a kill left half done."""
        # Those after the newest were found damaged when the run went on from one before them.
        folders = saved(self.out)
        kept = folders[folders.index(newest) :][:_KEPT]
        names = {folder.name for folder in kept} | {_best_of(folder) for folder in kept}
        # Best weights after the checkpoints that speak of them, so that a kill leaves none that lacks its own.
        for folder in sorted(newest.parent.iterdir(), key=lambda path: path.name.startswith(BEST)):
            if folder.name not in names and is_ours(folder.name):
                remove(folder)


def _checked(folder: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """The tree, if what this module needs of it has the right form."""
    best_of(folder, tree)
    known, loop = tree.get("metrics"), tree.get("loop")
    if not (
        isinstance(known, Mapping)
        and type(known.get("bytes")) is int
        and known["bytes"] >= 0
        and isinstance(known.get("sha256"), str)
        and isinstance(loop, Mapping)
        and type(loop.get("count")) is int
        and folder.name == folder_name(STEP, loop["count"])
    ):
        raise damaged(folder, expected="its step, and length and hash of the metrics")
    return tree


def _best_of(folder: Path) -> str | None:
    try:
        name: str | None = json.loads((folder / STATE).read_bytes())["best"]["folder"]
    except (OSError, ValueError, KeyError, TypeError):  # it is damaged, and so of no use
        return None
    return name
