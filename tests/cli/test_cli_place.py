"""The folder of a run: a kill before any single write leaves what the next start mends, and no old run is lost."""

from __future__ import annotations

import os
import shutil
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from pyro_dgm.atomic import write_text
from pyro_dgm.errors import IntegrityError, InvalidInput
from pyro_dgm.experiment import training
from pyro_dgm.experiment.place import Place
from pyro_dgm.experiment.prepare import prepared
from pyro_dgm.training.checkpoint_files import saved
from tests.faults.filesystem import Tap

KILLED = 9


def in_a_child(work: Callable[[], object]) -> int:
    """Exit code of a process that does the work: 0, 1 with a traceback, or what ``os._exit`` was given."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class KillBefore:
    """Ends the process before the call of this number, as SIGKILL would: nothing is cleaned up."""

    def __init__(self, number: int) -> None:
        self.left = number

    def __call__(self, call: str, half: Callable[[], None]) -> None:
        self.left -= 1
        if self.left == 0:
            half()
            os._exit(KILLED)


def write_run(folder: Path, text: str) -> None:
    """What a short training leaves, in the order in which it writes it."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    (folder / "checkpoints" / text).write_text(text)
    (folder / "metrics.jsonl").write_text(text)
    write_text(folder / "config.yaml", text)


def tree(folder: Path) -> dict[str, str]:
    """Text of each file below a folder, but for the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_text() for path in paths if path.name != ".lock"}


OLD = dict.fromkeys(
    ["metrics.jsonl", "config.yaml", "evaluation.json", "checkpoints/old", "mine/notes.txt"], "old"
)
NEW = dict.fromkeys(["metrics.jsonl", "config.yaml", "checkpoints/new"], "new")


def make_old(folder: Path) -> None:
    for name, text in OLD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def replace(folder: Path, before: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
    with before(), Place(folder, overwrite=True) as place:
        write_run(folder, "new")
        place.begin()


def test_a_kill_anywhere_while_a_run_is_replaced_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    outcomes = []
    for number in range(1, 100):
        folder = tmp_path / f"{number}"
        make_old(folder)
        kill = KillBefore(number)
        if in_a_child(lambda folder=folder, kill=kill: replace(folder, lambda: Tap(folder, kill))) == 0:
            break
        # Any start mends it; this one then finds a run and refuses.
        with pytest.raises(InvalidInput, match="output exists"), Place(folder):
            pass
        # A refusal writes nothing, so it leaves a half-written file there; the next run removes it.
        found = {name: text for name, text in tree(folder).items() if not name.startswith(".partial-")}
        assert found in (OLD, NEW)
        outcomes.append(found["config.yaml"])
        replace(folder)
        assert tree(folder) == NEW
    assert len(outcomes) > 12  # a point before each call was tried
    assert outcomes == sorted(outcomes, reverse=True) and {"old", "new"} == set(outcomes)


def test_a_kill_while_an_old_run_is_put_back_can_be_mended_too(tmp_path: Path) -> None:
    for number in range(1, 100):
        folder = tmp_path / f"{number}"
        make_old(folder)

        def fail_at_the_end(folder: Path = folder, number: int = number) -> None:
            place = Place(folder, overwrite=True)
            place.__enter__()
            (folder / "metrics.jsonl").write_text("new")  # refused before its config was written
            with Tap(folder, KillBefore(number)):
                place.__exit__(None, None, None)

        code = in_a_child(fail_at_the_end)
        with pytest.raises(InvalidInput, match="output exists"), Place(folder):
            pass
        assert {n: text for n, text in tree(folder).items() if not n.startswith(".partial-")} == OLD
        if code == 0:
            break
    assert number > 5


def test_a_new_run_that_does_not_begin_leaves_nothing_not_even_its_parents(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with pytest.raises(ZeroDivisionError), Place(folder):
        write_run(folder, "new")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
    with Place(folder) as place:
        write_run(folder, "new")
        place.begin()
    assert tree(folder) == NEW


@pytest.mark.parametrize("entries", [[], ["metrics.jsonl"], ["config.yaml", "sources", "metrics.jsonl"]])
def test_what_a_kill_before_the_first_checkpoint_left_is_begun_anew(
    tmp_path: Path, entries: list[str]
) -> None:
    for name in entries:
        (tmp_path / name).write_text("old")
    (tmp_path / ".partial-xyz").write_text("")
    with Place(tmp_path, resume=True) as place:
        assert not place.goes_on and tree(tmp_path).keys() == {".owner.json"}


def test_a_run_without_its_parts_is_not_begun_anew_over_what_is_left(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(IntegrityError, match="checkpoints"):
        Place(tmp_path, resume=True)
    (tmp_path / "evaluation.json").unlink()
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    with pytest.raises(IntegrityError, match=r"config\.yaml"):
        Place(tmp_path, resume=True)


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}])
def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, options: dict[str, bool]) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InvalidInput, match="no run"):
        Place(tmp_path, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("stride", [11, pytest.param(1, marks=pytest.mark.slow)])
def test_a_kill_before_any_write_of_a_beginning_run_is_resumed_by_the_same_command(
    stride: int, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with prepared(tiny) as ready:

        @contextmanager
        def ready_made(*args: object, **kwargs: object) -> Any:  # each child has its own copy of it
            yield ready

        monkeypatch.setattr(training, "prepared", ready_made)
        monkeypatch.setattr(training, "_finish", lambda *args, **kwargs: None)

        def start(kill_before: int) -> int:
            def work() -> None:
                with Tap(folder, KillBefore(kill_before)):
                    training.train(tiny, out=folder, resume=True, progress=False)

            return in_a_child(work)

        kills_with_checkpoint = []
        for number in range(1, 200, stride):
            code = start(number)
            assert code in (0, KILLED)
            if code == KILLED:
                kills_with_checkpoint.append(bool(saved(folder)))
                assert not kills_with_checkpoint[-1] or (folder / "config.yaml").is_file()
                assert start(0) == 0  # the rest of the way in one go, from whatever is there
            assert (folder / "config.yaml").is_file() and saved(folder)
            assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
            shutil.rmtree(folder)
            if code == 0:
                break
    assert len(kills_with_checkpoint) * stride > 30 and False in kills_with_checkpoint
    assert kills_with_checkpoint == sorted(kills_with_checkpoint)
