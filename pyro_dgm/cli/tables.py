"""The tables that end a command."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyro_dgm.evaluation.ledger import Ledger
from pyro_dgm.experiment.comparison import Compared, Comparison
from pyro_dgm.experiment.posterior import Diagnosis
from pyro_dgm.experiment.repetition import Repetition
from pyro_dgm.experiment.report import Report

_WIDE = 1000
_NAMES = {"elbo": "ELBO, nats", "bits_per_dim": "bits/dim"}


def rows(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Name, value in nats (or the value) and bits/dim of what is worth saying about a result.

    Args:
        ledger: of a run that is done.
    """
    is_exact = ledger.estimator == "exact"  # the bound is the same, and there are no units
    how = "exact" if is_exact else f"{ledger.num_particles} particles"
    bound = (f"{ledger.split} ELBO", _with_error(ledger.elbo, ledger.elbo_standard_error), "")
    return [
        *([] if is_exact else [bound]),
        (
            f"{ledger.split} {ledger.quantity}, {how}",
            _with_error(ledger.log_likelihood, ledger.standard_error),
            f"{ledger.bits_per_dim:.4f}",
        ),
        *([] if is_exact else [("active units", _units(ledger), "")]),
        ("parameters", f"{ledger.num_parameters:,}", ""),
        ("training, evaluation", f"{_seconds(ledger)}, {ledger.evaluation_seconds:.0f} s", ""),
    ]


def print_summary(ledger: Ledger | None, folder: Path, files: Mapping[str, Path]) -> None:
    """Prints the table of a result, and below it where everything lies.

    Args:
        ledger: of a run that is done; None where the model has no such numbers.
        folder: the run.
        files: path by name.
    """
    console = _console()
    if ledger is not None:
        title = f"{ledger.config}: {ledger.data_set}, {ledger.split_size} {ledger.split} data"
        console.print(_table(title, ("", "nats per datum (± s.e. over data)", "bits/dim"), rows(ledger)))
        _print_reasons(console, ledger.reliable, ledger.reasons or ())
    for name, path in {"run": folder, **files}.items():
        console.print(Text(f"  {name:16}{path}"))


def print_repetition(found: Repetition) -> None:
    """Prints what the seeds gave, beside the error of another kind that each ledger has.

    Args:
        found: runs that differ in their seeds.
    """
    errors = {"elbo": "elbo_standard_error", "log_likelihood": "standard_error"}
    cells = []
    for name, numbers in found.summary.items():
        over_data = [getattr(ledger, errors[name]) for ledger in found.ledgers] if name in errors else []
        mean_error = f"{sum(over_data) / len(over_data):.3f}" if over_data else "-"
        digits = 4 if name == "bits_per_dim" else 3
        over_seeds = [
            "-" if value is None else f"{value:.{digits}f}"
            for value in (numbers["mean"], numbers["standard_deviation"], numbers["standard_error_of_mean"])
        ]
        title = _NAMES.get(name, f"{found.ledgers[0].quantity}, nats")
        cells.append((title, *over_seeds, mean_error))
    columns = ("", "mean over seeds", "s.d. over seeds", "s.e. of that mean", "s.e. over data, in one run")
    console = _console()
    seeds = ", ".join(str(seed) for seed in found.runs)
    console.print(_table(f"{found.folder.name}: seeds {seeds}", columns, cells))
    for ledger, run in zip(found.ledgers, found.runs.values(), strict=False):
        console.print(Text(f"  {run}  {_verdict(ledger.reliable)}"))


