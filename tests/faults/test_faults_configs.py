"""Faults of configs and programs, by the rows 13 to 18 of the table of faults: all end before training."""

from __future__ import annotations

import math
import time
import tracemalloc

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm import Pair, fit
from pyro_dgm.data import Arrays
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.likelihood import log_likelihood
from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, IWAE, log_weights
from tests.faults.conftest import REAL, Place, fault_of
from tests.faults.programs import Switch

IWAE_WITH = "{{class_path: IWAE, init_args: {{num_particles: {}}}}}"
PYROS = "{class_path: PyroELBO, init_args: {elbo: {class_path: pyro.infer.NAME}}}"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("--objective.num_particles=0", "objective.init_args.num_particles"),
        (f"--objective={IWAE_WITH.format(0)}", "objective.init_args.num_particles"),
        ("--evaluation.num_particles=0", "evaluation.num_particles"),
    ],
    ids=["ELBO", "IWAE", "evaluation"],
)
def test_row_13_zero_particles_in_a_config(place: Place, change: str, where: str) -> None:
    fault = fault_of(place.train(change))
    assert (fault["where"], fault["value"]) == (where, "0") and ">= 1" in fault["expected"]


def test_row_13_zero_particles_of_pyros_own_elbo_which_returns_zero(place: Place) -> None:
    elbo = PYROS.replace("NAME", "Trace_ELBO, init_args: {num_particles: 0}")
    fault = fault_of(place.train(f"--objective={elbo}"))
    assert fault["where"] == "objective" and "num_particles" in fault["cure"]


def test_row_13_zero_particles_of_an_evaluation(place: Place) -> None:
    assert place.train().code == 0
    ledger = (place.path("run") / "evaluation.json").read_bytes()
    fault = fault_of(place.call("evaluate", place.path("run"), "--num-particles", "0"))
    assert "num_particles" in fault["where"] and fault["value"] == "0"
    assert (place.path("run") / "evaluation.json").read_bytes() == ledger


def test_row_13_zero_particles_in_python() -> None:
    ppca, x = PPCA(3, 1), torch.randn(4, 3)
    for make in (IWAE, ELBO):
        with pytest.raises(InvalidInput, match="num_particles: 0; expected an integer >= 1"):
            make(num_particles=0)
    for function in (log_weights, log_likelihood):
        with pytest.raises(InvalidInput, match="num_particles: 0; expected an integer >= 1"):
            function(ppca.model, ppca.guide, x, num_particles=0)


@pytest.mark.parametrize("change", ["lr=-1e-3", "lr=0", "lr=.nan", "lr=.inf"])
def test_row_14_bad_learning_rates(place: Place, change: str) -> None:
    fault = fault_of(place.train(f"--optimizer.{change}"))
    assert fault["where"] == "optimizer.init_args.lr" and fault["expected"] == "a positive number"


@pytest.mark.parametrize("change", ["epochs=-1", "epochs=0", "steps=-1", "batch_size=0"])
def test_row_14_bad_counts(place: Place, change: str) -> None:
    key, _, value = change.partition("=")
    fault = fault_of(place.train(f"--training.{change}"))
    assert (fault["where"], fault["value"]) == (f"training.{key}", value)


@pytest.mark.parametrize("rate", [-1.0, 0.0, math.nan, math.inf])
def test_row_14_bad_learning_rates_in_python(rate: float) -> None:
    with pytest.raises(InvalidInput, match="learning rate"):
        fit(
            PPCA(3, 1),
            ELBO(),
            Arrays(REAL),
            epochs=1,
            batch_size=8,
            optimizer=lambda p: torch.optim.Adam(p, lr=rate),
        )
    with pytest.raises(InvalidInput, match="epochs: -1"):
        fit(PPCA(3, 1), ELBO(), Arrays(REAL), epochs=-1)


