"""The training loop: batches through a step, epoch after epoch."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dgm.errors import NonFiniteError, ResourceError
from pyro_dgm.training.batches import Batches, Split
from pyro_dgm.training.best import BestWeights
from pyro_dgm.training.callbacks import Callback, TrainingState
from pyro_dgm.training.explanation import explained
from pyro_dgm.training.learner import Learner
from pyro_dgm.training.metrics import ExplosionWatch, History, Means
from pyro_dgm.training.progress import Progress
from pyro_dgm.training.run_folder import RunFolder
from pyro_dgm.training.validation import validation_loss


@dataclass
class Loop:
    """One run of training. It knows steps and batches, and no family of models.

    Args:
        learner: what is trained.
        batches: training batches.
        val: validation split, or None.
        num_steps: length of the run.
        validate_every: epochs between validations.
        seed: of the noise in validation.
        best: keeper of the best weights.
        restore_best: whether training ends with them.
        callbacks: the user's.
        folder: where the run is written, or None.
        progress: the bar.
    """

    learner: Learner
    batches: Batches
    val: Split | None
    num_steps: int
    validate_every: int
    seed: int
    best: BestWeights
    restore_best: bool
    callbacks: Sequence[Callback]
    folder: RunFolder | None
    progress: Progress
    count: int = 0
    _means: Means = field(default_factory=Means)
    _watch: ExplosionWatch = field(default_factory=ExplosionWatch)

    def run(self) -> History:
        """Trains, and leaves the final weights in the program, in evaluation mode."""
        state = TrainingState(self.learner.program, self.learner.objective, History())
        started = time.monotonic()
        epoch = 0
        with contextlib.ExitStack() as stack:
            for callback in self.callbacks:
                stack.callback(callback.on_end, state)
            stack.callback(self.progress.close)
            for callback in self.callbacks:
                callback.on_start(state)
            while self.count < self.num_steps and state.history.stopped_by == "length":
                epoch += 1
                # All data pass Pyro's checks of arguments and supports once; they cost a tenth of a VAE's step.
                with contextlib.nullcontext() if epoch == 1 else pyro.validation_enabled(False):
                    self._train_epoch()
                row = self._row(epoch, self._validate(epoch), time.monotonic() - started)
                self._end_epoch(state, row)
            self._finish(state)
        return state.history

    def _train_epoch(self) -> None:
        learner, average = self.learner, self.learner.average
        for index, batch in self.batches.epoch():
            losses = self._step(batch, index)
            self.count += 1
            if average is not None:
                average.update()
            self._means.add(losses)
            main = learner.main = learner.main or next(iter(losses))
            if main in losses:
                self._watch.look(losses[main], self.count)
                self.progress.step(self.count, losses[main])
                if main in learner.step.gradient_norms:
                    self._means.add({"gradient norm": learner.step.gradient_norms[main]})
            if self.count == self.num_steps:
                break

    def _step(self, batch: tuple[Any, ...], index: Tensor | None) -> dict[str, float]:
        try:
            return self.learner.step.step(*batch)
        except (NonFiniteError, ValueError) as error:
            explanation = explained(error, self.learner, batch, index, step=self.count + 1)
            if explanation is None:
                raise
            raise explanation from error
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                "out of memory",
                where=f"step {self.count + 1}",
                value=f"batches of {self.batches.batch_size}",
                cure=f"batch_size={max(1, self.batches.batch_size // 2)}, fewer particles or bfloat16",
            ) from error

    def _validate(self, epoch: int) -> float | None:
        last = self.count == self.num_steps
        if self.val is None or (epoch % self.validate_every and not last):
            return None
        average, step = self.learner.average, self.learner.step
        with contextlib.nullcontext() if average is None else average.swapped():
            loss = validation_loss(
                step.evaluate_loss,
                self.val,
                batch_size=self.batches.batch_size,
                modules=self.learner.modules.values(),
                device=self.batches.device,
                seed=self.seed,
            )
            self.best.look(loss)
        if loss != loss or abs(loss) == float("inf"):
            warnings.warn(f"the validation loss is {loss} after epoch {epoch}", stacklevel=2)
        self.progress.validated(loss)
        return loss

    def _row(self, epoch: int, val_loss: float | None, seconds: float) -> dict[str, Any]:
        means = self._means.take()
        norm = means.pop("gradient norm", None)
        main = self.learner.main
        optimizer = self.learner.step.optimizers.get(main)
        return {
            "step": self.count,
            "epoch": epoch,
            "loss": means.get(main),
            **({f"loss_{name}": value for name, value in means.items()} if len(means) > 1 else {}),
            "val_loss": val_loss,
            "learning_rate": None if optimizer is None else float(optimizer.param_groups[0]["lr"]),
            "gradient_norm": norm,
            "seconds": round(seconds, 3),
        }

    def _end_epoch(self, state: TrainingState, row: dict[str, Any]) -> None:
        state.history.rows.append(row)
        self.learner.end_epoch(row["val_loss"])
        if self.folder is not None:
            self.folder.add(row)
            self.folder.save(self.learner, self.best, row)
        for callback in self.callbacks:
            callback.on_epoch(state)
        if state.stop:
            state.history.stopped_by = "callback"
        elif self.best.exhausted:
            state.history.stopped_by = "early stopping"

    def _finish(self, state: TrainingState) -> None:
        if self.folder is not None:
            self.folder.save(self.learner, self.best, state.row, now=True)
        if self.restore_best and self.best.states:
            self.best.restore()
        elif self.learner.average is not None:
            self.learner.average.apply()
        for module in self.learner.modules.values():
            module.eval()
