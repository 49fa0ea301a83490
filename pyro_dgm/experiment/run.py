"""The directory of a run: made, and read back into a program."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pyro_dgm.atomic import write_text
from pyro_dgm.data import Dataset, Split
from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError
from pyro_dgm.experiment.build import Functions, build
from pyro_dgm.experiment.class_names import dotted_names, foreign_names
from pyro_dgm.experiment.config import Config, override, read_config
from pyro_dgm.experiment.user_files import check_files, importable, keep_files
from pyro_dgm.program import Program
from pyro_dgm.training import load_weights
from pyro_dgm.training.options import resolve_dtype

CONFIG, METRICS, SOURCES = "config.yaml", "metrics.jsonl", "sources"
LEDGER, POSTERIOR = "evaluation.json", "posterior.nc"
REPORT, REPORT_PICTURES = "report.html", "report"
# What is made of a trained program, and made anew where its config changes.
DERIVED = (LEDGER, POSTERIOR, REPORT, REPORT_PICTURES, "curves.png", "samples.png", "reconstructions.png")


@dataclass(frozen=True)
class Run:
    """A trained run, read back.

    Args:
        folder: its directory.
        config: its config, every value filled in.
        program: the program with the trained weights, in evaluation mode.
        data: its data set, where that was asked for.
    """

    folder: Path
    config: Config
    program: Program
    data: Dataset | None

    @property
    def device(self) -> torch.device:
        """Where the program is."""
        return next(iter(self.program.parameters()), torch.zeros(())).device

    def placed(self, part: Split) -> Split:
        """A part of the data where the program is and of its type.

        Args:
            part: of the data.
        """
        return part.to(self.device, next(iter(self.program.parameters()), torch.zeros(())).dtype)

    def batch(self, part: Split) -> tuple[torch.Tensor, ...]:
        """A whole part of the data as one batch, where the program is and of its type.

        Args:
            part: of the data.
        """
        return self.placed(part).batch(torch.arange(len(part), device=self.device))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``; a last line that was not finished is left out."""
        path = self.folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        try:
            return [json.loads(line) for line in lines if line.endswith("\n")]
        except ValueError as error:
            raise IntegrityError("damaged metrics", where=str(path), value=error) from error


def keep_sources(folder: Path, config: Mapping[str, Any], *, source: Path) -> None:
    """Copies the user's files that a run used into it.

    Raises:
        ResourceError: the directory cannot be written.
    """
    with _writing(folder):
        keep_files(config["run"]["files"], source=source, target=folder / SOURCES)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes the config of a run.

    Raises:
        ResourceError: the directory cannot be written.
    """
    with _writing(folder):
        write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ResourceError("cannot write the run", where=str(folder), value=error.strerror) from error


def read_run_config(folder: Path) -> Config:
    """Config of a run, as ``train`` wrote it.

    Raises:
        InvalidInput: the folder is no run.
    """
    if not (folder / CONFIG).is_file():
        raise InvalidInput(
            "no run", where=str(folder), expected=f"a folder with {CONFIG}, as train leaves", cure="its path"
        )
    config = read_config(folder / CONFIG)
    facts = config.get("run")
    if not isinstance(facts, dict) or not {"files", "batch"} <= facts.keys():
        raise InvalidInput(
            "not the config of a run", where=str(folder / CONFIG), expected="as train wrote it"
        )
    return config


def load_run(
    folder: str | Path,
    functions: Functions,
    *,
    trust: bool = False,
    with_data: bool = False,
    data_changes: Iterable[tuple[str, str]] = (),
) -> Run:
    """Program of a run with its trained weights, without its data unless they are asked for.

    Only code of pyro_dgm, pyro and torch is imported. With ``trust`` also the user's files that the run recorded,
    if their hashes are still the recorded ones, and other packages that the config names.

    Args:
        folder: directory of a run.
        functions: see ``build``.
        trust: whether to run the code that the config names, whatever it is.
        with_data: whether to make the data set too.
        data_changes: dotted keys of the config's data and their new values as YAML.

    Raises:
        InvalidInput: the folder is no run, or names code that is not trusted, or the data are of another shape.
        IntegrityError: a damaged checkpoint or a changed file.
    """
    folder, data_changes = Path(folder), list(data_changes)
    config = override(read_run_config(folder), data_changes)
    facts = config["run"]
    sections = ["program", "data"] if with_data else ["program"]
    named = [config.get(section) for section in sections]
    names = [*foreign_names(named), *facts["files"]]
    if names and not trust:
        expected = "code of pyro_dgm, pyro and torch alone"
        cure = "--trust (in Python trust=True), if you trust the code of this run"
        value = ", ".join(dict.fromkeys(names))
        raise InvalidInput(
            "code that is not trusted", where=str(folder), value=value, expected=expected, cure=cure
        )
    check_files(facts["files"], folder / SOURCES)
    with importable(folder / SOURCES, dotted_names(named)) if facts["files"] else nullcontext():
        objects, _ = build({**config, "run": None}, functions, sections=sections)
        program: Program = objects.program
        # Lazily made parameters exist once the program has run, for which the shape of a batch will do.
        program.materialize(
            *(torch.zeros(2, *shape, dtype=getattr(torch, dtype)) for dtype, *shape in facts["batch"])
        )
    if with_data:
        _check_batch(batch_facts(objects.data.train.batch(torch.arange(1))), facts["batch"])
        if not data_changes and facts.get("data_sha256") not in (None, data_hash(objects.data)):
            text = f"{folder}: the data are not those that the run was trained on; they have changed since"
            warnings.warn(text, stacklevel=2)
    program.to(resolve_dtype((config.get("training") or {}).get("precision", "float32")))
    load_weights(program, folder)
    return Run(folder, config, program.eval(), objects.data if with_data else None)


def _check_batch(found: list[list[Any]], expected: list[list[Any]]) -> None:
    shapes = [[part[1:] for part in parts] for parts in (found, expected)]
    if shapes[0] != shapes[1]:
        raise InvalidInput(
            "other data than the run was trained on", where="data", value=shapes[0], expected=str(shapes[1])
        )


def batch_facts(batch: tuple[torch.Tensor, ...]) -> list[list[Any]]:
    """Type and shape of the data in a batch, as ``config.yaml`` holds them."""
    return [[str(part.dtype).removeprefix("torch."), *part.shape[1:]] for part in batch]


def data_hash(data: Dataset) -> str:
    """sha256 of all data as they are stored, before any noise that is drawn anew for each batch.

    Args:
        data: a data set.
    """
    found = hashlib.sha256()
    for part in (data.train, data.val, data.test):
        for column in (part.stored, part.y, part.index):
            if column is not None:
                found.update(f"{column.dtype} {tuple(column.shape)}".encode())
                found.update(column.contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
