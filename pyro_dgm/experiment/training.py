"""A config trained into a run directory, from its beginning or from where it was left."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyro_dgm.errors import IncompatibleModel, IntegrityError, InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, read_ledger, write_ledger
from pyro_dgm.experiment.config import Config
from pyro_dgm.experiment.estimate import estimate, evaluated
from pyro_dgm.experiment.going_on import check_going_on, differences
from pyro_dgm.experiment.main_process import is_main_process
from pyro_dgm.experiment.place import Place
from pyro_dgm.experiment.posterior import posterior_if_any
from pyro_dgm.experiment.prepare import Prepared, prepared, section
from pyro_dgm.experiment.run import (
    DERIVED,
    LEDGER,
    POSTERIOR,
    Run,
    keep_sources,
    read_run_config,
    write_config,
)
from pyro_dgm.experiment.run_pictures import draw_pictures
from pyro_dgm.objectives.player import adam
from pyro_dgm.training import Callback, TensorBoard, TrainingState, fit, load_weights


@dataclass(frozen=True)
class Result:
    """What ``train`` leaves.

    Args:
        run: the trained run.
        ledger: its numbers; None for a model that has none.
        files: pictures and posterior by name.
    """

    run: Run
    ledger: Ledger | None
    files: dict[str, Path]


class EventFiles(Callback):
    """TensorBoard's event files beside the metrics, where it is installed; none of a run that is finished already."""

    def __init__(self, folder: Path) -> None:
        present = importlib.util.find_spec("tensorboard") is not None
        self.inner = TensorBoard(folder / "tensorboard") if present else None
        self.start: TrainingState | None = None

    def on_start(self, state: TrainingState) -> None:
        self.start = replace(state, history=replace(state.history, rows=list(state.history.rows)))

    def on_epoch(self, state: TrainingState) -> None:
        if self.inner is None:
            return
        if self.start is not None:
            self.inner.on_start(self.start)
            self.start = None
        self.inner.on_epoch(state)

    def on_end(self, state: TrainingState) -> None:
        if self.inner is not None:
            self.inner.on_end(state)


class ConfigWriter(Callback):
    """Writes the config once ``fit`` has accepted its arguments, before the first checkpoint.

    What was made of earlier weights goes before the checkpoint at the end of an epoch: a run that is not finished
    may have been evaluated meanwhile.
    """

    def __init__(self, place: Place, ready: Prepared, config: Config, *, writes: bool) -> None:
        self.place, self.ready, self.config, self.writes = place, ready, config, writes

    def on_start(self, state: TrainingState) -> None:
        self.now()

    def on_epoch(self, state: TrainingState) -> None:
        self._remove_derived()

    def now(self) -> None:
        """Also for a finished run, whose evaluation alone is another one."""
        folder = self.place.folder
        if self.writes:
            if not self.place.goes_on:
                keep_sources(folder, self.config, source=self.ready.path.parent)
            self._remove_derived()  # of the shorter run, or of another evaluation
            write_config(folder, self.config)
        self.place.begin()
        self.writes = False

    def _remove_derived(self) -> None:
        for name in DERIVED:
            path = self.place.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def train(
    config_path: str | Path,
    *,
    changes: Iterable[tuple[str, str]] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> Result | None:
    """Trains a config into a run directory and evaluates the result.

    Before anything is written, the program, the objective and the optimiser take one rehearsed step. A run that is
    resumed goes on from its last checkpoint, bit for bit; one that is finished gets only those files that it lacks.
    Where there is nothing to go on from, a new run begins.

    Args:
        config_path: a YAML file; its folder is on the import path meanwhile.
        changes: dotted keys of the config and their new values as YAML.
        out: directory of the run; by default ``runs/`` and the config's name.
        overwrite: whether an older run there is replaced.
        resume: whether an older run there goes on.
        progress: show progress on standard error.

    Returns:
        The run, its ledger and its files; None in all but the first of several processes.

    Raises:
        Fault: see ``pyro_dgm/errors.py``; InvalidInput with the key of the config that is at fault.
        Interrupted: a signal came; the run can be resumed.
    """
    path = Path(config_path)
    folder = Path("runs") / path.stem if out is None else Path(out)
    if not is_main_process():
        with prepared(path, changes=changes) as ready, section("training"):
            _fit(ready, out=folder, resume=resume, progress=False)
        return None
    place = Place(folder, overwrite=overwrite, resume=resume)
    with prepared(path, changes=changes) as ready, place:
        evaluation = ready.objects.evaluation.as_dict()
        with section("evaluation"):
            evaluated(ready.objects.data, split=evaluation["split"], num_data=evaluation["num_data"])
        config, writes = ready.resolved, True
        if place.goes_on:
            old = read_run_config(folder)
            check_going_on(old, config, given=ready.config, sources=path.parent)
            writes = bool(differences(old, config, given=ready.config, free=("run",)))
            kept = {name: old["run"][name] for name in ("files", "versions") if name in old["run"]}
            config = {**config, "run": {**config["run"], **kept}} if writes else old
        else:
            _check_weights(ready, replaced=folder if overwrite else None)
        begin = ConfigWriter(place, ready, config, writes=writes)
        with section("training"):
            _fit(ready, [begin, EventFiles(folder)], out=folder, resume=resume, progress=progress)
        begin.now()
        run = Run(folder, config, ready.objects.program.eval(), ready.objects.data)
        return _finish(run, evaluation, progress=progress)


def _fit(ready: Prepared, callbacks: Iterable[Callback] = (), **options: Any) -> None:
    objects = ready.objects
    fit(
        objects.program,
        objects.objective,
        objects.data,
        optimizer=objects.optimizer or adam,
        scheduler=objects.scheduler,
        callbacks=list(callbacks),
        **options,
        **objects.training.as_dict(),
    )


def _check_weights(ready: Prepared, *, replaced: Path | None) -> None:
    """Names the key where the weights to start from are not to be had, before a folder is written into."""
    source = ready.objects.training.init_from
    if source is None:
        return
    try:
        if replaced is not None and Path(source).resolve().is_relative_to(replaced.resolve()):
            raise InvalidInput("the run that would be overwritten", where="--out", cure="another --out")
        load_weights(ready.objects.program, source)
    except (InvalidInput, IntegrityError) as fault:
        cause = f"{source}: {fault}" if str(source) not in str(fault) else str(fault)
        raise type(fault)(
            "no weights to start from",
            where="training.init_from",
            value=cause,
            cure="a run of the same program, or no init_from",
        ) from fault


def _finish(run: Run, evaluation: dict[str, Any], *, progress: bool) -> Result:
    """Makes what is still missing of a trained run."""
    files = draw_pictures(run)
    folder, diagnosis = run.folder, None
    ledger = read_ledger(folder / LEDGER) if (folder / LEDGER).is_file() else None
    if ledger is None or not (folder / POSTERIOR).is_file():
        diagnosis = posterior_if_any(run)
    if (folder / POSTERIOR).is_file():
        files["posterior"] = folder / POSTERIOR
    if ledger is None:
        try:
            ledger = estimate(run, progress=progress, **evaluation)
        except IncompatibleModel as fault:
            warnings.warn(f"no {LEDGER}: {fault}", stacklevel=2)
            return Result(run, None, files)
        ledger = diagnosis.marked(ledger) if diagnosis else ledger
        write_ledger(folder / LEDGER, ledger)
    return Result(run, ledger, files)