def print_diagnosis(found: Diagnosis, report: Report) -> None:
    """Prints the posterior's first elements, the weights' k-hat and effective sample size, and the verdict.

    Args:
        found: draws from the guide of a run.
        report: what was written about them.
    """
    console = _console()
    facts = found.as_dict()
    cells = [
        (row["name"], *(_number(row.get(key)) for key in ("mean", "sd", "hdi_3%", "hdi_97%")))
        for row in facts["variables"]
    ]
    if cells:
        columns = ("posterior", "mean", "s.d.", "hdi 3%", "hdi 97%")
        console.print(_table(f"{found.reliability.num_draws} draws from the guide", columns, cells))
    weights = [
        ("k-hat", *(_number(facts["k_hat"][name]) for name in ("least", "median", "largest"))),
        ("effective sample size", *(_number(facts["ess"][name]) for name in ("least", "median", "largest"))),
    ]
    verdict, advice = found.reliability, report.advice
    if cells:
        console.print(
            _table("importance weights, over the data", ("", "least", "median", "largest"), weights)
        )
    _print_reasons(console, verdict.reliable, verdict.reasons)
    if cells:
        usable = f"{verdict.num_usable_as_is} of {verdict.num_k_hats}, without weights"
        console.print(Text(f"  {'usable as is':16}{usable}"))
    for name, lines in (
        ("trust", advice.trustworthy),
        ("doubt", advice.doubtful),
        ("try next", advice.next_steps),
        ("not known", advice.limits),
    ):
        for line in lines:
            console.print(Text(f"  {name:16}{line}"))
    console.print(Text(f"  {'posterior':16}{found.path}"))
    console.print(Text(f"  {'report':16}{report.path}"))


def print_comparison(found: Comparison) -> None:
    """Prints runs side by side, and the keys in which they differ.

    Args:
        found: two or more runs.
    """
    quantities = list(dict.fromkeys(run.ledger.quantity for run in found.runs))
    quantity = quantities[0] if len(quantities) == 1 else "log p"
    lines = {
        "data": lambda run: f"{run.ledger.data_set}, {run.ledger.split_size} {run.ledger.split}",
        **({"value": lambda run: run.ledger.quantity} if len(quantities) > 1 else {}),
        "estimator": lambda run: run.ledger.estimator,
        "ELBO ± s.e.": lambda run: _with_error(run.ledger.elbo, run.ledger.elbo_standard_error),
        f"{quantity} ± s.e.": lambda run: _with_error(run.ledger.log_likelihood, run.ledger.standard_error),
        "bits/dim": lambda run: f"{run.ledger.bits_per_dim:.4f}",
        "difference ± s.e.": _difference,
        "active units": lambda run: _units(run.ledger),
        "parameters": lambda run: f"{run.ledger.num_parameters:,}",
        "training": lambda run: _seconds(run.ledger),
        "reliable": lambda run: _verdict(run.ledger.reliable),
    }
    cells = [(name, *(str(line(run)) for run in found.runs)) for name, line in lines.items()]
    names = [str(run.folder) for run in found.runs]
    console = _console()
    console.print(_table("nats per datum; higher is better", ("", *names), cells))
    console.print(Text(f"difference: of {quantity} to the first run, its s.e. combined as of unpaired data"))
    config = [(key, *(_shown(value) for value in values)) for key, values in found.config.items()]
    if config:
        console.print(_table("config", ("key", *names), config))
    else:
        console.print(Text("the configs do not differ"))


def _difference(run: Compared) -> str:
    if run.incomparable:
        return f"not comparable: {run.incomparable}"
    return _with_error(run.difference, run.difference_standard_error, sign="+")


def _print_reasons(console: Console, reliable: bool | None, reasons: Iterable[str]) -> None:
    if reliable is True:
        console.print(Text("  reliable: yes"))
    for reason in reasons:
        console.print(Text(f"  reliable: no, because {reason}"))


def _table(title: str, columns: tuple[str, ...], cells: Iterable[tuple[str, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    return table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # as it is: rich would end the process with code 1


def _console() -> Console:
    # What is read by another program keeps a row on a line.
    return _Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)


def _with_error(value: float | None, error: float | None, *, sign: str = "") -> str:
    return "-" if value is None or error is None else f"{value:{sign}.3f} ± {error:.3f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _units(ledger: Ledger) -> str:
    return ", ".join(f"{name}: {count}" for name, count in (ledger.active_units or {}).items()) or "-"


def _seconds(ledger: Ledger) -> str:
    return "-" if ledger.training_seconds is None else f"{ledger.training_seconds:.0f} s"


def _verdict(reliable: bool | None) -> str:
    return {True: "yes", False: "no", None: "not checked"}[reliable]


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
