"""A small run with checkpoints, ways to damage it, and a program that must stay as it is when that is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.errors import IntegrityError
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import checkpoint_files, load_weights
from pyro_dgm.training.checkpoint_files import STATE, TENSORS
from pyro_dgm.training.manifest import MANIFEST, manifest_of
from tests.training.stand_ins import Autoencoder, Parts, copy_of, rows, same

FILES = (TENSORS, STATE, MANIFEST)


def train(out: Path, program: Any = None, **options: Any) -> Any:
    """A run that has all that a checkpoint can hold; two checkpoints and the best weights are kept."""
    data = Parts(rows(24, seed=1), rows(8, seed=2))
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "ema": 0.9,
        "early_stopping": 10,
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9),
        "checkpoint_seconds": 0.0,
    }
    program = Autoencoder() if program is None else program
    return fit(program, ELBO(), data, out=out, progress=False, **defaults | options)


def go_on(out: Path, program: Autoencoder | None = None, **options: Any) -> Autoencoder:
    """Begins a run of three steps an epoch, saved after each, or goes on with it; returns its program."""
    torch.manual_seed(0)
    program = Autoencoder(dropout=0.2) if program is None else program
    data = Parts(rows(24, seed=1), rows(8, seed=2))
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 8, "ema": 0.9, "early_stopping": 9}
    defaults["checkpoint_seconds"] = 0.0
    fit(program, ELBO(), data, out=out, progress=False, resume=True, **defaults | options)
    return program


def newest(run: Path) -> Path:
    return checkpoint_files.saved(run)[0]


def vouch(folder: Path) -> None:
    """Gives a checkpoint the manifest of the files that are in it, as anybody can."""
    files = {name: (folder / name).read_bytes() for name in (TENSORS, STATE)}
    (folder / MANIFEST).write_bytes(manifest_of(files))


class Unchanged:
    """Loads into a program that must stay as it is."""

    def __init__(self) -> None:
        self.program = Autoencoder()
        self.before = copy_of(self.program)

    def refuses(self, folder: Path) -> IntegrityError:
        with pytest.raises(IntegrityError) as caught:
            load_weights(self.program, folder)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
        assert str(folder.parent) in str(caught.value)
        assert same(self.before, copy_of(self.program))
        return caught.value
