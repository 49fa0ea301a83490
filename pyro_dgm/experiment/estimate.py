"""What is measured of every trained run, and the functions whose arguments a config may hold."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.data import Dataset, Split
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.activity import active_units
from pyro_dgm.evaluation.ledger import Ledger, Published, versions
from pyro_dgm.evaluation.likelihood import log_likelihood
from pyro_dgm.experiment.build import Functions
from pyro_dgm.experiment.config import OBJECTS
from pyro_dgm.experiment.run import Run
from pyro_dgm.objectives.sites import observed_sites
from pyro_dgm.program import Program
from pyro_dgm.training import fit
from pyro_dgm.training.options import check_counts
from pyro_dgm.training.random_state import forked


def evaluated(data: Dataset, *, split: str, num_data: int | None) -> Split:
    """The part of the data that an evaluation is of.

    Args:
        data: a data set.
        split: ``"test"`` or ``"val"``.
        num_data: only that many data, from the first on; all if None.

    Raises:
        InvalidInput: fewer than two data, which have no standard error.
    """
    check_counts(num_data=num_data)
    part: Split = getattr(data, split)[:num_data]
    if len(part) < 2:
        raise InvalidInput(
            "too few data for a standard error",
            where="num_data",
            value=f"{len(part)} {split} data",
            expected="at least 2",
            cure="2 or more, or another split",
        )
    return part


@torch.no_grad()
def given_fields(program: Program, fields: Sequence[str], batch: tuple[Tensor, ...]) -> list[str]:
    """Fields of the data that the model conditions on: neither sites of its own nor the number of a datum.

    Args:
        program: the program.
        fields: names of the batch's tensors.
        batch: two data or more.
    """
    few = [field[:2] for field in batch]
    observed = observed_sites(poutine.trace(program.model).get_trace(*few))
    return [
        name
        for name, field in zip(fields, few, strict=True)
        if name != "index"
        and name not in observed
        and not any(site["value"] is field for site in observed.values())
    ]


def estimate(
    run: Run,
    *,
    num_particles: int = 5000,
    split: Literal["test", "val"] = "test",
    num_data: int | None = None,
    progress: bool = True,
) -> Ledger:
    """Numbers about a trained program: the importance-weighted log p(x), the bound, the active units.

    Random numbers are drawn from the seed of the training, so that an evaluation repeats.

    Args:
        run: a run with its data.
        num_particles: draws from the guide per datum.
        split: the part of the data.
        num_data: only that many data, from the first on; all by default.
        progress: show a progress bar on standard error.

    Raises:
        InvalidInput: no particles, or fewer than two data.
        IncompatibleModel: the model has no such numbers: it is implicit or unnormalised.
    """
    start = time.perf_counter()
    program, data = run.program, run.data
    assert data is not None  # of callers here, not of users
    part = evaluated(data, split=split, num_data=num_data)
    seed = run.config["training"]["seed"]
    with forked(run.device, seed=seed):
        batch = run.batch(part)
        value = log_likelihood(
            program.model, program.guide, *batch, num_particles=num_particles, progress=progress
        )
        units = active_units(program.guide, *batch)
        given = given_fields(program, part.fields, batch)
    published, rows = run.config.get("published"), run.rows
    return Ledger(
        config=run.config["run"]["name"],
        config_sha256=run.config["run"]["sha256"],
        published=Published(**published) if published else None,
        data_set=data.name,
        preprocessing=data.preprocessing,
        split=split,
        split_size=len(part),
        given=given or None,
        estimator="exact" if value.is_exact else f"importance sampling, {value.num_particles} particles",
        num_particles=value.num_particles,
        log_likelihood=value.mean,
        standard_error=value.standard_error,
        bits_per_dim=data.bits_per_dim(-value.mean),
        elbo=value.elbo,
        elbo_standard_error=value.elbo_standard_error,
        active_units=units,
        num_parameters=sum(weight.numel() for weight in program.parameters()),
        seed=seed,
        training_seconds=rows[-1]["seconds"] if rows else None,  # no row: it was stopped in its first epoch
        evaluation_seconds=time.perf_counter() - start,
        versions=versions(),
    )


# The arguments that are objects, or belong to the command line; the others are keys of the config.
FUNCTIONS: Functions = {
    "training": (
        fit,
        frozenset(["program_or_step", "callbacks", "out", "resume", "progress", *OBJECTS]),
    ),
    "evaluation": (estimate, frozenset(["run", "progress"])),
}
