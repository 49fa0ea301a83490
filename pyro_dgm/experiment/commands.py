"""Experiments: a config trained into a run directory, and what can be asked of the run afterwards."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch

from pyro_dgm.atomic import replacing
from pyro_dgm.diagnostics.pictures import image_grid
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, write_ledger
from pyro_dgm.experiment.build import build
from pyro_dgm.experiment.class_names import check_config, dotted_names
from pyro_dgm.experiment.config import config_hash, normalize, override, read_config
from pyro_dgm.experiment.estimate import FUNCTIONS, estimate
from pyro_dgm.experiment.rehearsal import rehearse
from pyro_dgm.experiment.run import LEDGER, NewFolder, Run, batch_facts, load_run, write_config
from pyro_dgm.experiment.run_pictures import draw_pictures, draw_samples
from pyro_dgm.experiment.user_files import importable, used_files
from pyro_dgm.objectives.player import adam
from pyro_dgm.program import Program
from pyro_dgm.training import Callback, TensorBoard, TrainingState, fit
from pyro_dgm.training.options import check_counts, check_seed
from pyro_dgm.training.random_state import forked


class _Begin(Callback):
    """Writes the config once ``fit`` has accepted its arguments."""

    def __init__(self, new: NewFolder, config: dict[str, Any], sources: Path) -> None:
        self.new, self.config, self.sources = new, config, sources

    def on_start(self, state: TrainingState) -> None:
        write_config(self.new.folder, self.config, sources=self.sources)
        self.new.begin()

    def on_epoch(self, state: TrainingState) -> None:
        pass


def _events(folder: Path) -> list[Callback]:
    """TensorBoard's event files beside the metrics, where it is installed."""
    return [TensorBoard(folder / "tensorboard")] if importlib.util.find_spec("tensorboard") else []


@contextmanager
def _section(section: str) -> Iterator[None]:
    """Names an argument of a function by its key in the config."""
    try:
        yield
    except InvalidInput as fault:
        if not fault.where.isidentifier():
            raise
        where = f"{section}.{fault.where}"
        raise InvalidInput(
            fault.what, where=where, value=fault.value, expected=fault.expected, cure=fault.cure
        ) from fault


def train(
    config_path: str | Path,
    *,
    changes: Iterable[tuple[str, str]] = (),
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[Run, Ledger, dict[str, Path]]:
    """Trains a config into a run directory and evaluates the result.

    Before anything is written, the program, the objective and the optimiser take one rehearsed step.

    Args:
        config_path: a YAML file; its folder is on the import path meanwhile.
        changes: dotted keys of the config and their new values as YAML.
        out: directory of the run; by default ``runs/`` and the config's name.
        overwrite: whether an older run there is replaced.
        progress: show progress on standard error.

    Returns:
        The run, its ledger and its pictures by name.

    Raises:
        Fault: see ``pyro_dgm/errors.py``; InvalidInput with the key of the config that is at fault.
    """
    path = Path(config_path)
    config = read_config(path)
    config.pop("run", None)  # the config of another run
    config = override(config, changes)
    with importable(path.parent, dotted_names(config)):
        new = NewFolder(Path("runs") / path.stem if out is None else Path(out), overwrite=overwrite)
        check_config(normalize(config))
        with _section("training"):
            seed = (config.get("training") or {}).get("seed", 0)
            check_seed(seed)
        pyro.set_rng_seed(seed)  # the program draws its first weights when it is built
        objects, resolved = build(config, FUNCTIONS)
        with _section("evaluation"):
            check_counts(**{name: objects.evaluation[name] for name in ("num_particles", "num_data")})
        rehearse(objects, config)
        program, data = objects.program, objects.data
        resolved["run"] = {
            "name": path.stem,
            "sha256": config_hash(config),
            "batch": batch_facts(data.train.batch(torch.arange(1))),
            "files": used_files(path.parent),
        }
        with new, _section("training"):
            fit(
                program,
                objects.objective,
                data,
                optimizer=objects.optimizer or adam,
                scheduler=objects.scheduler,
                callbacks=[_Begin(new, resolved, path.parent), *_events(new.folder)],
                out=new.folder,
                progress=progress,
                **objects.training.as_dict(),
            )
        run = Run(new.folder, resolved, program.eval(), data)
        pictures = draw_pictures(run)
        ledger = estimate(run, progress=progress, **objects.evaluation.as_dict())
        write_ledger(run.folder / LEDGER, ledger)
    return run, ledger, pictures


def evaluate(
    folder: str | Path, *, num_particles: int | None = None, trust: bool = False, progress: bool = True
) -> Ledger:
    """Evaluates a run again and writes its ledger.

    Args:
        folder: directory of a run.
        num_particles: draws from the guide per datum; those of the config by default.
        trust: see :func:`load`.
        progress: show a progress bar on standard error.
    """
    run = load_run(folder, FUNCTIONS, trust=trust, with_data=True)
    options = dict(run.config["evaluation"])
    if num_particles is not None:
        options["num_particles"] = num_particles
    ledger = estimate(run, progress=progress, **options)
    write_ledger(run.folder / LEDGER, ledger)
    return ledger


def sample(
    folder: str | Path,
    *,
    num: int = 64,
    out: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust: bool = False,
) -> tuple[Path, tuple[int, ...]]:
    """Draws samples from a run into a file: a picture of means (.png), or the draws themselves (.npy).

    Args:
        folder: directory of a run.
        num: number of samples.
        out: the file; by default the picture ``samples.png`` of the run is made anew.
        seed: of the draws.
        overwrite: whether ``out`` may exist.
        trust: see :func:`load`.

    Returns:
        The file and the shape of the samples.

    Raises:
        InvalidInput: no such kind of file, or it exists, or the model cannot be drawn from.
    """
    path = Path(folder) / "samples.png" if out is None else Path(out)
    writers: dict[str, Callable[[torch.Tensor, Path], None]] = {".png": image_grid, ".npy": _save_array}
    if path.suffix not in writers:
        raise InvalidInput("no such kind of file", where="--out", value=path, expected=" or ".join(writers))
    if out is not None and path.exists() and not overwrite:
        raise InvalidInput("output exists", where="--out", value=path, cure="another name, or --overwrite")
    program = load_run(folder, FUNCTIONS, trust=trust).program
    with forked(torch.device("cpu"), seed=seed):
        samples = draw_samples(program, num, mean=path.suffix == ".png")
    writers[path.suffix](samples, path)
    return path, tuple(samples.shape)


def _save_array(samples: torch.Tensor, path: Path) -> None:
    with replacing(path) as temporary:
        np.save(temporary, samples.numpy(), allow_pickle=False)


def load(folder: str | Path, *, trust: bool = False) -> Program:
    """Program of a run, with its trained weights, in evaluation mode; its data are not needed.

    Args:
        folder: directory of a run.
        trust: whether to run the user's own code that the run recorded.

    Raises:
        InvalidInput: no run, or one that names code which is not trusted.
        IntegrityError: a damaged checkpoint, or a recorded file that has changed.
    """
    return load_run(folder, FUNCTIONS, trust=trust).program
