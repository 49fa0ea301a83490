"""The directory of a run: made, and read back into a program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from pyro_dgm.atomic import write_text
from pyro_dgm.data import Dataset
from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.experiment.build import Functions, build
from pyro_dgm.experiment.class_names import dotted_names, foreign_names
from pyro_dgm.experiment.config import Config, read_config
from pyro_dgm.experiment.user_files import check_files, importable, keep_files
from pyro_dgm.program import Program
from pyro_dgm.training import load_weights
from pyro_dgm.training.options import resolve_dtype

CONFIG, METRICS, LEDGER, SOURCES = "config.yaml", "metrics.jsonl", "evaluation.json", "sources"


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
    def rows(self) -> list[dict[str, Any]]:
        """Rows of ``metrics.jsonl``."""
        with open(self.folder / METRICS, encoding="utf-8") as file:
            return [json.loads(line) for line in file]


class NewFolder:
    """Directory of a run that is about to begin; an older run gives way only once training really starts.

    Args:
        folder: where.
        overwrite: whether an older run there may be replaced.

    Raises:
        InvalidInput: something is there already; with ``overwrite``, something that is no run.
        ResourceError: the directory cannot be made.
    """

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self.folder = folder
        self._aside = folder.with_name(f".replaced-{folder.name}")
        self._begun = False
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            if not overwrite:
                cure = "--out with another name, or --overwrite"
                raise InvalidInput("output exists", where="--out", value=folder, cure=cure)
            if not self._is_run():
                expected = "a run, which alone is overwritten"
                raise InvalidInput(
                    "no run", where="--out", value=folder, expected=expected, cure="another name"
                )
        self._replaces = overwrite and self._is_run()

    def _is_run(self) -> bool:
        # A run that was killed at its very start has metrics and no config.
        return any((self.folder / name).is_file() for name in (CONFIG, METRICS))

    def __enter__(self) -> NewFolder:
        try:
            if self._replaces:
                shutil.rmtree(self._aside, ignore_errors=True)
                self.folder.rename(self._aside)
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            cure = "--out with a folder that can be written"
            value = f"{self.folder} ({error.strerror})"
            raise ResourceError("cannot make the run", where="--out", value=value, cure=cure) from error
        return self

    def begin(self) -> None:
        """The run has begun: what it replaces goes."""
        self._begun = True
        shutil.rmtree(self._aside, ignore_errors=True)

    def __exit__(self, *error: object) -> None:
        if not self._begun:
            shutil.rmtree(self.folder, ignore_errors=True)
            if self._replaces:
                self._aside.rename(self.folder)


def write_config(folder: Path, config: Mapping[str, Any], *, sources: Path) -> None:
    """Writes the config of a new run and copies the user's files that it used.

    Raises:
        ResourceError: the directory cannot be written.
    """
    try:
        keep_files(config["run"]["files"], source=sources, target=folder / SOURCES)
        write_text(folder / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    except OSError as error:
        raise ResourceError("cannot write the run", where=str(folder), value=error.strerror) from error


def load_run(
    folder: str | Path, functions: Functions, *, trust: bool = False, with_data: bool = False
) -> Run:
    """Program of a run with its trained weights, without its data unless they are asked for.

    Only code of pyro_dgm, pyro and torch is imported. With ``trust`` also the user's files that the run recorded,
    if their hashes are still the recorded ones, and other packages that the config names.

    Args:
        folder: directory of a run.
        functions: see ``build``.
        trust: whether to run the code that the config names, whatever it is.
        with_data: whether to make the data set too.

    Raises:
        InvalidInput: the folder is no run, or names code that is not trusted.
        IntegrityError: a damaged checkpoint or a changed file.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise InvalidInput("no run", where=str(folder), expected=f"a folder with {CONFIG}, as train leaves")
    config = read_config(folder / CONFIG)
    facts = config.get("run")
    if not isinstance(facts, dict) or not {"files", "batch"} <= facts.keys():
        raise InvalidInput(
            "not the config of a run", where=str(folder / CONFIG), expected="as train wrote it"
        )
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
    program.to(resolve_dtype((config.get("training") or {}).get("precision", "float32")))
    load_weights(program, folder)
    return Run(folder, config, program.eval(), objects.data if with_data else None)


def batch_facts(batch: tuple[torch.Tensor, ...]) -> list[list[Any]]:
    """Type and shape of the data in a batch, as ``config.yaml`` holds them."""
    return [[str(part.dtype).removeprefix("torch."), *part.shape[1:]] for part in batch]
