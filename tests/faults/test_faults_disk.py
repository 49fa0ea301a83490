"""Faults of disk, memory and device while training, by the rows 26, 27, 33 and 34 of the table of faults."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import Callback, checkpoint_files, load_checkpoint, load_weights, save_checkpoint
from pyro_dgm.training.run_folder import RunFolder
from tests.faults.conftest import Place, fault_of
from tests.faults.filesystem import Tap
from tests.training.stand_ins import Autoencoder, Location, Parts, copy_of, rows, same

# What needs room on a full disk; files and folders can still be removed.
NEED_ROOM = ("open", "write", "fsync", "mkdir", "rename")


class Disk:
    """Hook for a tap under which calls fail from the n-th on, once or for good."""

    def __init__(self, nth: int, *, number: int = errno.ENOSPC, stays: bool = False) -> None:
        self.nth, self.number, self.stays = nth, number, stays
        self.calls: list[str] = []

    def __call__(self, call: str, half: Callable[[], None]) -> None:
        if call not in NEED_ROOM:
            return
        self.calls.append(call)
        at = len(self.calls) - 1
        if at == self.nth or (self.stays and at > self.nth >= 0):
            half()
            raise OSError(self.number, os.strerror(self.number))


def train(out: Path, program: Autoencoder | None = None, **options: Any) -> Autoencoder:
    torch.manual_seed(0)
    program = Autoencoder(dropout=0.2) if program is None else program
    data = Parts(rows(24, seed=1), rows(8, seed=2))
    defaults: dict[str, Any] = {"epochs": 2, "batch_size": 8, "ema": 0.9, "early_stopping": 9}
    defaults["checkpoint_seconds"] = 0.0
    fit(program, ELBO(), data, out=out, progress=False, resume=True, **defaults | options)
    return program


def identical(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Bit for bit, also where a random state happens to be no number."""
    return left.keys() == right.keys() and all(
        left[name].numpy().tobytes() == right[name].numpy().tobytes() for name in left
    )


def leftovers(out: Path) -> list[str]:
    return [path.name for path in (out / "checkpoints").iterdir() if path.name.startswith(".")]


def count_calls(out: Path, *, epochs: int) -> int:
    disk = Disk(-1)
    with Tap(out, disk):
        train(out, epochs=epochs)
    shutil.rmtree(out)
    return len(disk.calls)


FULL = {
    "full": (errno.ENOSPC, True),
    "full for a moment": (errno.ENOSPC, False),
    "broken": (errno.EIO, True),
    "over quota": (errno.EDQUOT, False),
}


@pytest.mark.parametrize(("kind", "every"), [("full", 1), ("full for a moment", 5), ("broken", 7)])
def test_row_26_a_full_disk_leaves_every_finished_checkpoint(tmp_path: Path, kind: str, every: int) -> None:
    fail_at_each_call(tmp_path, *FULL[kind], every=every, epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FULL)
def test_row_26_a_full_disk_at_each_call_of_a_longer_run(tmp_path: Path, kind: str) -> None:
    fail_at_each_call(tmp_path, *FULL[kind], every=1, epochs=3)


def fail_at_each_call(tmp_path: Path, number: int, stays: bool, *, every: int, epochs: int) -> None:
    """Three steps an epoch, saved after each; the n-th call that needs room fails, for every such n."""
    train(tmp_path / "whole", epochs=epochs)
    expected = checkpoint_files.read(checkpoint_files.saved(tmp_path / "whole")[0])[0]
    total, failed = count_calls(tmp_path / "run", epochs=epochs), 0
    assert total > 50 * epochs
    for nth in range(0, total, every):
        out = tmp_path / f"{nth}"
        out.mkdir()
        done: list[Path] = []
        with pytest.MonkeyPatch.context() as patch, Tap(out, Disk(nth, number=number, stays=stays)):
            patch.setattr(RunFolder, "save", noting(RunFolder.save, done))
            try:
                train(out, epochs=epochs)
            except ResourceError as error:
                failed += 1
                assert error.exit_code == 5 and os.strerror(number) in str(error)
        if not (out / "checkpoints").exists():  # nothing had begun
            continue
        assert leftovers(out) == []
        for folder in (out / "checkpoints").iterdir():
            checkpoint_files.read(folder)
        assert {path.name for path in done[-2:]} <= {path.name for path in checkpoint_files.saved(out)}
        train(out, epochs=epochs)
        tensors, _ = checkpoint_files.read(checkpoint_files.saved(out)[0])
        assert identical(tensors, expected), nth
        written = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [row["epoch"] for row in written] == list(range(1, epochs + 1))
    # What fails and is not told harms nothing: an old checkpoint may be left, or the note of who holds the folder.
    assert failed >= 0.9 * len(range(0, total, every))


def noting(original: Any, done: list[Path]) -> Any:
    """``RunFolder.save`` that writes down which checkpoints it wrote to the end."""

    def save(self: RunFolder, *args: Any, **kwargs: Any) -> Path:
        folder: Path = original(self, *args, **kwargs)
        done.append(folder)
        return folder

    return save


