"""Path gradients, schedules and free bits in training: compiled as they are plainly, counted once a step, resumed."""

from __future__ import annotations

import functools
import json

import pyro
import pytest
import torch
from pyro.infer import SVI

from pyro_dgm.errors import Interrupted, NonFiniteError
from pyro_dgm.objectives import ELBO, IWAE, Cyclical, Linear, Player, Renyi
from pyro_dgm.training import CompiledSVI, Players
from tests.training.beside_plain import assert_same, trajectory
from tests.training.compiled_pairs import vae
from tests.training.stand_ins import Autoencoder, copy_of, same
from tests.training.test_training_resume import At, final_state, train, without_seconds

OBJECTIVES = {
    "doubly reparameterised": lambda: IWAE(5, gradient="dreg"),
    "sticking the landing, schedule": lambda: ELBO(gradient="stl", beta=Linear(20)),
    "IWAE, sticking the landing": lambda: IWAE(5, gradient="stl"),
    "free bits, schedule": lambda: ELBO(2, free_bits=0.2, beta=Cyclical(12, cycles=3)),
    "free bits by site, analytic": lambda: ELBO(free_bits=0.5, free_bits_per="site", kl="analytic", beta=2.0),
    "Renyi": lambda: Renyi(4, alpha=0.3),
}


class Plain(SVI):
    """Pyro's SVI, whose user advances the weights."""

    def step(self, *batch):
        loss = super().step(*batch)
        if hasattr(self.objective, "beta"):
            self.objective.beta.advance()
        return loss

    def __init__(self, model, guide, optim, loss):
        super().__init__(model, guide, optim, loss)
        self.objective = loss


def adam():
    return pyro.optim.Adam({"lr": 0.01})


def equal_to_plain(name, *, steps, rtol, each=None):
    make = OBJECTIVES[name]
    found = trajectory(CompiledSVI, vae, make, adam, steps=steps, each=each)
    assert_same(found, trajectory(Plain, vae, make, adam, steps=steps), rtol=rtol)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_compiled_steps_are_plain_ones(name, graphs):  # a warning (not compiled, ...) would be an error here
    torch.set_default_dtype(torch.float64)
    used = []
    equal_to_plain(name, steps=25, rtol=1e-10, each=lambda svi, count: used.append(svi._gradient))
    assert len(graphs) == 1 and not used[-1].is_plain


def test_the_comparison_sees_a_weight_that_stands_still(graphs, monkeypatch):
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(CompiledSVI, "_end_step", lambda self: None)
    with pytest.raises(AssertionError):
        equal_to_plain("sticking the landing, schedule", steps=5, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["doubly reparameterised", "sticking the landing, schedule"])
def test_steps_through_the_compiler_are_plain_ones(name):
    equal_to_plain(name, steps=12, rtol=1e-4)


# ---- a weight counts the steps that were taken


def test_players_do_not_count_a_refused_step():
    program, objective = Autoencoder(), ELBO(beta=Linear(20))
    loss = functools.partial(objective.report, program.model, program.guide)
    players = Players([Player("program", loss, list(program.parameters()))], modules=[program, objective])
    x = torch.randn(8, 4)
    for _ in range(3):
        players.step(x)
    with pytest.raises(NonFiniteError), pyro.validation_enabled(False):
        players.step(x * torch.nan)
    assert objective.beta.step.item() == 3
    players.step(x)
    assert objective.beta.step.item() == 4
    assert set(players.reports["program"]) == {"elbo", "kl"}


def test_compiled_steps_do_not_count_a_refused_one(graphs):
    program, objective = Autoencoder(), ELBO(beta=Linear(20), gradient="stl")
    svi = CompiledSVI(program.model, program.guide, adam(), objective)
    x = torch.randn(8, 4)
    with pyro.validation_enabled(False):
        for _ in range(4):
            svi.step(x)
        with pytest.raises(NonFiniteError):
            svi.step(x * torch.nan)
        assert objective.beta.step.item() == 4
        svi.steps([(x,), (x,), (x,)])
    assert objective.beta.step.item() == 7


def test_a_player_that_waits_does_not_slow_the_weight():
    """A weight counts steps, in which the players of ``every`` may or may not have played."""
    program, objective = Autoencoder(), ELBO(beta=Linear(20))
    loss = functools.partial(objective, program.model, program.guide)
    parameters = list(program.parameters())
    players = Players([Player("program", loss, parameters, every=3)], modules=[objective])
    for _ in range(6):
        players.step(torch.randn(8, 4))
    assert objective.beta.step.item() == 6


# ---- resumption


@pytest.mark.parametrize(
    "make",
    [
        lambda: ELBO(beta=Linear(40), gradient="stl"),
        lambda: ELBO(beta=Cyclical(40, cycles=3), free_bits=0.1),
        lambda: IWAE(3, gradient="dreg"),
    ],
    ids=["linear", "cyclical", "dreg"],
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, make):
    whole, objective = Autoencoder(), make()
    start = copy_of(whole)
    expected = train(whole, objective, tmp_path / "whole")
    program, other = Autoencoder(), make()
    program.load_state_dict(start)
    with pytest.raises(Interrupted):
        train(program, other, tmp_path / "cut", callbacks=[At()])
    program, other = Autoencoder(), make()  # other weights, and a schedule at its beginning
    history = train(program, other, tmp_path / "cut", resume=True)
    assert same(copy_of(program), copy_of(whole)) and same(copy_of(other), copy_of(objective))
    assert without_seconds(history) == without_seconds(expected)
    assert same(final_state(tmp_path / "cut")[0], final_state(tmp_path / "whole")[0])
    if hasattr(objective, "beta"):
        assert objective.beta.step.item() == 8 * 6  # of eight epochs, each of six whole batches
        assert "objective/beta.step" in final_state(tmp_path / "cut")[0]
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert all("elbo" in row for row in rows)


def test_the_comparison_sees_a_schedule_that_begins_anew(tmp_path, monkeypatch):
    def run(out, **options):
        torch.manual_seed(0)
        program = Autoencoder()
        train(program, ELBO(beta=Linear(40)), out, **options)
        return copy_of(program)

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", callbacks=[At()])
    program, objective = Autoencoder(), ELBO(beta=Linear(40))
    monkeypatch.setattr(objective, "load_state_dict", lambda *args, **kwargs: None)
    train(program, objective, tmp_path / "cut", resume=True)
    assert not same(copy_of(program), whole)
