"""Folders that cannot be written and devices that lack, by the rows 27, 33 and 34 of the table of faults."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.experiment import memory
from pyro_dgm.training import Callback, checkpoint_files
from tests.faults.conftest import Place, fault_of
from tests.faults.filesystem import Disk, Tap
from tests.faults.saved_runs import go_on


def test_row_27_a_folder_that_cannot_be_made_is_said_before_the_first_step(place: Place) -> None:
    place.path("file").write_text("")
    fault = fault_of(place.train(run="file/run"), code=5, parts=["value", "cure"])
    assert fault["where"] == "--out" and "Not a directory" in fault["value"]
    with pytest.raises(ResourceError, match="folder that cannot be written in out: .*Not a directory"):
        go_on(place.path("file") / "run", callbacks=[Fails()])


class Fails(Callback):
    def on_start(self, state: Any) -> None:
        raise AssertionError("training began")

    def on_epoch(self, state: Any) -> None: ...


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_row_27_a_read_only_folder_is_said_before_the_first_step(place: Place, number: int) -> None:
    class ReadOnly(Disk):
        def __call__(self, call: str, half: Callable[[], None]) -> None:
            raise OSError(self.number, os.strerror(self.number))

    out = place.path("run")
    with Tap(out, ReadOnly(0, number=number)):
        fault = fault_of(place.train(), code=5, parts=["value", "cure"])
        assert fault["where"] in ("out", "--out") and os.strerror(number) in fault["value"]
        with pytest.raises(ResourceError, match="cannot be written"):
            go_on(out, callbacks=[Fails()])


class Vanishes(Callback):
    """Removes the folder of the run from under it, or puts a file there."""

    def __init__(self, out: Path, *, file: bool) -> None:
        self.out, self.file = out, file

    def on_epoch(self, state: Any) -> None:
        if len(state.history.rows) == 2:
            shutil.rmtree(self.out)
            if self.file:
                self.out.write_text("")


@pytest.mark.parametrize("file", [True, False])
@pytest.mark.parametrize("seconds", [0.0, 1000.0])
def test_row_27_a_folder_that_vanishes_in_training_is_said(
    tmp_path: Path, file: bool, seconds: float
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ResourceError) as caught:
        go_on(out, epochs=5, checkpoint_seconds=seconds, callbacks=[Vanishes(out, file=file)])
    assert caught.value.exit_code == 5 and str(out) in str(caught.value)
    assert out.is_file() if file else not out.exists()  # and not half of one made again


def test_row_33_lack_of_device_memory_names_the_batch_and_keeps_the_checkpoint(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyro_dgm.training.steps import Players

    original = Players.step

    def lacking(self: Players, *batch: Any) -> Any:
        if self.count == 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, *batch)

    monkeypatch.setattr(Players, "step", lacking)
    fault = fault_of(place.train("--training.steps=12"), code=5, parts=["value", "cure"], new=["run"])
    assert fault["where"] == "step 8" and fault["value"] == "batches of 8"
    assert "batch_size=4" in fault["cure"]
    run = place.path("run")
    folders = checkpoint_files.saved(run)
    assert folders
    for folder in folders:
        checkpoint_files.read(folder)
    monkeypatch.undo()
    assert place.train("--training.steps=12", "--resume").code == 0
    assert checkpoint_files.saved(run)[0].name == "step-00000012"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000 bytes."),
    ],
    ids=["cuda", "cpu"],
)
def test_row_33_lack_of_memory_before_training_is_no_fault_of_the_config(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def lacking(*args: Any) -> Any:
        raise error

    monkeypatch.setattr("pyro_dgm.objectives.ELBO.forward", lacking)
    outcome = place.train()
    assert (outcome.code, outcome.out, outcome.new) == (5, "", frozenset())
    assert outcome.err == "error: out of memory; try a smaller batch_size, num_particles or model\n"


def test_row_33_a_step_whose_tensors_together_take_all_memory_is_refused_in_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single one is asked for at once: what the particles leave for the gradient adds up, to gigabytes."""
    monkeypatch.setattr(memory, "available", lambda: 2**26)
    monkeypatch.setattr(memory, "_ROOM", 2**26)
    assert place.train("--objective.num_particles=20", "--training.steps=1", "--dry-run").code == 0
    fault = fault_of(place.train("--objective.num_particles=300000"), code=5)
    assert fault["what"] == "not enough memory" and fault["where"] == "the program and its first step"
    assert "fewer particles" in fault["cure"]
    assert not place.path("run").exists()


@pytest.mark.parametrize(("share", "refused"), [(0.7, False), (0.9, True)])
def test_row_33_growth_is_refused_before_all_that_was_free_is_taken(
    monkeypatch: pytest.MonkeyPatch, share: float, refused: bool
) -> None:
    """At all of it the system has ended the process: there would be nobody to refuse."""
    resident = iter([0, share * 2**33])
    monkeypatch.setattr(memory, "available", lambda: 2**33)
    monkeypatch.setattr(memory, "_resident", lambda: next(resident))
    said = pytest.raises(ResourceError, match="not enough memory") if refused else contextlib.nullcontext()
    with said, memory.bounded():
        torch.ones(2**23).mul(2).mul(2)  # 32 MiB a result
    assert next(resident, None) is None  # it was looked at


def test_row_34_cuda_asked_and_absent(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    fault = fault_of(place.train("--training.device=cuda"))
    assert "no CUDA device" in fault["what"] and fault["where"] == "training.device"
    assert "cpu" in fault["cure"]
    with pytest.raises(InvalidInput, match="no CUDA device here in device: 'cuda'"):
        go_on(place.path("run"), device="cuda")
    assert not place.path("run").exists()
