"""What many kills came to, and what each of them may not leave."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pyro_dgm.errors import Fault
from pyro_dgm.training import checkpoint_files, load_weights
from tests.faults import digits_run


@dataclass
class Outcome:
    """What happened to all the runs."""

    kills: int = 0
    zones: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    chains: int = 0
    identical: int = 0
    processes: int = 0
    faults: list[str] = field(default_factory=list)

    def table(self) -> str:
        """The table that the command prints."""
        calls = "\n".join(f"  {name:24}{number:6}" for name, number in sorted(self.calls.items()))
        return (
            f"kills                     {self.kills:6}\n"
            f"  inside a save           {self.zones['save']:6}\n"
            f"  while a row was written {self.zones['row']:6}\n"
            f"  while a run was opened  {self.zones['start']:6}\n"
            f"  elsewhere in training   {self.zones['elsewhere']:6}\n"
            f"  of the command line     {self.processes:6}\n"
            f"killed in the call\n{calls}\n"
            f"runs                      {self.chains:6}\n"
            f"bit-identical at the end  {self.identical:6}\n"
            f"laws broken               {len(self.faults):6}\n"
            + "".join(f"  {line}\n" for line in self.faults)
        )


def look(out: Path, completed: set[int]) -> list[str]:
    """What is wrong with a run that was killed.

    Args:
        out: its folder.
        completed: steps whose checkpoint was written to the end.
    """
    faults, good = [], set()
    for folder in (out / "checkpoints").glob("[!.]*"):
        try:
            _, plain = checkpoint_files.read(folder)
            if folder.name.startswith("step-"):
                good.add(plain["loop"]["count"])
                if plain["best"]["folder"] is not None:
                    checkpoint_files.read(folder.with_name(plain["best"]["folder"]))
        except Fault as fault:
            faults.append(f"unreadable: {fault}")
    if len(good) < min(2, len(completed)) or max(good, default=0) < max(completed, default=0):
        faults.append(f"lost: {sorted(completed)[-2:]} were saved, {sorted(good)} are there")
    try:
        if completed:
            load_weights(digits_run.make_program(), out)
        rows = digits_run.rows(out) if (out / "metrics.jsonl").exists() else []
        if [row["epoch"] for row in rows] != list(range(1, len(rows) + 1)):
            faults.append(f"rows doubled or lost: {[row['epoch'] for row in rows]}")
    except (Fault, ValueError) as error:
        faults.append(f"unreadable: {error}")
    return faults


def first_difference(expected: Any, found: Any) -> str:
    """Keys under which two endings differ."""
    if not (expected and found):
        return "no end"
    return ", ".join(name for name in expected if expected[name] != found[name])
