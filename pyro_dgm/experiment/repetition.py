"""One config trained with several seeds, and how far the results spread."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, write_json
from pyro_dgm.experiment.config import override, read_config
from pyro_dgm.experiment.main_process import num_processes
from pyro_dgm.experiment.place import Place
from pyro_dgm.experiment.prepare import section
from pyro_dgm.experiment.run import CONFIG
from pyro_dgm.experiment.training import train
from pyro_dgm.training.options import check_counts, check_seed

SEEDS = "seeds.json"
_QUANTITIES = ("elbo", "log_likelihood", "bits_per_dim")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repetition:
    """Runs that differ in their seeds.

    Args:
        folder: holds the runs and ``seeds.json``.
        runs: directory by seed.
        ledgers: of the runs that have one, in the same order.
        summary: see :func:`spread_over_seeds`.
    """

    folder: Path
    runs: dict[int, Path]
    ledgers: list[Ledger]
    summary: dict[str, dict[str, float | None]]


def spread_over_seeds(ledgers: Sequence[Ledger]) -> dict[str, dict[str, float | None]]:
    r"""Mean, standard deviation s and standard error :math:`s / \sqrt N` of the mean, over N runs.

    This is the spread that another seed brings; the standard error in a ledger is that of the data evaluated.

    Args:
        ledgers: of runs of one config.

    Returns:
        By quantity: ``mean``, ``standard_deviation`` and ``standard_error_of_mean``; the last two are None for one run.

    Example:
        >>> runs = [Ledger(config="c", config_sha256="", elbo=elbo) for elbo in (-1.0, -3.0)]
        >>> spread_over_seeds(runs)["elbo"]["mean"]
        -2.0
    """
    found = {}
    for name in _QUANTITIES:
        values = [value for value in (getattr(ledger, name) for ledger in ledgers) if value is not None]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else None
            found[name] = {
                "mean": statistics.fmean(values),
                "standard_deviation": deviation,
                "standard_error_of_mean": None if deviation is None else deviation / math.sqrt(len(values)),
            }
    return found


def repeat(
    config_path: str | Path,
    *,
    num_seeds: int,
    changes: Iterable[tuple[str, str]] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> Repetition:
    """Trains a config once with each of the seeds from ``training.seed`` on, into ``seed-S`` within a folder.

    Args:
        config_path: a YAML file.
        num_seeds: number of runs.
        changes: dotted keys of the config and their new values as YAML.
        out: holds the runs; by default ``runs/`` and the config's name.
        overwrite: whether older runs there are replaced.
        resume: whether older runs there go on.
        progress: show progress on standard error.

    Raises:
        InvalidInput: no run at all, seeds out of range, several processes, or a run where several shall be.
        Fault: of a run; see :func:`~pyro_dgm.experiment.train`.
    """
    path, changes = Path(config_path), list(changes)
    if num_processes() > 1:
        cure = "one command a seed, with --training.seed"
        raise InvalidInput("several seeds in several processes", where="--seeds", value=num_seeds, cure=cure)
    check_counts(**{"--seeds": num_seeds})
    first = (override(read_config(path), changes).get("training") or {}).get("seed", 0)
    with section("training"):
        check_seed(first)
        check_seed(first + num_seeds - 1)
    folder = Path("runs") / path.stem if out is None else Path(out)
    if (folder / CONFIG).exists():
        raise InvalidInput(
            "a run where several shall be", where="--out", value=folder, cure="--out with another name"
        )
    runs = {seed: folder / f"seed-{seed}" for seed in range(first, first + num_seeds)}
    for run in runs.values():
        Place(run, overwrite=overwrite, resume=resume)  # refuses now what it would refuse hours later
    (folder / SEEDS).unlink(missing_ok=True)
    ledgers: list[Ledger] = []
    for seed, run in runs.items():
        logger.info("seed %d, run %d of %d", seed, len(ledgers) + 1, num_seeds)
        result = train(
            path,
            changes=[*changes, ("training.seed", str(seed))],
            out=run,
            overwrite=overwrite,
            resume=resume,
            progress=progress,
        )
        ledgers += [result.ledger] if result and result.ledger else []
    summary = spread_over_seeds(ledgers)
    names = [run.name for run in runs.values()]
    facts: dict[str, Any] = {"config": path.stem, "seeds": list(runs), "runs": names, "summary": summary}
    write_json(folder / SEEDS, facts)
    return Repetition(folder, runs, ledgers, summary)
