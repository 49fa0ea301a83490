"""Kills a training run again and again, lets it go on, and compares its end with that of the run left in peace.

``python -m tests.faults.kills --kills 100 --seed 0``: forked children, two fifths of them killed inside a save at a
file-system call drawn at random, a tenth each while a row is written and while a run is opened, the others by their
parent at a random moment; and processes of the command line, killed at random moments. Prints a table; exit 1 if a
law fails.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults import digits_run
from tests.faults.children import ZONES, Marks, Trap, fork, mark, wait
from tests.faults.filesystem import CALLS
from tests.faults.outcomes import Outcome, first_difference, look
from tests.faults.process_kills import kill_processes

# Calls in a zone are fewer than this, or a little more: a trap that is not reached waits for the next visit.
_MOST_CALLS = {"save": 50, "row": 2, "start": 12}
_PLAN = ("save", "time", "save", "row", "time", "save", "start", "time", "save", "time")
_LONGEST = 0.8  # seconds until a kill at a random moment; the run takes two or three


class Chain:
    """One run, killed up to a number of times, until it ends.

    Args:
        folder: an empty one.
        outcome: takes up what happens.
        rng: draws the moments.
    """

    def __init__(self, folder: Path, outcome: Outcome, rng: random.Random) -> None:
        self.out, self._result = folder / "run", folder / "result.json"
        self._outcome, self._rng = outcome, rng
        self._completed: set[int] = set()

    def run(self, most: int) -> dict[str, Any] | None:
        """What the run ended with; None after a fault."""
        while True:
            kind = _PLAN[self._outcome.kills % len(_PLAN)] if self._outcome.kills < most else "none"
            marks, code = self._start(kind)
            self._completed |= {marks[name] for name in ("last", "one_before") if marks[name]}
            if code == 0:
                left = [p.name for p in (self.out / "checkpoints").glob(".*")]
                self._outcome.faults += [f"left behind: {left}"] if left else []
                return {**digits_run.ending(self.out), "told": json.loads(self._result.read_text())}
            if code != -signal.SIGKILL:
                log = self._result.with_suffix(".log").read_text().splitlines()
                self._outcome.faults.append(f"a run ended with {code}: {log[-1] if log else ''}")
                return None
            self._count(marks, kind)
            self._outcome.faults += look(self.out, self._completed)

    def _start(self, kind: str) -> tuple[Marks, int]:
        rng, marks, trap = self._rng, Marks(), None
        if kind in _MOST_CALLS:
            visit = 0 if kind == "start" else rng.randrange(6)
            trap = Trap(kind, visit, rng.randrange(_MOST_CALLS[kind]), rng.random() < 0.5)
        seconds = 0.0 if kind == "save" and rng.random() < 0.3 else 0.02

        def work() -> Any:
            mark(marks, self.out, trap)
            return digits_run.train(self.out, seconds=seconds)

        moment = rng.uniform(0.0, _LONGEST)
        child = fork(work, result=self._result)
        if kind == "time":
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        return marks, wait(child)

    def _count(self, marks: Marks, kind: str) -> None:
        outcome = self._outcome
        outcome.kills += 1
        outcome.zones[ZONES[marks["zone"]]] += 1
        half = ", half done" if marks["half"] else ""
        outcome.calls["at a random moment" if kind == "time" else CALLS[marks["call"]] + half] += 1


def kill_children(folder: Path, outcome: Outcome, *, kills: int, seed: int) -> None:
    """Kills forked children until there were as many as asked."""
    rng = random.Random(seed)
    peace = Chain(folder / "peace", outcome, rng)
    (folder / "peace").mkdir()
    expected = peace.run(most=0)
    while outcome.kills < kills:
        chain = folder / f"chain-{outcome.chains}"
        chain.mkdir()
        found = Chain(chain, outcome, rng).run(most=min(kills, outcome.kills + rng.randint(2, 8)))
        outcome.chains += 1
        if found == expected is not None:
            outcome.identical += 1
        else:
            outcome.faults.append(
                f"another end of {chain.name} after {outcome.kills} kills: {first_difference(expected, found)}"
            )


def kill(*, kills: int, seed: int, processes: int) -> Outcome:
    """Kills as many times as asked.

    Args:
        kills: of forked children.
        seed: of the moments.
        processes: kills of processes of the command line.
    """
    digits_run.warm_up()
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as name:
        kill_children(Path(name), outcome, kills=kills, seed=seed)
        if processes:
            kill_processes(Path(name), outcome, kills=processes, seed=seed)
    return outcome


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="of forked children; default: 100")
    parser.add_argument("--processes", type=int, default=3, help="of the command line; default: 3")
    parser.add_argument("--seed", type=int, default=0, help="of the moments; default: 0")
    options = parser.parse_args()
    started = time.monotonic()
    outcome = kill(kills=options.kills, seed=options.seed, processes=options.processes)
    print(outcome.table() + f"seconds                   {time.monotonic() - started:6.0f}")
    return 1 if outcome.faults else 0


if __name__ == "__main__":
    sys.exit(main())
