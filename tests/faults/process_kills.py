"""Processes of the command line that are killed at random moments of their training, and go on."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pyro_dgm.training import checkpoint_files
from tests.faults import digits_run
from tests.faults.outcomes import Outcome, first_difference, look

_PROCESS = """
program: {class_path: pyro_dgm.models.VAE, init_args: {latent_dim: 4, hidden: [32]}}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: dynamic}}
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 3.0e-3}}
training: {epochs: 250, ema: 0.99, early_stopping: 1000, checkpoint_seconds: 0.02, validate_every: 2, device: cpu}
evaluation: {num_particles: 3, num_data: 20}
"""


def kill_processes(folder: Path, outcome: Outcome, *, kills: int, seed: int) -> None:
    """Kills ``pyro-dgm train`` at random moments of its training, and lets it go on."""
    rng = random.Random(seed + 1)
    (folder / "digits.yaml").write_text(_PROCESS)

    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "pyro_dgm.cli", "train", str(folder / "digits.yaml")]
        return subprocess.Popen(
            [*command, "--out", str(out), "--resume"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def finish(out: Path) -> dict[str, Any] | None:
        process = start(out)
        output, _ = process.communicate()
        if process.returncode != 0:
            outcome.faults.append(f"a process ended with {process.returncode}: {output[-300:]!r}")
            return None
        ledger = json.loads((out / "evaluation.json").read_text())
        ending = digits_run.ending(out)
        return {**ending, "log_likelihood": ledger["log_likelihood"], "elbo": ledger["elbo"]}

    expected = finish(folder / "process-peace")
    out = folder / "process"
    while outcome.processes < kills:
        before = _newest(out)
        process = start(out)
        while process.poll() is None and _newest(out) == before:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.4))
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            outcome.faults.append(f"a process ended with {process.returncode} before it was killed")
            break
        outcome.processes += 1
        outcome.faults += look(out, set())
    outcome.chains += 1
    found = finish(out)
    if found == expected is not None:
        outcome.identical += 1
    else:
        outcome.faults.append(f"another end of a process: {first_difference(expected, found)}")


def _newest(out: Path) -> str:
    folders = checkpoint_files.saved(out)
    return folders[0].name if folders else ""
