"""What needs a process of its own: a closed pipe, a terminal without letters, and how soon --help answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "pyro_dgm.cli"]


def run(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    values = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", "-c", shell], cwd=ROOT, env=values, capture_output=True, check=False, timeout=100
    )


def test_a_reader_that_goes_away_brings_no_traceback() -> None:
    command = " ".join(COMMAND)
    result = run(f"{{ {command} train --help; echo code $? >&2; }} | true")
    assert b"Traceback" not in result.stderr and b"Exception" not in result.stderr
    assert b"code 141" in result.stderr or b"code 0" in result.stderr  # 0 where the pipe took it all


@pytest.mark.parametrize("redirection", ["", ">&- 2>&-"])
def test_an_error_needs_neither_letters_nor_streams(redirection: str) -> None:
    result = run(
        f"{' '.join(COMMAND)} train né.yaml {redirection}", LANG="C", LC_ALL="C", PYTHONIOENCODING="ascii"
    )
    assert result.returncode == 2
    assert b"Traceback" not in result.stderr and result.stdout == b""
    assert "2>" in redirection or result.stderr.startswith(b"error: cannot read the config")


@pytest.mark.slow
def test_two_processes_train_one_run_and_one_of_them_speaks(tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    module = (
        f"{sys.executable} -m torch.distributed.run --standalone --local-addr 127.0.0.1 --nproc-per-node 2"
    )
    command = f"{module} -m pyro_dgm.cli train {tiny} --out {out} --training.device=cpu --json"
    first = run(command)
    assert first.returncode == 0, first.stderr
    printed = json.loads(first.stdout)
    assert printed["run"] == str(out) and (out / "posterior.nc").is_file()
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
    assert run(command).returncode != 0  # the run is there
    again = run(f"{command} --resume --training.steps=20")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["elbo"] != printed["elbo"]
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 20
    # One process cannot go on as two would have.
    alone = run(
        f"{' '.join(COMMAND)} train {tiny} --out {out} --training.device=cpu --training.steps=30 --resume"
    )
    assert alone.returncode == 3 and b"processes: 2 in the run, 1 now" in alone.stderr
