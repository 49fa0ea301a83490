"""Runs that are killed or told to stop, by the rows 28 to 30 of the table of faults."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.data import Arrays
from pyro_dgm.errors import Interrupted
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import Callback, checkpoint_files
from tests.faults import digits_run
from tests.faults.children import ZONES, Marks, Trap, fork, mark, wait
from tests.faults.conftest import REAL
from tests.faults.kills import kill
from tests.faults.outcomes import look
from tests.faults.programs import Location

PATIENCE = 60  # seconds until a child that does not answer is a fault


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0002)


def start(out: Path, marks: Marks, *, seconds: float, epochs: int, pause: float = 0.0) -> int:
    """A child that trains, counts the steps that it has begun, and rests in each of them."""

    def begun() -> None:
        marks["begun"] += 1
        time.sleep(pause)

    def work() -> Any:
        objective = digits_run.Jittered(begun)
        return digits_run.train(out, seconds=seconds, objective=objective, epochs=epochs)

    return fork(work, result=out.with_suffix(".json"))


def step_of(out: Path) -> int:
    """Step of the newest checkpoint, after it was read."""
    folders = checkpoint_files.saved(out)
    count: int = checkpoint_files.read(folders[0])[1]["loop"]["count"] if folders else 0
    return count


def interrupt(folder: Path, *, number: int, epochs: int, seed: int) -> None:
    """Signals at random moments; after each, a checkpoint of that step or the next, and the right exit code."""
    digits_run.warm_up()
    rng = random.Random(seed)
    peace = folder / "peace"
    assert wait(start(peace, Marks(), seconds=1000.0, epochs=epochs)) == 0
    expected, last = digits_run.ending(peace), step_of(peace)
    done, chain = 0, 0
    while done < number:
        out, count = folder / f"chain-{chain}", 0
        chain += 1
        while done < number and count < last - 50:
            marks, name = Marks(), rng.choice([signal.SIGINT, signal.SIGTERM])
            child = start(out, marks, seconds=rng.choice([0.02, 1000.0]), epochs=epochs)
            target = rng.randint(1, 30)  # of the steps of this process
            until(lambda: marks["begun"] >= target)  # noqa: B023  # used at once
            time.sleep(rng.uniform(0.0, 0.01))
            before = marks["begun"]
            os.kill(child, name)
            after = marks["begun"]
            assert wait(child) == 128 + name
            begun, count = count, step_of(out)
            assert begun + before <= count <= begun + after + 1
            log = out.with_suffix(".log").read_text()
            assert f"interrupted by {name.name} after step {count};" in log and log.count("\n") == 0
            done += 1
        assert wait(start(out, Marks(), seconds=1000.0, epochs=epochs)) == 0
        assert digits_run.ending(out) == expected


def test_row_30_a_signal_saves_within_a_step_and_the_run_goes_on_bit_for_bit(tmp_path: Path) -> None:
    interrupt(tmp_path, number=6, epochs=40, seed=0)


@pytest.mark.slow
def test_row_30_fifty_signals(tmp_path: Path) -> None:
    interrupt(tmp_path, number=50, epochs=digits_run.EPOCHS, seed=1)


def signalled_twice(out: Path, first: signal.Signals, second: signal.Signals) -> tuple[int, float]:
    """Exit code of a child that gets two signals within one step, and the seconds from the second to its end."""
    digits_run.warm_up()
    marks = Marks()
    child = start(out, marks, seconds=0.0, epochs=40, pause=1.0)
    until(lambda: marks["begun"] == 2)
    os.kill(child, first)
    time.sleep(0.1)
    assert marks["begun"] == 2 and os.waitpid(child, os.WNOHANG)[0] == 0  # the step is not over
    told = time.monotonic()
    os.kill(child, second)
    return wait(child), time.monotonic() - told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_row_30_a_second_signal_is_obeyed_at_once(tmp_path: Path, number: signal.Signals) -> None:
    code, seconds = signalled_twice(tmp_path / "run", number, number)
    assert code in (128 + number, -number) and seconds < 0.6
    assert step_of(tmp_path / "run") == 1


def test_row_30_a_second_signal_of_another_kind_changes_nothing(tmp_path: Path) -> None:
    code, _ = signalled_twice(tmp_path / "run", signal.SIGINT, signal.SIGTERM)
    assert code == 130 and step_of(tmp_path / "run") == 2


@pytest.mark.slow
def test_rows_28_and_29_kills_at_random_moments_and_inside_saves() -> None:
    outcome = kill(kills=20, seed=0, processes=0)
    assert outcome.kills == 20 and outcome.zones["save"] >= 6, outcome.table()
    assert outcome.identical == outcome.chains >= 2 and outcome.faults == [], outcome.table()


@pytest.mark.parametrize(
    "trap",
    [Trap("save", 4, 6, True), Trap("save", 7, 22, False), Trap("row", 2, 1, True)],
    ids=["in a save", "after its rename", "in half a row"],
)
def test_rows_28_and_29_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, peace: Any, trap: Trap) -> None:
    out, result, marks = tmp_path / "run", tmp_path / "result.json", Marks()

    def work() -> Any:
        mark(marks, out, trap)
        return digits_run.train(out, seconds=0.0, epochs=6)

    assert wait(fork(work, result=result)) == -signal.SIGKILL and ZONES[marks["zone"]] == trap.zone
    assert look(out, {marks["last"], marks["one_before"]} - {0}) == []
    assert wait(fork(lambda: digits_run.train(out, seconds=0.0, epochs=6), result=result)) == 0
    assert digits_run.ending(out) == peace


@pytest.fixture(scope="module")
def peace(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a run ends with that is left in peace."""
    digits_run.warm_up()
    out = tmp_path_factory.mktemp("peace")
    run = out / "run"
    assert wait(fork(lambda: digits_run.train(run, seconds=1000.0, epochs=6), result=out / "r.json")) == 0
    return digits_run.ending(run)


