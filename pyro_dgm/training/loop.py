"""The training loop: batches through a step, epoch after epoch."""

from __future__ import annotations

import contextlib
import math
import signal
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pyro
import torch
from torch import Tensor

from pyro_dgm.errors import Interrupted, NonFiniteError, ResourceError
from pyro_dgm.training.batches import Batches, Split
from pyro_dgm.training.callbacks import Callback, TrainingState
from pyro_dgm.training.interruption import Interruption
from pyro_dgm.training.learner import Learner
from pyro_dgm.training.metrics import ExplosionWatch, History, Means, finite
from pyro_dgm.training.nonfinite import explained
from pyro_dgm.training.processes import Processes
from pyro_dgm.training.progress import Progress, Silent, make_progress
from pyro_dgm.training.resumption import parts_of
from pyro_dgm.training.run_folder import RunFolder
from pyro_dgm.training.validation import BestWeights, validation_loss


@dataclass
class Loop:
    """One run of training. It knows steps and batches, and no family of models.

    Args:
        learner: what is trained.
        batches: training batches.
        val: validation split, or None.
        num_steps: length of the run.
        compile: makes the steps compiled ones, after the first epoch; None for plain steps.
        validate_every: epochs between validations.
        seed: of the noise in validation.
        best: keeper of the best weights.
        callbacks: the user's.
        folder: where the run is written, or None.
        show_progress: whether to show it.
        settings: plain values that a run which goes on must share with its beginning.
        history: rows of the epochs that are done.
        count: number of steps done.
        epoch: number of epochs begun.
        inside: whether the last of them goes on.
        seconds: time that earlier processes took.
        means: of what the steps of this epoch reported.
        watch: for a loss that explodes.
    """

    learner: Learner
    batches: Batches
    val: Split | None
    num_steps: int
    compile: Callable[[], None] | None
    validate_every: int
    seed: int
    best: BestWeights
    callbacks: Sequence[Callback]
    folder: RunFolder | None
    show_progress: bool
    settings: dict[str, Any]
    history: History = field(default_factory=History)
    count: int = 0
    epoch: int = 0
    inside: bool = False
    seconds: float = 0.0
    means: Means = field(default_factory=Means)
    watch: ExplosionWatch = field(default_factory=ExplosionWatch)
    started: float = 0.0
    progress: Progress = field(default_factory=Silent)
    interruption: Interruption = field(default_factory=Interruption)

    def run(self) -> History:
        """Trains, and leaves the final weights in the program, in evaluation mode.

        Raises:
            Interrupted: after a signal, if there is a folder to save in.
            NonFiniteError: a step was refused.
            ResourceError: the device has no memory for a batch.
        """
        state = TrainingState(self.learner.program, self.learner.objective, self.history)
        self.started = time.monotonic()
        self.progress = make_progress(self.num_steps, initial=self.count, show=self.show_progress)
        with contextlib.ExitStack() as stack:
            if self.folder is not None:
                stack.enter_context(self.interruption)
            for callback in self.callbacks:
                stack.callback(callback.on_end, state)
            stack.callback(self.progress.close)
            for callback in self.callbacks:
                callback.on_start(state)
            while not self._over:
                if not self.inside:
                    self.epoch += 1
                    self.inside = True
                # All data pass Pyro's checks of arguments and supports once; they cost a tenth of a VAE's step.
                with contextlib.nullcontext() if self.epoch == 1 else pyro.validation_enabled(False):
                    if self.compile is not None and self.epoch > 1:
                        self.compile()
                    self._train_epoch()
                self._end_epoch(state)
            self._finish()
        if self.interruption.signal:  # it came after the last save, which has everything
            self._leave(self.interruption.signal, "the run was at its end")
        return self.history

    @property
    def processes(self) -> Processes:
        """Those that train together."""
        return self.batches.processes

    @property
    def _agreed(self) -> int:
        """Steps between two agreements of several processes about a save, each of which takes a message."""
        return 1 if self.processes.size == 1 else 10

    @property
    def _over(self) -> bool:
        return self.count >= self.num_steps or self.history.stopped_by != "length"

    def _train_epoch(self) -> None:
        learner, average = self.learner, self.learner.average
        for index, batch in self.batches.epoch():
            losses = self._step(batch, index)
            self.count += 1
            if average is not None:
                average.update()
            self.means.add(losses)
            main = learner.main = learner.main or next(iter(losses))
            if main in losses:
                self.watch.look(losses[main], self.count)
                told = learner.step.reports.get(main, {})
                self.progress.step(self.count, losses[main], elbo=told.get("elbo"))
                self.means.add({f"told {name}": value for name, value in told.items()})
                if main in learner.step.gradient_norms:
                    self.means.add({"gradient norm": learner.step.gradient_norms[main]})
            if self.count == self.num_steps:
                break
            if not self.batches.exhausted:  # else the end of the epoch will
                self._save(now=False)

    def _step(self, batch: tuple[Any, ...], index: Tensor | None) -> dict[str, float]:
        try:
            return self.learner.step.step(*batch)
        except (NonFiniteError, ValueError) as error:
            explanation = explained(error, self.learner, batch, index, step=self.count + 1)
            if explanation is None:
                raise
            raise explanation from error
        except torch.OutOfMemoryError as error:
            raise self._out_of_memory(f"step {self.count + 1}") from error

    def _out_of_memory(self, where: str) -> ResourceError:
        size = self.batches.batch_size
        cure = f"batch_size={max(1, size // 2)}, fewer particles or bfloat16"
        return ResourceError("out of memory", where=where, value=f"batches of {size}", cure=cure)

    def _validate(self) -> float | None:
        last = self.count == self.num_steps
        if self.val is None or (self.epoch % self.validate_every and not last):
            return None
        average, step = self.learner.average, self.learner.step
        with contextlib.nullcontext() if average is None else average.swapped():
            loss = 0.0
            if self.processes.is_main:
                try:
                    loss = validation_loss(
                        step.evaluate_loss,
                        self.val,
                        batch_size=self.batches.batch_size,
                        modules=self.learner.modules.values(),
                        device=self.batches.device,
                        seed=self.seed,
                    )
                except torch.OutOfMemoryError as error:
                    raise self._out_of_memory(f"validation after step {self.count}") from error
            loss = self.processes.broadcast(loss)
            self.best.look(loss, step=self.count)
        if not math.isfinite(loss):
            warnings.warn(f"the validation loss is {loss} after epoch {self.epoch}", stacklevel=2)
        self.progress.validated(loss)
        return loss

    def _row(self, val_loss: float | None) -> dict[str, Any]:
        means = self.means.take()
        norm = means.pop("gradient norm", None)
        told = {name: means.pop(name) for name in list(means) if name.startswith("told ")}
        main = self.learner.main
        optimizer = self.learner.step.optimizers.get(main)
        return finite(
            {
                "step": self.count,
                "epoch": self.epoch,
                "loss": means.get(main),
                **({f"loss_{name}": value for name, value in means.items()} if len(means) > 1 else {}),
                **{name.removeprefix("told "): value for name, value in told.items()},
                "val_loss": val_loss,
                "learning_rate": None if optimizer is None else float(optimizer.param_groups[0]["lr"]),
                "gradient_norm": norm,
                "seconds": round(self.seconds + time.monotonic() - self.started, 3),
            }
        )

    def _end_epoch(self, state: TrainingState) -> None:
        val_loss = self._validate()
        row = self._row(val_loss)
        self.history.rows.append(row)
        self.learner.end_epoch(val_loss)
        self.batches.end_epoch()
        self.inside = False
        if self.folder is not None:
            self.folder.add(row)
        for callback in self.callbacks:
            callback.on_epoch(state)
        if self.processes.any(state.stop):
            self.history.stopped_by = "callback"
        elif self.best.exhausted:
            self.history.stopped_by = "early stopping"
        self._save(now=self.epoch == 1 or self._over)

    def _save(self, *, now: bool) -> None:
        """Between two steps: saves if it is time, and leaves if a signal came."""
        if self.folder is None or not (now or self.count % self._agreed == 0):
            return
        interrupted = self.interruption.signal
        if self.processes.any(interrupted > 0):  # torchrun sends a signal to all, but not at once
            interrupted = interrupted or signal.SIGTERM
        now = self.processes.any(now or self.folder.due)
        kept = "nothing is saved of a step of one's own"
        if self.learner.program is not None and (now or interrupted):
            parts = parts_of(self)
            path = self.folder.save(parts, self.best, step=self.count)
            kept = f"everything is saved in {path}"
        if interrupted:
            # torchrun ends all as soon as one has left, and process 0 may have used up its first signal.
            self.processes.barrier()
            self._leave(interrupted, kept)

    def _leave(self, number: int, kept: str) -> NoReturn:
        name = signal.Signals(number).name
        raise Interrupted(f"interrupted by {name} after step {self.count}; {kept}", signal=number)

    def _finish(self) -> None:
        if self.best.wanted and self.best.states:
            self.best.restore()
        elif self.learner.average is not None:
            self.learner.average.apply()
        for module in self.learner.modules.values():
            module.eval()
