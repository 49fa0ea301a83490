"""Faults that training itself meets, by the rows of the table of faults: 10, 11, 12, 31 and 32."""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from pyro_dgm import fit, load, log_weights
from pyro_dgm.data import Arrays
from pyro_dgm.errors import NonFiniteError
from pyro_dgm.evaluation.ledger import read_ledger
from pyro_dgm.objectives import ELBO
from pyro_dgm.program import Program
from tests.faults.conftest import REAL, Place, fault_of
from tests.faults.programs import Breaks, Location


def rows_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    """Whether two modules have the same state, bit for bit."""
    states = left.state_dict(), right.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


@pytest.mark.filterwarnings("always::UserWarning")
def test_row_10_fewer_data_than_a_batch_are_one_batch_with_one_warning(place: Place) -> None:
    losses = {}
    for size in (500, 32):
        changes = f"--training.batch_size={size}", "--training.steps=1"
        outcome = place.train(*place.program("Location"), *changes, run=f"{size}")
        assert outcome.code == 0 and len(outcome.warnings) == (size == 500), outcome.err
        losses[size] = rows_of(place.path(f"{size}"))[0]["loss"]
    assert losses[500] == losses[32]
    # Per datum: the density of the 32 training data at the first location, 1.
    x = Arrays(REAL).train.x
    normal = torch.distributions.Normal(torch.ones(3), 1.0)
    assert losses[500] == pytest.approx(-normal.log_prob(x).sum(1).mean().item(), rel=1e-6)


def test_row_10_fewer_data_than_a_batch_in_python() -> None:
    with pytest.warns(UserWarning, match="batches of 32 instead of 128: there are no more data") as caught:
        history = fit(Location(3), ELBO(), Arrays(REAL), epochs=3, progress=False)
    assert len(caught) == 1 and history.rows[-1]["step"] == 3


def labelled(place: Place) -> tuple[str, ...]:
    """Overrides for 25 training, 9 validation and 41 test data: 1 more than 3 or 1 batches of 8, or 2 of 20."""
    rng = np.random.default_rng(0)
    sizes = {"train": 25, "val": 9, "test": 41}
    arrays = {name: rng.normal(size=(size, 3)) for name, size in sizes.items()}
    labels = {f"{name}_labels": np.arange(size) % 3 for name, size in sizes.items()}
    np.savez(place.path("labelled.npz"), **arrays, **labels)
    return (
        place.program("Labelled")[0],
        f"--data.train={place.path('labelled.npz')}",
        "--data.labels=true",
        "--training.precision=float64",
        "--evaluation.num_data=null",
    )


def test_row_11_a_last_batch_of_one_is_dropped_in_training_and_whole_in_evaluation(place: Place) -> None:
    outcome = place.train(*labelled(place), "--training.steps=null", "--training.epochs=2")
    assert outcome.code == 0, outcome.err
    run = place.path("run")
    assert [row["step"] for row in rows_of(run)] == [3, 6]  # 25 data are three batches of 8
    assert "an incomplete last batch is dropped" in (fit.__doc__ or "")
    program = load(run, trust=True)
    data = Arrays(place.path("labelled.npz"), labels=True)

    def unbatched(x: torch.Tensor, y: torch.Tensor | None) -> float:
        with torch.no_grad():
            return log_weights(program.model, program.guide, x.double(), y).mean().item()

    val, test = unbatched(data.val.x, data.val.y), unbatched(data.test.x, data.test.y)
    assert rows_of(run)[-1]["val_loss"] == pytest.approx(-val, rel=1e-12)
    assert read_ledger(run / "evaluation.json").log_likelihood == pytest.approx(test, rel=1e-12)
    program.train()  # the statistics of the batch in place of the learned ones: the mistake would show
    assert unbatched(data.val.x, data.val.y) != pytest.approx(val, rel=1e-6)


def test_row_11_batches_of_one_are_refused_under_batch_normalisation(place: Place) -> None:
    changes = labelled(place)
    fault = fault_of(place.train(*changes, "--training.batch_size=1"))
    assert "more than 1 value per channel" in fault["value"] and "larger batch_size" in fault["cure"]