@pytest.mark.parametrize("stays", [True, False], ids=["full", "full for a moment"])
def test_row_26_a_checkpoint_that_is_replaced_stays_until_the_new_one_is_there(
    tmp_path: Path, stays: bool
) -> None:
    program, folder, disk = Location(), tmp_path / "c", Disk(-1)
    save_checkpoint(folder, {"program": program, "number": 0})
    with Tap(tmp_path, disk):
        save_checkpoint(folder, {"program": program, "number": 0})
    for nth in range(len(disk.calls)):
        save_checkpoint(folder, {"program": program, "number": 1})
        with Tap(tmp_path, Disk(nth, stays=stays)), pytest.raises(ResourceError, match="No space left"):
            save_checkpoint(folder, {"program": program, "number": 2})
        # The flush of the folder is the last call: the new one is then in place.
        number = load_checkpoint(folder, {"program": program})["number"]
        assert number == (2 if nth == len(disk.calls) - 1 else 1)
        assert not (tmp_path / ".new-c").exists()
    save_checkpoint(folder, {"program": program, "number": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_row_28_a_kill_while_a_checkpoint_is_replaced_leaves_one(tmp_path: Path) -> None:
    program, folder = Location(), tmp_path / "c"
    save_checkpoint(folder, {"program": program, "number": 0})
    nth, killed = 0, True
    while killed:
        child = os.fork()
        if child == 0:  # no Python cleans up after it
            calls = 0

            def die(call: str, half: Callable[[], None]) -> None:
                nonlocal calls
                if calls == nth:  # noqa: B023  # the child sees one value
                    half()
                    os._exit(9)
                calls += 1

            with Tap(tmp_path, die):
                save_checkpoint(folder, {"program": program, "number": nth + 1})
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        number = load_checkpoint(folder, {"program": program})["number"]
        assert number in ([nth, nth + 1] if killed else [nth + 1])
        load_weights(program, folder)
        save_checkpoint(folder, {"program": program, "number": nth + 1})
        assert [path.name for path in tmp_path.iterdir()] == ["c"]
        nth += 1
    assert nth > 15  # three files, two renames, and what is removed afterwards


def test_row_28_everything_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    # No kill shows this, for the system keeps what a dead process wrote; a power cut would.
    calls: list[str] = []
    program = Location()
    for number in range(2):
        with Tap(tmp_path, lambda call, half: calls.append(call)):
            save_checkpoint(tmp_path / "c", {"program": program, "number": number})
        file = ["open", "write", "fsync"]
        swap = ["rename"] * (1 + number)  # the old one aside, the new one in its place
        assert calls[: calls.index("rename") + len(swap) + 1] == ["mkdir", *file * 3, "fsync", *swap, "fsync"]
        calls.clear()


LIMITED = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from pyro_dgm.errors import ResourceError
    from tests.faults.test_faults_disk import train
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        train(Path(sys.argv[1]), epochs=int(sys.argv[3]), checkpoint_seconds=1000.0)
    except ResourceError as error:
        print(error)
        sys.exit(error.exit_code)
    """
)


def test_row_26_a_file_that_the_system_lets_grow_no_further(tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(out, epochs=1)
    before = {path.name: checkpoint_files.read(path)[0] for path in checkpoint_files.saved(out)}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        LIMITED,
        str(out),
        "9000",
        "6",
    ]  # bytes; the tensors have more
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 5, process.stderr
    assert "File too large" in process.stdout and process.stdout.count("\n") == 1
    assert leftovers(out) == []
    for name, tensors in before.items():
        assert identical(checkpoint_files.read(out / "checkpoints" / name)[0], tensors)
    program, whole = train(out, epochs=6), train(tmp_path / "whole", epochs=6)
    assert same(copy_of(program), copy_of(whole))


def test_row_27_a_folder_that_cannot_be_made_is_said_before_the_first_step(place: Place) -> None:
    place.path("file").write_text("")
    fault = fault_of(place.train(run="file/run"), code=5, parts=["value", "cure"])
    assert fault["where"] == "--out" and "Not a directory" in fault["value"]
    with pytest.raises(ResourceError, match="folder that cannot be written in out: .*Not a directory"):
        train(place.path("file") / "run", callbacks=[Fails()])


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
            train(out, callbacks=[Fails()])


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
        train(out, epochs=5, checkpoint_seconds=seconds, callbacks=[Vanishes(out, file=file)])
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_row_34_cuda_asked_and_absent(place: Place) -> None:
    fault = fault_of(place.train("--training.device=cuda"))
    assert "no CUDA device" in fault["what"] and fault["where"] == "training.device"
    assert "cpu" in fault["cure"]
    with pytest.raises(InvalidInput, match="no CUDA device here in device: 'cuda'"):
        train(place.path("run"), device="cuda")
    assert not place.path("run").exists()
