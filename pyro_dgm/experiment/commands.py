"""What can be asked of a run: its numbers, a diagnosis of its guide, samples, the program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from pyro_dgm.atomic import replacing
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, read_ledger, write_ledger
from pyro_dgm.experiment.estimate import FUNCTIONS, estimate, evaluated
from pyro_dgm.experiment.posterior import NUM_DATA, NUM_SAMPLES, Diagnosis, draw_posterior
from pyro_dgm.experiment.rehearsal import check_observations
from pyro_dgm.experiment.report import Report, ReportOptions, report_run
from pyro_dgm.experiment.run import LEDGER, load_run, read_run_config
from pyro_dgm.experiment.samples import draw_picture, draw_samples
from pyro_dgm.experiment.wave_files import save_wave, wave_format_of_run
from pyro_dgm.program import Program
from pyro_dgm.training.lock import FolderLock
from pyro_dgm.training.options import check_seed
from pyro_dgm.training.random_state import forked


@contextmanager
def _held(folder: str | Path) -> Iterator[Path]:
    """Block in which no other process writes into a run."""
    read_run_config(Path(folder))
    with FolderLock(Path(folder)):
        yield Path(folder)


def evaluate(
    folder: str | Path,
    *,
    num_particles: int | None = None,
    split: str | None = None,
    num_data: int | None = None,
    data_changes: Iterable[tuple[str, str]] = (),
    trust: bool = False,
    progress: bool = True,
) -> Ledger:
    """Evaluates a run again and writes its ledger.

    Args:
        folder: directory of a run.
        num_particles: draws from the guide per datum; those of the config by default.
        split: ``"test"`` or ``"val"``; that of the config by default.
        num_data: only that many data, from the first on; the config's number by default.
        data_changes: dotted keys of the config's data and their new values as YAML: the path of files that have
            moved, or other data of the same shape.
        trust: see :func:`load`.
        progress: show a progress bar on standard error.

    Raises:
        InvalidInput: no run, a wrong argument, or data that do not fit.
        ResourceError: another process holds the run.
    """
    given = {"num_particles": num_particles, "split": split, "num_data": num_data}
    data_changes = list(data_changes)
    with _held(folder) as path:
        run = load_run(path, FUNCTIONS, trust=trust, with_data=True, data_changes=data_changes)
        options = {**run.config["evaluation"], **{k: v for k, v in given.items() if v is not None}}
        if data_changes and run.data is not None:
            name = options["split"]
            part = run.placed(evaluated(run.data, split=name, num_data=options["num_data"]))
            check_observations(run.program, {f"data.{name}": part}, device=run.device, batch_size=len(part))
        ledger = estimate(run, progress=progress, **options)
        if not data_changes and (path / LEDGER).is_file():  # the posterior is that of the same test data
            old = read_ledger(path / LEDGER)
            ledger = dataclasses.replace(ledger, reliable=old.reliable, reasons=old.reasons)
        write_ledger(path / LEDGER, ledger)
    return ledger


def diagnose(
    folder: str | Path,
    *,
    num_samples: int = NUM_SAMPLES,
    num_data: int = NUM_DATA,
    options: ReportOptions | None = None,
    trust: bool = False,
    progress: bool = True,
) -> tuple[Diagnosis, Report]:
    """Draws from the guide of a run on test data, judges them, and writes ``posterior.nc`` and ``report.html``.

    The run's ledger, if there is one, takes up the verdict.

    Args:
        folder: directory of a run.
        num_samples: draws per datum in ``posterior.nc``.
        num_data: number of test data in it, from the first on.
        options: how much the report is made of.
        trust: see :func:`load`.
        progress: show a progress bar on standard error.

    Raises:
        InvalidInput: no run, no draws or no data.
        IncompatibleModel: the model is implicit or unnormalised.
        ResourceError: another process holds the run.
    """
    with _held(folder) as path:
        run = load_run(path, FUNCTIONS, trust=trust, with_data=True)
        diagnosis = draw_posterior(run, num_samples=num_samples, num_data=num_data)
        if (path / LEDGER).is_file():
            write_ledger(path / LEDGER, diagnosis.marked(read_ledger(path / LEDGER)))
        report = report_run(run, options or ReportOptions(), progress=progress)
    return diagnosis, report


@dataclasses.dataclass(frozen=True)
class Sampled:
    """Samples that were written.

    Args:
        path: the file.
        shape: of the samples, (num, *data_shape).
        y: the labels that they were drawn given, one for each; None where the program takes none.
    """

    path: Path
    shape: tuple[int, ...]
    y: list[int] | None = None


def sample(
    folder: str | Path,
    *,
    num: int = 64,
    y: int | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
    trust: bool = False,
) -> Sampled:
    """Draws samples from a run into a file: a picture (.png), the draws themselves (.npy), or sound (.wav).

    The picture is that of ``train``, without the test data: of images their means, of audio the waveforms of the
    first eight draws, of vectors of whole numbers the first 64 as rows of cells, of other vectors the first two
    coordinates. Sound has 16 bits and the rate of the data, one draw after the other with a quarter of a second
    between them.

    Args:
        folder: directory of a run.
        num: number of samples.
        y: label of all samples, of a run with labels; by default 0, 1, ..., each class in turn, and then from 0 again.
        out: the file, whose folder is made if need be; by default the picture ``samples.png`` of the run is made anew.
        seed: of the draws.
        overwrite: whether ``out`` may exist.
        trust: see :func:`load`.

    Raises:
        InvalidInput: no such kind of file, or it exists, or the model cannot be drawn from or has no such label.
    """
    path = Path(folder) / "samples.png" if out is None else Path(out)
    check_seed(seed)
    kinds = (".png", ".npy", ".wav")
    if path.suffix not in kinds:
        expected = f"{', '.join(kinds[:-1])} or {kinds[-1]}"
        raise InvalidInput("no such kind of file", where="--out", value=path, expected=expected)
    if out is not None and path.exists() and not overwrite:
        raise InvalidInput("output exists", where="--out", value=path, cure="another name, or --overwrite")
    config = read_run_config(Path(folder))
    heard = wave_format_of_run(config)
    if heard is None and path.suffix == ".wav":
        data = config["data"]["class_path"]
        expected = f".png or .npy for data that are no audio of pyro_dgm ({data})"
        raise InvalidInput("no sound of these data", where="--out", value=path, expected=expected)
    program = load_run(folder, FUNCTIONS, trust=trust).program
    with forked(torch.device("cpu"), seed=seed):
        samples = draw_samples(program, num, y=y, mean=path.suffix == ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        draw_picture(samples, path, wave_format=heard)
    elif heard is not None and path.suffix == ".wav":
        save_wave(samples.x, path, wave_format=heard)
    else:
        with replacing(path) as temporary:
            np.save(temporary, samples.x.numpy(), allow_pickle=False)
    return Sampled(path, tuple(samples.x.shape), None if samples.y is None else samples.y.tolist())


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
