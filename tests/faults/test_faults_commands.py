"""Faults of checkpoints and disks as the command line tells them, by the rows 19 to 26 and 30: one line, its code."""

from __future__ import annotations

import errno
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_dgm.experiment.run import read_run_config, write_config
from pyro_dgm.training import checkpoint_files
from pyro_dgm.training.checkpoint_files import STATE, TENSORS
from pyro_dgm.training.loop import Loop
from pyro_dgm.training.manifest import MANIFEST
from tests.faults.conftest import Place, fault_of
from tests.faults.filesystem import Disk, Tap
from tests.faults.saved_runs import newest, vouch

TIMES = {"training_seconds", "evaluation_seconds"}


def truncated(run: Path) -> None:
    os.truncate(newest(run) / TENSORS, 100)


def flipped(run: Path) -> None:
    content = bytearray((newest(run) / TENSORS).read_bytes())
    content[-1] ^= 1
    (newest(run) / TENSORS).write_bytes(content)


def pickled(run: Path) -> None:
    (newest(run) / TENSORS).write_bytes(b"cbuiltins\nexit\n(I99\ntR.")
    vouch(newest(run))


def oversized(run: Path) -> None:
    (newest(run) / TENSORS).write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    vouch(newest(run))


def newer(run: Path) -> None:
    manifest = json.loads((newest(run) / MANIFEST).read_bytes()) | {"format": 77}
    (newest(run) / MANIFEST).write_text(json.dumps(manifest))


DAMAGE: dict[Callable[[Path], None], str] = {
    truncated: f"{TENSORS}: 100 bytes; expected ",
    flipped: f"{TENSORS}: sha256 ",
    pickled: "damaged checkpoint in ",
    oversized: "checkpoint in ",
    newer: ": 77; expected at most 2; try a newer pyro_dgm",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_rows_19_to_25_no_command_uses_a_bad_checkpoint(place: Place, damage: Callable[[Path], None]) -> None:
    run = place.path("run")
    assert place.train("--training.steps=6").code == 0  # four steps are an epoch: two checkpoints
    assert len(checkpoint_files.saved(run)) == 2
    damage(run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for command in (["evaluate"], ["sample", "--out", place.path("x.npy")], ["diagnose"]):
        outcome = place.call(command[0], run, *command[1:])
        fault_of(outcome, code=3, parts=[])
        assert DAMAGE[damage] in outcome.err, command
        assert {path: path.read_bytes() for path in before} == before
        assert len(before) == len([path for path in run.rglob("*") if path.is_file()])


@pytest.mark.filterwarnings("always::UserWarning")
@pytest.mark.parametrize("damage", [truncated, oversized], ids=lambda damage: damage.__name__)
def test_rows_19_to_25_training_goes_on_from_the_last_good_checkpoint_and_says_so(
    place: Place, damage: Callable[[Path], None]
) -> None:
    run, resume = place.path("run"), ("--training.steps=6", "--resume")
    assert place.train("--training.steps=6").code == 0
    expected = (newest(run) / TENSORS).read_bytes()
    damage(run)
    outcome = place.train(*resume)
    assert outcome.code == 0 and len(outcome.warnings) == 1
    assert DAMAGE[damage] in outcome.warnings[0]
    assert outcome.warnings[0].endswith("; step-00000006 is left out")
    assert (newest(run) / TENSORS).read_bytes() == expected
    for folder in checkpoint_files.saved(run):
        (folder / STATE).write_text("{}")
    before = (run / "metrics.jsonl").read_bytes()
    outcome = place.train(*resume)
    fault = fault_of(outcome, code=3, parts=["cure"])
    assert fault["what"] == "no good checkpoint left" and len(outcome.warnings) == 2
    assert (run / "metrics.jsonl").read_bytes() == before


def test_rows_23_and_24_no_command_uses_the_weights_of_another_config(place: Place) -> None:
    run = place.path("run")
    assert place.train().code == 0
    config = read_run_config(run)
    config["program"]["init_args"]["latent_dim"] = 3
    write_config(run, config)
    for command in (["evaluate"], ["sample", "--out", place.path("x.npy")], ["diagnose"]):
        outcome = place.call(command[0], run, *command[1:])
        assert (outcome.code, outcome.out, outcome.new) == (3, "", frozenset())
        assert outcome.err.startswith("error: state of another program in ")
        assert outcome.err.count("\n") == 1
        assert (
            "decoder.layers.0.weight has shape (8, 2) instead of (8, 3); posterior.head.bias" in outcome.err
        )


def numbers(run: Path) -> dict[str, Any]:
    ledger = json.loads((run / "evaluation.json").read_text())
    return {name: value for name, value in ledger.items() if name not in TIMES}


@pytest.mark.filterwarnings("always::UserWarning")  # of a run that has no posterior.nc for it
@pytest.mark.parametrize("every", [31, pytest.param(1, marks=pytest.mark.slow)])
def test_row_26_a_disk_that_is_full_at_any_time_is_code_5_and_the_run_can_go_on(
    place: Place, every: int
) -> None:
    whole, disk = place.path("whole"), Disk(-1)
    with Tap(whole, disk):
        assert place.train(run="whole").code == 0
    names = {path.relative_to(whole) for path in whole.rglob("*") if path.is_file()}
    failed = 0
    for nth in range(0, len(disk.calls), every):
        run = place.path(f"{nth}")
        with Tap(run, Disk(nth, number=errno.ENOSPC, stays=True)):
            outcome = place.train(run=f"{nth}")
        if outcome.code:
            failed += 1
            assert outcome.code == 5 and outcome.out == "" and "Traceback" not in outcome.err
            error = outcome.err.splitlines()[-1]
            assert error.startswith("error: ") and outcome.err.count("error:") == 1
            assert os.strerror(errno.ENOSPC) in error and f"{run}" in error
            assert outcome.new <= {f"{nth}"}
        # What is there under a name is whole: the same command makes the rest.
        assert place.train("--resume", run=f"{nth}").code == 0
        assert {path.relative_to(run) for path in run.rglob("*") if path.is_file()} == names
        assert numbers(run) == numbers(whole)
    assert failed >= 0.9 * len(range(0, len(disk.calls), every))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_30_a_second_signal_ends_the_command_within_the_step(
    place: Place, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, begun = Loop._step, []

    def signalled(self: Loop, *args: Any) -> Any:
        begun.append(self.count + 1)
        if self.count + 1 == 6:
            os.kill(os.getpid(), number)
            begun.append(0)  # the first one lets the step go on
            os.kill(os.getpid(), number)
        return original(self, *args)

    steps = "--training.steps=9"
    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", signalled)
        outcome = place.train(steps)
    fault = outcome.err.splitlines()[-1]
    assert outcome.code == 128 + number and "Traceback" not in outcome.err and outcome.out == ""
    assert fault.startswith("error: ") and fault.endswith("try the same command with --resume")
    assert begun == [1, 2, 3, 4, 5, 6, 0]
    assert [path.name for path in checkpoint_files.saved(place.path("run"))] == ["step-00000004"]
    assert place.train(steps, "--resume").code == place.train(steps, run="whole").code == 0
    assert numbers(place.path("run")) == numbers(place.path("whole"))