@pytest.mark.parametrize(
    ("change", "where", "nearest"),
    [
        ("--trainin.epochs=1", "trainin", "training"),
        ("--training.epoch=1", "training.epoch", "epochs"),
        ("--program.latnt_dim=1", "program.init_args.latnt_dim", "latent_dim"),
        ("--objective.class_path=IWEA", "objective.class_path", "pyro_dgm.objectives.IWAE"),
    ],
)
def test_row_15_unknown_keys_are_answered_with_the_nearest(
    place: Place, change: str, where: str, nearest: str
) -> None:
    fault = fault_of(place.train(change), parts=["cure"])
    assert fault["where"] == where and fault["cure"] == nearest


@pytest.mark.parametrize(
    ("change", "where", "expected"),
    [
        ("--program.latent_dim=two", "program.init_args.latent_dim", "int"),
        ("--training.steps=2.5", "training.steps", "int or null"),
        ("--training={steps: 1, steps: 2}", "--training", "plain data"),
    ],
    ids=["text", "fraction", "key twice"],
)
def test_row_16_wrong_types_and_keys_twice(place: Place, change: str, where: str, expected: str) -> None:
    fault = fault_of(place.train(change), parts=["value", "expected"])
    assert (fault["where"], fault["expected"]) == (where, expected)


def test_row_16_alias_bomb_within_a_second_and_ten_megabytes(place: Place) -> None:
    fault_of(place.train(config="missing.yaml"), parts=["value", "cure"])  # what is imported late is imported
    # Two million x if it is read: enough to show, too few to hang.
    tenfold = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 7)]
    place.path("bomb.yaml").write_text("\n".join(["a0: &a0 [x, x]", *tenfold]))
    tracemalloc.start()
    start = time.process_time()
    outcome = place.train(config="bomb.yaml")
    seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    fault = fault_of(outcome, parts=["value", "expected"])
    assert "line 2 has an alias" in fault["value"] and seconds < 1.0 and peak < 10 * 2**20


@pytest.mark.parametrize(
    ("program", "objective", "where", "cure"),
    [
        ("Switch", IWAE_WITH.format(2), "site 'z'", "VIMCO"),
        ("Flow", "{class_path: ELBO, init_args: {kl: analytic}}", "site 'z'", "kl='monte_carlo'"),
        ("Switch", PYROS.replace("NAME", "TraceMeanField_ELBO"), "objective", "another objective"),
        ("Chain", PYROS.replace("NAME", "TraceMeanField_ELBO"), "PyroELBO", "Trace_ELBO"),
        ("Flow", PYROS.replace("NAME", "TraceMeanField_ELBO"), "site 'z'", "Trace_ELBO"),
    ],
    ids=[
        "IWAE, no paths",
        "analytic, a flow",
        "mean field, no paths",
        "mean field, order",
        "mean field, a flow",
    ],
)
def test_row_17_incompatible_options_are_refused_before_training(
    place: Place, program: str, objective: str, where: str, cure: str
) -> None:
    outcome = place.train(*place.program(program), f"--objective={objective}")
    fault = fault_of(outcome, parts=["expected", "cure"])
    assert fault["where"] == where and cure in fault["cure"]


def test_row_17_incompatible_options_in_python() -> None:
    with pytest.raises(InvalidInput, match=r"not reparameterised in site 'z'.*VIMCO"):
        fit(Switch(3), IWAE(num_particles=2), Arrays(REAL), epochs=1, batch_size=8, progress=False)


@pytest.mark.filterwarnings("always::UserWarning")  # Pyro's, which is all that Pyro itself has to say
@pytest.mark.parametrize("objective", ["ELBO", PYROS.replace("NAME", "Trace_ELBO")])
def test_row_18_latent_without_a_guide(place: Place, objective: str) -> None:
    outcome = place.train(*place.program("Unguided"), f"--objective={objective}")
    fault = fault_of(outcome, parts=["expected", "cure"])
    said = f"{fault['what']} {fault['where']} {fault.get('value')}"
    assert "guide" in said and "'z'" in said


def test_row_18_latent_without_a_guide_in_python() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, pyro.param("scale", torch.tensor(1.0))))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(InvalidInput, match="latent variable without a guide in site 'z'"):
        fit(Pair(model, lambda x: None), ELBO(), Arrays(REAL), epochs=1, batch_size=8, progress=False)
