"""The table that ends a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pyro_dgm.evaluation.ledger import Ledger


def rows(ledger: Ledger) -> list[tuple[str, str, str]]:
    """Name, value in nats (or the value) and bits/dim of what is worth saying about a result.

    Args:
        ledger: of a run that is done.
    """
    units = ", ".join(f"{name}: {count}" for name, count in (ledger.active_units or {}).items())
    return [
        (f"{ledger.split} ELBO", f"{ledger.elbo:.3f} ± {ledger.elbo_standard_error:.3f}", ""),
        (
            f"{ledger.split} log p(x), {ledger.num_particles} particles",
            f"{ledger.log_likelihood:.3f} ± {ledger.standard_error:.3f}",
            f"{ledger.bits_per_dim:.4f}",
        ),
        ("active units", units or "-", ""),
        ("parameters", f"{ledger.num_parameters:,}", ""),
        ("training, evaluation", f"{ledger.training_seconds:.0f} s, {ledger.evaluation_seconds:.0f} s", ""),
    ]


def print_summary(ledger: Ledger, folder: Path, pictures: Mapping[str, Path]) -> None:
    """Prints the table of a result, and below it where everything lies.

    Args:
        ledger: of a run that is done.
        folder: the run.
        pictures: path by name.
    """
    title = f"{ledger.config}: {ledger.data_set}, {ledger.split_size} {ledger.split} data"
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    table.add_column("")
    table.add_column("nats per datum (± s.e.)", justify="right")
    table.add_column("bits/dim", justify="right")
    for row in rows(ledger):
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    for name, path in {"run": folder, **pictures}.items():
        console.print(Text(f"  {name:16}{path}"))
