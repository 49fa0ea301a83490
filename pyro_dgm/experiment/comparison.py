"""Runs side by side: their numbers, the differences that mean something, and the keys in which they differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, read_ledger
from pyro_dgm.experiment.going_on import flat
from pyro_dgm.experiment.run import LEDGER, read_run_config

# Numbers about other data than these cannot be held against each other.
_SAME = {"data_set": "other data", "preprocessing": "other preprocessing", "split": "another split",
         "split_size": "another number of data", "given": "other fields given"}  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One of several runs.

    Args:
        folder: its directory.
        ledger: its numbers.
        incomparable: why its numbers and the first run's are not of the same thing; empty if they are.
        difference: of log p(x) to the first run's, in nats per datum: higher is better than the first.
        difference_standard_error: combined from the two ledgers, as of independent data (unpaired). On the same
            data the true error is smaller as a rule.
    """

    folder: Path
    ledger: Ledger
    incomparable: str
    difference: float | None
    difference_standard_error: float | None


@dataclass(frozen=True)
class Comparison:
    """Runs beside the first of them.

    Args:
        runs: in the order given.
        config: values of each run by dotted key, for the keys of the config in which they differ.
    """

    runs: list[Compared]
    config: dict[str, list[Any]]


def compare(folders: Iterable[str | Path]) -> Comparison:
    """Reads the ledgers and configs of runs; none of their code is run.

    Args:
        folders: directories of runs.

    Raises:
        InvalidInput: fewer than two runs, or one that is not evaluated.
    """
    paths = [Path(folder) for folder in folders]
    if len(paths) < 2:
        raise InvalidInput("too few runs", where="RUN", value=len(paths), expected="two or more")
    configs = [read_run_config(path) for path in paths]
    ledgers = [_ledger(path) for path in paths]
    runs = [_compared(path, ledger, ledgers[0]) for path, ledger in zip(paths, ledgers, strict=True)]
    return Comparison(runs, differing([{**config, "run": None} for config in configs]))


def _ledger(folder: Path) -> Ledger:
    path = folder / LEDGER
    if not path.is_file():
        cure = f"pyro-dgm evaluate {folder}, or train with --resume if the run is not finished"
        raise InvalidInput("a run that is not evaluated", where=str(folder), expected=LEDGER, cure=cure)
    return read_ledger(path)


def _compared(folder: Path, ledger: Ledger, first: Ledger) -> Compared:
    reasons = [text for name, text in _SAME.items() if getattr(ledger, name) != getattr(first, name)]
    difference = error = None
    if not reasons and ledger is not first:
        difference = _number(ledger.log_likelihood) - _number(first.log_likelihood)
        error = math.hypot(_number(ledger.standard_error), _number(first.standard_error))
    return Compared(folder, ledger, ", ".join(reasons), difference, error)


def _number(value: float | None) -> float:
    assert value is not None  # of a ledger that is done, which the reading of it has checked
    return value


def differing(configs: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Values by dotted key, one of each config, for the keys in which they differ; None where one has no such key.

    Example:
        >>> differing([{"training": {"seed": 0, "epochs": 2}}, {"training": {"seed": 1, "epochs": 2}}])
        {'training.seed': [0, 1]}
    """
    values = [dict(flat(config)) for config in configs]
    keys = dict.fromkeys(key for value in values for key in value)
    rows = {key: [value.get(key) for value in values] for key in keys}
    return {key: row for key, row in rows.items() if any(part != row[0] for part in row)}