class LeaveAt(Callback):
    """Gets a signal at the end of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_epoch(self, state: Any) -> None:
        if state.row["epoch"] == self.epoch:
            os.kill(os.getpid(), signal.SIGTERM)


def train_location(out: Path, *, leave: int, rate: float, **options: Any) -> tuple[Any, Any, list[str]]:
    """Rows, final weights and warnings of a run on data about 5 whose validation data are about 1."""
    program, val = Location(3), REAL[8:16] + 1
    data = Arrays(REAL[:8] + 5, val=val, test=val)
    defaults = {"batch_size": 8, "progress": False, "resume": True, "device": "cpu"}
    history = None
    with warnings.catch_warnings(record=True) as caught, contextlib.suppress(Interrupted):
        warnings.simplefilter("always")
        history = fit(
            program,
            ELBO(),
            data,
            out=out,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=rate),
            callbacks=[LeaveAt(leave)],
            **defaults | options,
        )
    said = [str(warning.message) for warning in caught if "explodes" in str(warning.message)]
    return history and [row["epoch"] for row in history.rows], program.location.tolist(), said


def test_row_29_the_patience_and_the_best_of_early_stopping_go_on(tmp_path: Path) -> None:
    options = {"rate": 0.01, "epochs": 20, "early_stopping": 3}  # each epoch is worse than the first
    whole = train_location(tmp_path / "whole", leave=-1, **options)
    assert whole[0] == [1, 2, 3, 4]
    assert train_location(tmp_path / "cut", leave=3, **options)[0] is None
    assert train_location(tmp_path / "cut", leave=-1, **options) == whole


def test_row_29_the_watch_for_an_exploding_loss_goes_on(tmp_path: Path) -> None:
    options = {"rate": 4.0, "epochs": 8, "early_stopping": None}
    _, _, said = train_location(tmp_path / "whole", leave=-1, **options)
    assert len(said) == 1
    for leave in (2, 6):  # before the warning and after it
        out = tmp_path / f"{leave}"
        first, second = (train_location(out, leave=epoch, **options) for epoch in (leave, -1))
        assert first[0] is None and first[2] + second[2] == said


@pytest.mark.slow
def test_rows_28_and_29_a_few_kills() -> None:
    outcome = kill(kills=4, seed=3, processes=0)
    assert outcome.kills == 4 and outcome.zones["save"] >= 1, outcome.table()
    assert outcome.identical == outcome.chains >= 1 and outcome.faults == [], outcome.table()
