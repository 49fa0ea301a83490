"""A place with a tiny config and data, and what the command line must do there with a fault."""

from __future__ import annotations

import pickle
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_dgm.cli import main
from tests.faults.saved_runs import train

TINY = """
program: {class_path: pyro_dgm.models.VAE, init_args: {latent_dim: 2, hidden: [8]}}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Arrays, init_args: {train: binary.npy}}
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1e-3}}
training: {steps: 3, batch_size: 8}
evaluation: {num_particles: 3, num_data: 4}
"""
BINARY = np.random.default_rng(0).integers(0, 2, size=(40, 1, 8, 8)).astype(np.float32)
REAL = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)

_LINE = re.compile(
    r"error: (?P<what>.+?) in (?P<where>.+?)"
    r"(?:: (?P<value>.+?))?(?:; expected (?P<expected>.+?))?(?:; try (?P<cure>.+))?"
)


@dataclass(frozen=True)
class Outcome:
    """What a call left: exit code, both streams, and the names that were not there before."""

    code: int
    out: str
    err: str
    new: frozenset[str]

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("warning: ")]


def fault_of(
    outcome: Outcome,
    *,
    code: int = 2,
    parts: Sequence[str] = ("value", "expected", "cure"),
    new: Sequence[str] = (),
) -> dict[str, str]:
    """Parts of the one line that a fault must be, after everything that holds for all faults is checked.

    Args:
        outcome: of the call.
        code: the exit code it must have.
        parts: what the line must have beside what and where.
        new: the names that may be left behind.
    """
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.out + outcome.err
    assert outcome.out == "" and outcome.new == set(new), outcome
    errors = [line for line in outcome.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and outcome.err.endswith(f"{errors[0]}\n"), outcome.err
    match = _LINE.fullmatch(errors[0])
    assert match is not None, errors[0]
    found = {name: text for name, text in match.groupdict().items() if text is not None}
    assert found.keys() >= {*parts}, errors[0]
    return found


@dataclass(frozen=True)
class Place:
    """A folder with a config, data and programs; ``run`` is the name of the next run."""

    folder: Path
    capsys: pytest.CaptureFixture[str]

    def path(self, name: str) -> Path:
        return self.folder / name

    def data(self, array: np.ndarray, name: str = "x.npy") -> str:
        """The override that puts an array in place of the training data."""
        np.save(self.path(name), array)
        return f"--data.init_args.train={self.path(name)}"

    def call(self, *argv: str | Path) -> Outcome:
        before = {path.name for path in self.folder.iterdir()}
        self.capsys.readouterr()
        code = main([str(argument) for argument in argv])
        out, err = self.capsys.readouterr()
        after = {path.name for path in self.folder.iterdir()} - {"__pycache__"}
        return Outcome(code, out, err, frozenset(after - before))

    def train(self, *changes: str, run: str = "run", config: str = "tiny.yaml") -> Outcome:
        return self.call("train", self.path(config), "--out", self.path(run), *changes)

    def program(self, name: str) -> tuple[str, str]:
        """The overrides for a program of the user's own, on real-valued data."""
        return f"--program.class_path=programs_with_faults.{name}", self.data(REAL)


@pytest.fixture
def place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    np.save(tmp_path / "binary.npy", BINARY)
    (tmp_path / "tiny.yaml").write_text(TINY.replace("binary.npy", str(tmp_path / "binary.npy")))
    shutil.copy(Path(__file__).with_name("programs.py"), tmp_path / "programs_with_faults.py")
    return Place(tmp_path, capsys)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("original") / "run"
    torch.manual_seed(0)
    train(out)
    return out


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches for a pickle fails, whether its code would have run or not."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle was read")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
