"""A small run on the digits in which everything that training can hold takes part, and what it must end with."""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from pyro_dgm import fit
from pyro_dgm.data import Digits
from pyro_dgm.models import VAE
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import checkpoint_files, load_weights

EPOCHS = 120  # of eight steps: two seconds
BATCH_SIZE = 128


class Jittered:
    """The ELBO times noise from NumPy and Python, so that their generators count too.

    Args:
        begun: called in each step, but not in validation.
    """

    def __init__(self, begun: Callable[[], None] = lambda: None) -> None:
        self.elbo = ELBO()
        self.begun = begun

    def __call__(self, model: Any, guide: Any, *batch: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            self.begun()
        noise = np.random.rand() + random.gauss(0.0, 1.0) + np.random.randn()  # noqa: NPY002
        loss: torch.Tensor = self.elbo(model, guide, *batch)
        return loss * (1 + 0.01 * noise)


def make_program() -> VAE:
    pyro.set_rng_seed(0)
    return VAE((1, 8, 8), latent_dim=4, hidden=[32])


def warm_up() -> None:
    """Imports all that training imports, so that forked children need not; one thread, which a fork survives."""
    torch.set_num_threads(1)
    data = Digits(binarize="dynamic")
    fit(make_program(), Jittered(), data, steps=1, ema=0.99, device="cpu", progress=False)


def train(out: Path, *, seconds: float, objective: Any = None, epochs: int = EPOCHS) -> dict[str, Any]:
    """Begins the run, or goes on with it; returns its rows and the hash of the weights that it leaves.

    Args:
        out: its folder.
        seconds: least time between two checkpoints.
        objective: in place of a new :class:`Jittered`.
        epochs: its length.
    """
    program = make_program()
    if checkpoint_files.saved(out):  # what goes on must not lean on what a beginning has
        random.seed(os.getpid()), np.random.seed(os.getpid()), torch.manual_seed(os.getpid())  # noqa: NPY002
        for parameter in program.parameters():
            torch.nn.init.normal_(parameter)
    history = fit(
        program,
        objective or Jittered(),
        Digits(binarize="dynamic"),
        epochs=epochs,
        batch_size=BATCH_SIZE,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS),
        ema=0.99,
        early_stopping=1000,
        clip_norm=50.0,
        validate_every=2,
        device="cpu",
        out=out,
        resume=True,
        checkpoint_seconds=seconds,
        progress=False,
    )
    return {"rows": _timeless(history.rows), "weights": _hash(program.state_dict())}


def ending(out: Path) -> dict[str, Any]:
    """What a finished run has on the disk, times left out: its checkpoint, its rows, and samples from it."""
    tensors, plain = checkpoint_files.read(checkpoint_files.saved(out)[0])
    plain["loop"].pop("seconds")
    plain.pop("metrics")  # the length and the hash of rows that have times in them
    best, _ = checkpoint_files.read(out / "checkpoints" / plain["best"]["folder"])
    program = make_program()
    load_weights(program, out)
    pyro.set_rng_seed(1)
    with torch.no_grad():
        samples = program.model(n=16)
    return {
        "tensors": {name: _hash({name: value}) for name, value in sorted(tensors.items())},
        "best": _hash(best),
        "plain": plain,
        "rows": _timeless(rows(out)),
        "weights": _hash(program.state_dict()),
        "samples": _hash({"samples": samples}),
    }


def rows(out: Path) -> list[dict[str, Any]]:
    """Rows of the metrics; a torn last one is left out, any other raises ValueError."""
    lines = (out / "metrics.jsonl").read_bytes().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]


def _timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _hash(tensors: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
