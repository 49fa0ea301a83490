"""The README's table of results, rebuilt from the ledgers.

``python -m pyro_dgm.evaluation.results configs/results README.md`` writes it between its two markers;
``--check`` writes nothing and exits with 1 where the README and the ledgers differ.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pyro_dgm.atomic import write_text
from pyro_dgm.errors import Fault, InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, read_ledger

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
_HEAD = ("config", "data", "estimator", "test, nats", "bits/dim", "published", "source")


def row(ledger: Ledger) -> tuple[str, ...]:
    """Cells of one result, as negative log-likelihoods in nats per datum.

    Example:
        >>> row(Ledger(config="vae", config_sha256="", status="not yet run", estimated_hours=2.0))[3]
        'not yet run (about 2 h)'
    """
    published = f"{ledger.published.nats:.2f}" if ledger.published else ""
    source = ledger.published.source if ledger.published else ""
    name = f"[{ledger.config}](configs/{ledger.config}.yaml)"
    if ledger.log_likelihood is None or ledger.standard_error is None or ledger.bits_per_dim is None:
        hours = f"not yet run (about {ledger.estimated_hours:g} h)"
        return (name, ledger.data_set or "", ledger.estimator or "", hours, "", published, source)
    nats = f"{-ledger.log_likelihood:.2f} ± {ledger.standard_error:.2f}"
    binarize = (ledger.preprocessing or {}).get("binarize", "none")
    how = "" if binarize == "none" else f", {binarize} binarisation"
    given = f", given {', '.join(ledger.given)}" if ledger.given else ""
    data = f"{ledger.data_set}{how}, {ledger.split_size} {ledger.split}{given}"
    return (name, data, ledger.estimator or "", nats, f"{ledger.bits_per_dim:.4f}", published, source)


def table(folder: Path) -> str:
    """Markdown table of every ledger in a folder, by file name.

    Raises:
        InvalidInput: a file is no ledger, or there is none.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise InvalidInput("no ledgers", where=str(folder), expected="*.json", cure="configs/results")
    rows = [_HEAD, ("---",) * len(_HEAD), *(row(read_ledger(file)) for file in files)]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in rows)


def rebuilt(text: str, folder: Path) -> str:
    """Text with the table between its markers made anew.

    Raises:
        InvalidInput: the text has not each marker once, in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise InvalidInput("no place for the results", expected=f"{BEGIN} and then {END}, once each")
    return f"{before}{BEGIN}\n{table(folder)}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Rebuilds the table in a file, or with ``--check`` compares it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pyro_dgm.evaluation.results", description=__doc__)
    parser.add_argument("folder", type=Path, help="the ledgers, as configs/results")
    parser.add_argument("readme", type=Path, help="the file with the two markers, as README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where the two differ")
    options = parser.parse_args(argv)
    try:
        return rebuild(options.folder, options.readme, check=options.check)
    except Fault as fault:
        print(f"error: {fault}", file=sys.stderr)
        return fault.exit_code


def rebuild(folder: Path, readme: Path, *, check: bool = False) -> int:
    """Rebuilds the table in ``readme``; with ``check`` gives 1 where it differs and writes nothing."""
    try:
        old = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput("cannot read", where=str(readme), value=error.strerror) from None
    new = rebuilt(old, folder)
    if check and new != old:
        print(f"{readme} is not what {folder} gives; run pyro-dgm results {folder} {readme}", file=sys.stderr)
        return 1
    if not check:
        write_text(readme, new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