@pytest.mark.filterwarnings("always::UserWarning")
def test_row_12_constant_features_bring_a_warning_and_meet_a_floor(place: Place) -> None:
    changes = [
        place.data(np.full((40, 3), 2.0)),
        "--program.observation={class_path: NormalObservation, init_args: {data_shape: [3]}}",
        "--optimizer.lr=0.05",
        "--training.steps=200",
        "--json",
    ]
    outcome = place.train(*changes)
    assert outcome.code == 0 and len(outcome.warnings) == 1
    assert "3 of 3 features are constant in train, first at position (0,)" in outcome.warnings[0]
    # The documented floor of 1e-3 under the scale bounds the density of each of the three elements.
    assert 0 < json.loads(outcome.out)["log_likelihood"] <= -3 * math.log(1e-3 * math.sqrt(2 * math.pi))


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_row_31_nan_stops_before_the_update_and_keeps_the_last_checkpoint(place: Place, how: str) -> None:
    program = place.program("Breaks")
    changes = ["--training.steps=20", "--program.at=6", f"--program.how={how}"]  # four steps are an epoch
    fault = fault_of(place.train(*program, *changes), code=4, new=["run"])
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randperm(32, generator=generator), torch.randperm(32, generator=generator)
    assert not torch.equal(first, second)
    indices = ", ".join(str(i) for i in second.split(8)[1].tolist())
    assert fault["what"] == f"non-finite {how}" and fault["value"] == "nan"
    assert "step 6, site 'z' of the guide" in fault["where"]
    assert f"batch indices {indices} (8 in all)" in fault["where"]
    run = place.path("run")
    assert not (run / "evaluation.json").exists() and [row["step"] for row in rows_of(run)] == [4]
    assert place.train(*program, "--training.steps=4", run="four").code == 0
    assert same(load(run, trust=True), load(place.path("four"), trust=True))


def test_row_31_nan_in_the_first_epoch_names_the_step_too(place: Place) -> None:
    # There Pyro's own check of arguments comes first.
    fault = fault_of(place.train(*place.program("Breaks"), "--program.at=2"), code=4, new=["run"])
    assert "step 2, site 'z' of the guide" in fault["where"] and "(8 in all)" in fault["where"]


@pytest.mark.parametrize("how", ["loss", "gradient"])
def test_row_31_nan_leaves_parameters_as_they_were_in_python(how: str) -> None:
    def trained(program: Program, steps: int) -> Program:
        data, objective = Arrays(REAL), ELBO()
        objective(
            program.model, program.guide, data.train.x[:4]
        )  # a first look at the pair would count as a step
        fit(program, objective, data, steps=steps, batch_size=8, progress=False)
        return program

    broken = Breaks(3, at=6, how=how)
    with pytest.raises(NonFiniteError, match=f"non-finite {how} .* at step 6") as caught:
        trained(broken, 20)
    assert caught.value.exit_code == 4
    assert same(broken, trained(Breaks(3), 5)) and not same(broken, trained(Breaks(3), 6))


EXPLODING = ("--optimizer={class_path: torch.optim.SGD, init_args: {lr: 4.0}}", "--training.steps=12")


@pytest.mark.filterwarnings("always::UserWarning")
def test_row_32_an_exploding_loss_is_warned_of_once(place: Place) -> None:
    outcome = place.train(*place.program("Location"), *EXPLODING)
    assert outcome.code == 0 and len(outcome.warnings) == 1, outcome.err
    assert "the loss explodes" in outcome.warnings[0] and "max_loss" in outcome.warnings[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert place.train(*place.program("Location"), *EXPLODING[1:], run="sound").code == 0


def test_row_32_an_exploding_loss_is_stopped_at_max_loss(place: Place) -> None:
    changes = (*place.program("Location"), *EXPLODING, "--training.max_loss=50")
    fault = fault_of(place.train(*changes), code=4, new=["run"])
    assert fault["what"] == "loss above max_loss" and "step 3" in fault["where"]
    assert 50 < float(fault["value"]) < 5000
    assert not (place.path("run") / "evaluation.json").exists()
    fault = fault_of(place.train(*changes, "--training.max_loss=0", run="zero"), parts=["value", "expected"])
    assert fault["where"] == "training.max_loss"
