"""Runs of ``fit`` for test_training_distributed: by two processes together, or by one."""

from __future__ import annotations

import os
import signal
import time

import torch

from pyro_dgm.errors import Interrupted, InvalidInput
from pyro_dgm.objectives import ELBO, Player
from pyro_dgm.training import Callback, Players, checkpoint_files, fit
from pyro_dgm.training.run_folder import RunFolder
from tests.training.stand_ins import Autoencoder, Noisy, Parts, Rows, rows


def given_noise(program, data):
    """A run without noise of its own: batches of 7, which two processes cannot halve, and all that fit offers."""
    history = fit(
        program,
        ELBO(),
        Parts(Rows(*data(40)), Rows(*data(12))),
        epochs=12,
        batch_size=7,
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
        scheduler=lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        clip_norm=1.0,
        ema=0.9,
        early_stopping=3,
        precision="float64",
        progress=False,
    )
    kept = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
    return {"rows": kept, "weights": [p.flatten().tolist() for p in program.parameters()]}


class Told(Callback):
    """Counts its calls and asks to stop after an epoch."""

    def __init__(self, stop_after):
        self.calls, self.stop_after = 0, stop_after

    def on_epoch(self, state):
        self.calls += 1
        state.stop = state.row["epoch"] == self.stop_after


class Interrupting:
    """An objective in one of whose calls a signal comes, to one process."""

    def __init__(self, at, rank):
        self.at, self.mine, self.calls, self.elbo = at, rank == os.environ.get("RANK", "0"), 0, ELBO()

    def __call__(self, model, guide, *batch):
        self.calls += 1
        if self.calls == self.at and self.mine:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.elbo(model, guide, *batch)


def noisy(folder, *, at=-1, rank="0", resume=False, callbacks=(), seed=3):
    """A run with noise in the data, the network and the guide."""
    torch.manual_seed(seed + int(os.environ.get("RANK", "0")))  # other first weights in each process
    program = Autoencoder(dropout=0.3)
    data = Parts(Noisy(torch.rand(50, 4, generator=torch.Generator().manual_seed(1))), rows(20, seed=2))
    history = fit(
        program,
        Interrupting(at, rank),
        data,
        epochs=10,
        batch_size=8,
        ema=0.9,
        out=folder,
        resume=resume,
        callbacks=callbacks,
        checkpoint_seconds=1000.0,
        progress=False,
    )
    weights = [p.flatten().tolist() for p in program.parameters()]
    return {"weights": weights, "losses": history.column("loss"), "stopped_by": history.stopped_by}


def slowly(save):
    """Saving that takes process 0 longer than the others take to leave."""

    def saved(self, *args, **kwargs):
        if self._processes.is_main:
            time.sleep(0.3)
        return save(self, *args, **kwargs)

    return saved


def resumed(folder):
    """An uninterrupted run, one that a signal to process 1 interrupted, and one that goes on from there."""
    whole = noisy(folder / "whole")
    code = step = None
    RunFolder.save, save = slowly(RunFolder.save), RunFolder.save
    try:
        noisy(folder / "cut", at=17, rank="1")
    except Interrupted as error:
        code = error.exit_code
        step = checkpoint_files.saved(folder / "cut")[0].name
    RunFolder.save = save
    again = noisy(folder / "cut", resume=True, seed=5)
    told = Told(stop_after=4)
    stopped = noisy(folder / "stopped", callbacks=[told])
    return {
        "whole": whole,
        "again": again,
        "code": code,
        "step": step,
        "told": told.calls,
        "stopped_by": stopped["stopped_by"],
        "epochs": len(stopped["losses"]),
    }


def refusals(folder):
    """What is refused in several processes."""
    own_step = Players([Player("w", lambda: None, [torch.zeros(1, requires_grad=True)])])
    texts = []
    for call in (
        lambda: fit(own_step, steps=1, progress=False),
        lambda: fit(Autoencoder(), ELBO(), rows(1), steps=1, batch_size=1, progress=False),
    ):
        try:
            call()
        except InvalidInput as error:
            texts.append(str(error))
    return texts
