"""The report of a run: one HTML file with its pictures, numbers and a verdict."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_dgm.diagnostics.advice import Advice, advise
from pyro_dgm.diagnostics.examination import Examination, examine
from pyro_dgm.diagnostics.examination_report import findings
from pyro_dgm.diagnostics.examination_sections import examination_sections
from pyro_dgm.diagnostics.latent_pictures import traversal_grid
from pyro_dgm.diagnostics.pictures import grids_beside, worst_explained
from pyro_dgm.diagnostics.report import Picture, Section, Table, write_report
from pyro_dgm.errors import Fault
from pyro_dgm.evaluation.ledger import Ledger, quantity_of, read_ledger
from pyro_dgm.experiment.estimate import given_fields
from pyro_dgm.experiment.run import LEDGER, REPORT, REPORT_PICTURES, Run
from pyro_dgm.experiment.run_pictures import draw_pictures
from pyro_dgm.experiment.samples import draw_samples
from pyro_dgm.training.options import check_counts
from pyro_dgm.training.random_state import forked

_NUM_IMAGES = 64


@dataclass(frozen=True)
class ReportOptions:
    """How much a report is made of.

    Args:
        num_particles: draws from the guide for the importance weights of each test datum.
        num_gap: data for the inference gap, of the test and of the training data each.
        num_replications: simulated data for the calibration; 0 for none.
        num_nuts: data that are compared with Markov chains; 0 for none.
    """

    num_particles: int = 1000
    num_gap: int = 200
    num_replications: int = 1000
    num_nuts: int = 5


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Args:
        path: the file.
        examination: the numbers.
        advice: the verdict in words.
    """

    path: Path
    examination: Examination
    advice: Advice


def report_run(run: Run, options: ReportOptions, *, progress: bool = True) -> Report:
    """Examines the guide of a run on its test data and writes ``report.html``, with pictures in a folder beside it.

    Args:
        run: a run with its data.
        options: how much to do.
        progress: show a progress bar on standard error.

    Raises:
        InvalidInput: numbers below one where there must be some.
        IncompatibleModel: the model is implicit or unnormalised.
    """
    program, data = run.program, run.data
    assert data is not None  # of callers here, not of users
    check_counts(num_particles=options.num_particles, num_gap=options.num_gap)
    folder = run.folder / REPORT_PICTURES
    folder.mkdir(exist_ok=True)
    test, train = run.batch(data.test), run.batch(data.train[: options.num_gap])
    with forked(run.device):
        quantity = quantity_of(given_fields(program, data.test.fields, test))
    with forked(run.device, seed=run.config["training"]["seed"]):
        found = examine(
            program.model,
            program.guide,
            *test,
            train=train,
            num_samples=options.num_particles,
            num_gap=options.num_gap,
            num_replications=options.num_replications,
            num_nuts=options.num_nuts,
            quantity=quantity,
            progress=progress,
        )
        sections = [
            _training(run),
            *_pictures(run, test, found, folder),
            *examination_sections(found, folder),
        ]
    advice = advise(found)
    path = run.folder / REPORT
    write_report(
        path,
        f"Diagnosis of {run.folder.name}",
        sections,
        verdict=findings(advice),
        summary=_summary(run, found),
    )
    return Report(path, found, advice)


def _summary(run: Run, found: Examination) -> str:
    config = run.config
    names = [config[part]["class_path"].rpartition(".")[2] for part in ("program", "objective", "data")]
    number = 0 if found.importance is None else found.importance.k_hat.size
    return f"{names[0]}, trained by {names[1]} on {names[2]}; examined on {number:,} test data."


def _training(run: Run) -> Section:
    ledger = read_ledger(run.folder / LEDGER) if (run.folder / LEDGER).is_file() else None
    pictures = draw_pictures(run)
    shown = [Picture(pictures["curves"], "Loss by epoch, in nats per datum")]
    return Section("The run", "", shown, [Table(("", "value"), _facts(run, ledger))])


def _facts(run: Run, ledger: Ledger | None) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = [("epochs", len(run.rows))]
    for part in ("program", "objective", "data"):
        arguments = run.config[part].get("init_args") or {}
        given = ", ".join(f"{name}={json.dumps(value, default=str)}" for name, value in arguments.items())
        rows.append((part, f"{run.config[part]['class_path'].rpartition('.')[2]}({given})"))
    if ledger is not None and ledger.status == "done":
        bound = ("ELBO, nats", f"{ledger.elbo:.3f} ± {ledger.elbo_standard_error:.3f}")
        rows += [
            (
                f"{ledger.quantity}, nats",
                f"{ledger.log_likelihood:.3f} ± {ledger.standard_error:.3f} ({ledger.estimator})",
            ),
            *([] if ledger.estimator == "exact" else [bound]),
            ("bits per dimension", f"{ledger.bits_per_dim:.4f}"),
        ]
    return rows


def _pictures(run: Run, test: tuple[Any, ...], found: Examination, folder: Path) -> list[Section]:
    """What the model draws, what its latents do, and what it explains worst, where the data are images."""
    data, program = run.data, run.program
    assert data is not None
    drawn = draw_pictures(run)
    sections = []
    if len(data.data_shape) not in (2, 3):
        shown = [Picture(drawn["samples"], "Data and draws from the model")] if "samples" in drawn else []
        return [Section("What the model draws", "", shown)] if shown else []
    shown = []
    if "samples" in drawn:
        path, images = folder / "samples.png", test[0][:_NUM_IMAGES]
        grids_beside(images.cpu(), draw_samples(program, len(images), mean=True).x, path)
        drawn_as = " (means of p(x | z))" if found.has_latents else ""
        shown.append(Picture(path, f"Test data, and at the right draws from the model{drawn_as}"))
    if "reconstructions" in drawn:
        shown.append(
            Picture(drawn["reconstructions"], "Test data, each with its reconstruction at its right")
        )
    sections.append(Section("What the model draws", "", shown))
    moved = folder / "traversals.png"
    some = tuple(field[:500] for field in test)
    if found.has_latents and _made(
        "traversals", lambda: traversal_grid(program.model, program.guide, *some, path=moved)
    ):
        text = "Means of the data while one latent unit moves by 2.5 standard deviations to either side, around the "
        text += "posterior mean of the first test datum; the most active units first."
        sections.append(Section("What the latents do", text, [Picture(moved, "A row for each unit")]))
    if found.importance is not None and found.importance.log_p.ndim:
        path = folder / "worst_explained.png"
        worst_explained(test[0], found.importance.log_p, path)
        caption = "Test data that the model gives the lowest log-likelihood, in nats, and their numbers"
        sections.append(Section("What is explained worst", "", [Picture(path, caption)]))
    return sections


def _made(what: str, draw: Callable[[], object]) -> bool:
    """Whether a picture could be made; what cannot be is left out with a warning."""
    try:
        draw()
    except Fault as fault:
        warnings.warn(f"no {what} in the report: {fault}", stacklevel=3)
        return False
    return True
