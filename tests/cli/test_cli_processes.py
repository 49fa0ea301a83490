"""A config trained by several processes: one run, one voice, and the numbers of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pyro_dgm import cli
from pyro_dgm.cli import main

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = ["torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
# Without noise in a step, two processes compute what one does.
PROGRAM = """
import pyro
import pyro.distributions as dist
import torch

from pyro_dgm import Program


class LogisticAutoregressive(Program):
    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(data_dim, data_dim))
        self.bias = torch.nn.Parameter(torch.zeros(data_dim))

    def model(self, x):
        pyro.module(self.pyro_name, self)
        flat = x.flatten(1)
        with pyro.plate("data", len(x)):
            logits = flat @ self.weight.tril(-1).T + self.bias
            pyro.sample("x", dist.Bernoulli(logits=logits.view_as(x)).to_event(3), obs=x)

    def guide(self, x):
        pass
"""
CONFIG = """
program: {class_path: own_program.LogisticAutoregressive}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: static}}
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1e-2}}
training: {epochs: 2, batch_size: 65, precision: float64, device: cpu}
evaluation: {num_particles: 2}
"""


def two(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in two processes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, "-m", *TORCHRUN, "-m", "pyro_dgm.cli", *map(str, arguments)]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


def ledger(run: Path) -> dict[str, Any]:
    values = json.loads((run / "evaluation.json").read_text())
    return {name: value for name, value in values.items() if not name.endswith("_seconds")}


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in found]


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


@pytest.mark.filterwarnings("ignore:no posterior")
def test_two_processes_leave_the_ledger_of_one(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(CONFIG)
    (tmp_path / "own_program.py").write_text(PROGRAM)
    assert main(["train", str(config), "--out", str(tmp_path / "one"), "--quiet"]) == 0
    result = two("train", config, "--out", tmp_path / "two", "--quiet")
    assert result.returncode == 0, result.stderr
    one, both = ledger(tmp_path / "one"), ledger(tmp_path / "two")
    assert one["log_likelihood"] > -44  # 64 log 2 at the start: something was learnt
    for name in ("log_likelihood", "standard_error", "bits_per_dim", "elbo", "elbo_standard_error"):
        assert both.pop(name) == pytest.approx(one.pop(name), rel=1e-6)
    assert both == one
    assert len(rows(tmp_path / "one")) == 2
    for ours, theirs in zip(rows(tmp_path / "two"), rows(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.slow
def test_two_processes_train_one_run_and_one_of_them_speaks(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["train", tiny, "--out", out, "--training.device=cpu", "--json"]
    first = two(*command)
    assert first.returncode == 0, first.stderr
    printed = json.loads(first.stdout)
    assert printed["run"] == str(out) and (out / "posterior.nc").is_file()
    assert len(rows(out)) == 1
    again = two(*command, "--resume", "--training.steps=20")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["elbo"] != printed["elbo"]
    assert rows(out)[-1]["step"] == 20
    assert len(json.loads(two("train", tiny, "--dry-run", "--json").stdout)) > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ([], "output exists"),
        (["--resume", "--training.seed=3"], "training.seed: 0 in the run, 3 now"),
        (["--resume", "--training.sed=3"], "unknown key"),
    ],
)
def test_what_two_processes_cannot_do_is_said_once_and_at_once(
    changes: list[str], message: str, tiny: Path, trained: Path
) -> None:
    start = time.monotonic()
    result = two("train", tiny, "--out", trained, "--training.device=cpu", *changes)
    assert result.returncode != 0 and result.stdout == ""
    lines = errors(result.stderr)
    assert len(lines) == 1 and message in lines[0]
    assert time.monotonic() - start < 25  # torchrun gives a process that does not listen 30 s


def test_another_process_than_the_first_obeys_sigterm_and_speaks_of_its_own_faults_alone(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = []

    def train(*args: object, **kwargs: object) -> None:
        handlers.append(signal.getsignal(signal.SIGTERM))
        raise OSError(28, "No space left on device", "x")

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("pyro_dgm.experiment.training.train", train)
    monkeypatch.setattr(cli, "_PATIENCE", 0.0)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert main(["train", str(tiny), "--out", str(tmp_path / "run")]) == 5
    assert handlers[1] == signal.SIG_DFL != handlers[0]
    fault = "No space left on device in x"
    assert errors(capsys.readouterr().err) == [f"error: {fault}", f"error: in process 1: {fault}"]


@pytest.mark.slow
def test_one_process_cannot_go_on_as_two_would_have(tiny: Path, tmp_path: Path) -> None:
    command = ["train", tiny, "--out", tmp_path / "run", "--training.device=cpu"]
    assert two(*command).returncode == 0
    arguments = [str(argument) for argument in command]
    assert main([*arguments, "--training.steps=9", "--resume"]) == 3
