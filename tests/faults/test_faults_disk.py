"""A disk that is full or broken, and what is on it after a power cut, by the rows 26 and 28 of the table of faults."""

from __future__ import annotations

import errno
import hashlib
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

from pyro_dgm.errors import ResourceError
from pyro_dgm.training import checkpoint_files, load_checkpoint, load_weights, run_folder, save_checkpoint
from pyro_dgm.training.run_folder import RunFolder
from tests.faults.filesystem import Disk, Tap
from tests.faults.saved_runs import go_on
from tests.training.stand_ins import Location, copy_of, same


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
        go_on(out, epochs=epochs)
    shutil.rmtree(out)
    return len(disk.calls)


FULL = {
    "full": (errno.ENOSPC, True),
    "full for a moment": (errno.ENOSPC, False),
    "broken": (errno.EIO, True),
    "over quota": (errno.EDQUOT, False),
}


@pytest.mark.parametrize(("kind", "every"), [("full", 3), ("full for a moment", 5), ("broken", 7)])
def test_row_26_a_full_disk_leaves_every_finished_checkpoint(tmp_path: Path, kind: str, every: int) -> None:
    fail_at_each_call(tmp_path, *FULL[kind], every=every, epochs=1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FULL)
def test_row_26_a_full_disk_at_each_call_of_a_longer_run(tmp_path: Path, kind: str) -> None:
    fail_at_each_call(tmp_path, *FULL[kind], every=1, epochs=3)


def fail_at_each_call(tmp_path: Path, number: int, stays: bool, *, every: int, epochs: int) -> None:
    """Three steps an epoch, saved after each; the n-th call that needs room fails, for every such n."""
    go_on(tmp_path / "whole", epochs=epochs)
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
                go_on(out, epochs=epochs)
            except ResourceError as error:
                failed += 1
                assert error.exit_code == 5 and os.strerror(number) in str(error)
        if not (out / "checkpoints").exists():  # nothing had begun
            continue
        assert leftovers(out) == []
        for folder in (out / "checkpoints").iterdir():
            checkpoint_files.read(folder)
        metrics = out / "metrics.jsonl"
        assert not metrics.exists() or metrics.read_bytes()[-1:] in (b"", b"\n")  # no torn row stays
        assert {path.name for path in done[-2:]} <= {path.name for path in checkpoint_files.saved(out)}
        go_on(out, epochs=epochs)
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


def test_row_28_whenever_a_kill_comes_all_that_has_a_name_is_whole(tmp_path: Path) -> None:
    # What is there before each call is what a kill in it would leave.
    calls: list[str] = []

    def look(call: str, half: Callable[[], None]) -> None:
        calls.append(call)
        for folder in (tmp_path / "checkpoints").glob("[!.]*"):
            _, plain = checkpoint_files.read(folder)
            if folder.name.startswith("step"):
                known, best = plain["metrics"], plain["best"]["folder"]
                rows = (tmp_path / "metrics.jsonl").read_bytes()[: known["bytes"]]
                assert hashlib.sha256(rows).hexdigest() == known["sha256"]
                assert best is None or folder.with_name(best).exists()

    with Tap(tmp_path, look):
        go_on(tmp_path, epochs=4)
    assert calls.count("rmdir") > 10  # nine steps and two best ones went


def test_row_29_rows_are_on_the_disk_before_a_checkpoint_that_knows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, saves = ["fsync"], []

    def save(*args: Any) -> None:
        assert calls[-1] == "fsync"
        saves.append(args)
        save_checkpoint(*args)

    monkeypatch.setattr(run_folder, "save_checkpoint", save)
    with Tap(tmp_path / "metrics.jsonl", lambda call, half: calls.append(call)):
        go_on(tmp_path, epochs=2)
    assert calls.count("write") == 2 and len(saves) > 6


LIMITED = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from pyro_dgm.errors import ResourceError
    from tests.faults.saved_runs import go_on
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
    try:
        go_on(Path(sys.argv[1]), epochs=int(sys.argv[3]), checkpoint_seconds=1000.0)
    except ResourceError as error:
        print(error)
        sys.exit(error.exit_code)
    """
)


@pytest.mark.slow
def test_row_26_a_file_that_the_system_lets_grow_no_further(tmp_path: Path) -> None:
    out = tmp_path / "run"
    go_on(out, epochs=1)
    before = {path.name: checkpoint_files.read(path)[0] for path in checkpoint_files.saved(out)}
    most, epochs = "9000", "6"  # bytes; the tensors have more
    command = [sys.executable, "-W", "ignore", "-c", LIMITED, str(out), most, epochs]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 5, process.stderr
    assert "File too large" in process.stdout and process.stdout.count("\n") == 1
    assert leftovers(out) == []
    for name, tensors in before.items():
        assert identical(checkpoint_files.read(out / "checkpoints" / name)[0], tensors)
    program, whole = go_on(out, epochs=6), go_on(tmp_path / "whole", epochs=6)
    assert same(copy_of(program), copy_of(whole))
