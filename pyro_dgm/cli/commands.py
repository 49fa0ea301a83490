"""The commands: what each calls, and what it prints."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyro_dgm.cli.parser import Changes, Command
from pyro_dgm.cli.streams import print_json
from pyro_dgm.errors import InvalidInput

if TYPE_CHECKING:
    from pyro_dgm.evaluation.ledger import Ledger


def _train(options: argparse.Namespace, changes: Changes) -> None:
    helped = [(key.removesuffix(".help"), value) for key, value in changes if key.endswith(".help")]
    if helped:
        text = _explained(helped, options.config)
        print_json({"help": text}) if options.json else print(text)
        return
    if options.config is None:
        raise InvalidInput("no CONFIG", where="train", expected="a YAML file", cure="pyro-dgm train --help")
    if options.init_from is not None:
        changes = [*changes, ("training.init_from", _checked(options.init_from))]
    if options.dry_run:
        _dry_run(options, changes)
    elif options.seeds is not None:
        _repeat(options, changes)
    else:
        _train_once(options, changes)


def _explained(helped: Changes, config: str | None) -> str:
    from pyro_dgm.cli.class_help import class_help
    from pyro_dgm.experiment.user_files import importable

    with importable(Path(config).parent if config else Path(), [name for _, name in helped]):
        return "\n\n".join(class_help(key, name or None) for key, name in helped)


def _checked(run: str) -> str:
    """Path of a run as a YAML text, where the run has weights."""
    from pyro_dgm.training import find_checkpoint

    try:
        find_checkpoint(run)
    except InvalidInput as fault:
        raise InvalidInput(
            "no weights",
            where="--init-from",
            value=run,
            expected=fault.expected,
            cure="the directory of a run",
        ) from fault
    return json.dumps(run, ensure_ascii=False)


def _dry_run(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.experiment.dry_run import dry_run

    report = dry_run(options.config, changes=changes)
    if options.json:
        print_json(report.as_dict())
    else:
        print(report.text(), end="")


def _train_once(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.cli.tables import print_summary
    from pyro_dgm.experiment import train

    result = train(
        options.config,
        changes=changes,
        out=options.out,
        overwrite=options.overwrite,
        resume=options.resume,
        progress=not options.quiet,
    )
    if result is None:  # another process speaks
        return
    if options.json:
        files = {name: str(path) for name, path in result.files.items()}
        pictures = {name: path for name, path in files.items() if name != "posterior"}
        rest = {name: path for name, path in files.items() if name == "posterior"}
        print_json({"run": str(result.run.folder), **_plain(result.ledger), "pictures": pictures, **rest})
    else:
        print_summary(result.ledger, result.run.folder, result.files)


def _repeat(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.cli.tables import print_repetition
    from pyro_dgm.experiment import repeat

    found = repeat(
        options.config,
        num_seeds=options.seeds,
        changes=changes,
        out=options.out,
        overwrite=options.overwrite,
        resume=options.resume,
        progress=not options.quiet,
    )
    if options.json:
        ledgers = [_plain(ledger) for ledger in found.ledgers]
        runs = [str(run) for run in found.runs.values()]
        facts = {"run": str(found.folder), "seeds": list(found.runs), "runs": runs}
        print_json({**facts, "ledgers": ledgers, "summary": found.summary})
    else:
        print_repetition(found)


def _evaluate(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.cli.tables import print_summary
    from pyro_dgm.experiment import evaluate

    ledger = evaluate(
        options.folder,
        num_particles=options.num_particles,
        split=options.split,
        num_data=options.num_data,
        data_changes=changes,
        trust=options.trust,
        progress=not options.quiet,
    )
    if options.json:
        print_json({"run": options.folder, **_plain(ledger)})
    else:
        print_summary(ledger, Path(options.folder), {})


def _sample(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.experiment import sample

    found = sample(
        options.folder,
        num=options.num,
        y=options.y,
        out=options.out,
        seed=options.seed,
        overwrite=options.overwrite,
        trust=options.trust,
    )
    if options.json:
        labels = {} if found.y is None else {"y": found.y}
        print_json({"samples": str(found.path), "shape": list(found.shape), **labels})
    else:
        print(f"{found.shape[0]} samples{_given(found.y)}: {found.path}")


def _given(y: list[int] | None) -> str:
    """Labels in words: the one of all samples, or how the classes go on in turn."""
    if y is None:
        return ""
    classes = list(map(str, sorted(set(y))))
    named = classes if len(classes) <= 4 else [*classes[:2], "...", classes[-1]]
    return f" of y = {', '.join(named)}{' in turn' if 1 < len(classes) < len(y) else ''}"


def _diagnose(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.cli.tables import print_diagnosis
    from pyro_dgm.experiment import ReportOptions, diagnose

    found, report = diagnose(
        options.folder,
        num_samples=options.num_samples,
        num_data=options.num_data,
        options=ReportOptions(
            num_particles=options.num_particles,
            num_gap=options.num_gap,
            num_replications=options.num_replications,
            num_nuts=options.num_nuts,
        ),
        trust=options.trust,
        progress=not options.quiet,
    )
    if options.json:
        advice = dataclasses.asdict(report.advice)
        print_json({"run": options.folder, **found.as_dict(), "report": str(report.path), "advice": advice})
    else:
        print_diagnosis(found, report)


def _compare(options: argparse.Namespace, changes: Changes) -> None:
    from pyro_dgm.cli.tables import print_comparison
    from pyro_dgm.experiment import compare

    found = compare(options.folders)
    if options.json:
        runs = [
            {**_plain(run.ledger), **_without(run, "ledger"), "folder": str(run.folder)} for run in found.runs
        ]
        print_json({"runs": runs, "config": found.config})
    else:
        print_comparison(found)


def _results(options: argparse.Namespace, changes: Changes) -> int:
    from pyro_dgm.evaluation.results import rebuild

    return rebuild(options.ledgers, options.readme, check=options.check)


def _plain(ledger: Ledger | None) -> dict[str, Any]:
    values = {} if ledger is None else dataclasses.asdict(ledger)
    return {name: value for name, value in values.items() if value is not None}


def _without(value: Any, *names: str) -> dict[str, Any]:
    return {
        field.name: getattr(value, field.name)
        for field in dataclasses.fields(value)
        if field.name not in names
    }


COMMANDS: dict[str, Command] = {
    "train": _train,
    "evaluate": _evaluate,
    "sample": _sample,
    "diagnose": _diagnose,
    "compare": _compare,
    "results": _results,
}
