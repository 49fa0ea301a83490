"""Noise of compiled steps: that of plain ones, new at each step; and steps that are refused, which draw none."""

from __future__ import annotations

import math
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_dgm.errors import NonFiniteError
from pyro_dgm.training import CompiledSVI, compiled_loss, compiled_svi
from pyro_dgm.training.compiled_loss import CompiledLoss
from tests.training.beside_plain import assert_same, trajectory, values
from tests.training.compiled_pairs import regularised, score

Z_MOST = 4.9  # of a standard normal: false alarms at one test in a million
DRAWS = {
    "normal": lambda p: torch.randn(6),
    "normal with moments": lambda p: torch.normal(p, p),
    "in place": lambda p: torch.empty(6).normal_(1.0, 2.0),
    "uniform": lambda p: torch.rand(6),
    "uniform like": lambda p: torch.rand_like(p),
    "interval": lambda p: torch.empty(6).uniform_(-1.0, 2.0),
    "Bernoulli": lambda p: torch.bernoulli(p),
    "Bernoulli in place": lambda p: torch.empty(6).bernoulli_(0.3),
    "Bernoulli by tensor": lambda p: torch.empty(6).bernoulli_(p),
    "dropout": lambda p: torch.nn.functional.dropout(p, 0.4),
    "categorical": lambda p: dist.Categorical(p).sample((6,)),
    "exponential": lambda p: dist.Exponential(p).sample(),
    "gamma": lambda p: dist.Gamma(p, 1.0).sample(),
    "beta": lambda p: dist.Beta(p, 2.0).sample(),
    "Dirichlet": lambda p: dist.Dirichlet(p).sample(),
    "Poisson": lambda p: torch.poisson(p),
    "binomial": lambda p: torch.binomial(torch.full((6,), 9.0), p),
    "geometric": lambda p: dist.Geometric(p).sample(),
    "Cauchy": lambda p: torch.empty(6).cauchy_(),
    "log-normal": lambda p: torch.empty(6).log_normal_(),
    "permutation": lambda p: torch.randperm(6),
    "integers": lambda p: torch.randint(0, 50, (6,)),
    "Student t": lambda p: dist.StudentT(3.0 + p).rsample(),
}
P = torch.linspace(0.1, 0.9, 6)


def drawn(w, p):
    """Depends on each draw and on its place among the others."""
    weights = torch.linspace(1.0, 2.0, 6)
    return sum((number + 1) * (w * weights * draw(p)).sum() for number, draw in enumerate(DRAWS.values()))


@pytest.mark.parametrize("seed", [3])
def test_every_draw_is_that_of_a_plain_run_once_compiled(seed):
    """One graph of all kinds of draws, really compiled: Inductor has rules of its own for some."""
    w = torch.ones(6, requires_grad=True)
    loss = CompiledLoss(lambda p: drawn(w, p), [w])
    plain = CompiledLoss(lambda p: drawn(w, p), [w])
    plain.is_plain = True
    for _ in range(3):
        loss(P)
    loss.run = None
    for again in range(5):
        states = []
        for run in (loss, plain):
            pyro.set_rng_seed(seed + again)
            states.append((run(P), torch.get_rng_state()))
        (found, after), (expected, after_plain) = states
        torch.testing.assert_close(found.numbers, expected.numbers, rtol=1e-6, atol=0)
        torch.testing.assert_close(found.gradients[0], expected.gradients[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(after, after_plain)


def correlation(losses: torch.Tensor) -> float:
    """Lag-one correlation in standard errors."""
    centred = losses - losses.mean()
    return float((centred[1:] * centred[:-1]).mean() / centred.square().mean() * math.sqrt(len(losses) - 1))


def noise_losses(monkeypatch, seed: int, steps: int = 400, draw=torch.randn) -> torch.Tensor:
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: module)
    w = torch.ones((), requires_grad=True)
    loss = CompiledLoss(lambda: (w * draw(50)).mean(), [w])
    pyro.set_rng_seed(seed)
    return torch.stack([loss().numbers[0] for _ in range(steps)])


def test_noise_is_new_at_each_step_and_follows_the_seed(monkeypatch):
    losses = noise_losses(monkeypatch, 1)
    assert len(losses.unique()) == len(losses)
    assert abs(correlation(losses)) < Z_MOST
    assert torch.equal(losses, noise_losses(monkeypatch, 1))
    assert not torch.equal(losses, noise_losses(monkeypatch, 2))


def test_frozen_or_lingering_noise_is_caught(monkeypatch):
    monkeypatch.setattr(compiled_loss, "disagreement", lambda found, plain: None)
    constant = torch.randn(50)
    assert len(noise_losses(monkeypatch, 1, draw=lambda n: constant).unique()) == 1
    state = [torch.zeros(())]

    def lingering(n):
        return torch.randn(n) + state[0].copy_(0.5 * state[0] + torch.randn(()))

    assert abs(correlation(noise_losses(monkeypatch, 1, draw=lingering))) > Z_MOST


def adam():
    return pyro.optim.Adam({"lr": 0.01})


@pytest.mark.parametrize("kind", ["same seed", "comparisons move the noise"])
def test_probing_comparing_and_compiling_draw_nothing(kind, monkeypatch):
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: module)
    expected = trajectory(SVI, score, Trace_ELBO, adam, steps=12)
    if kind == "same seed":
        assert_same(trajectory(CompiledSVI, score, Trace_ELBO, adam, steps=12), expected, rtol=1e-5)
        return
    monkeypatch.setattr("pyro_dgm.training.random_state.restore", lambda state: None)
    monkeypatch.setattr(pyro.util, "set_rng_state", lambda state: None)
    monkeypatch.setattr(compiled_loss, "disagreement", lambda found, plain: None)
    with pytest.raises(AssertionError):
        assert_same(trajectory(CompiledSVI, score, Trace_ELBO, adam, steps=12), expected, rtol=1e-5)


def everything(svi, model):
    optimizers = [copy for p in svi.optim.optim_objs.values() for copy in p.state_dict()["state"].values()]
    moments = [torch.as_tensor(v).clone() for state in optimizers for v in state.values()]
    buffers = [buffer.clone() for buffer in model.__self__.buffers()]
    return [*values().values(), *moments, *buffers, torch.get_rng_state()]  # in order of their making


@pytest.mark.filterwarnings("ignore:Encountered NaN")  # by Pyro, in plain runs
@pytest.mark.parametrize("steps", [0, 1, 2, 5])  # none, plain, compared, compiled
@pytest.mark.parametrize("is_validated", [False, True])
def test_a_bad_batch_is_refused_and_changes_nothing(steps, is_validated, monkeypatch):
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: module)
    model, guide, (x,) = regularised()
    svi = CompiledSVI(model, guide, adam(), Trace_ELBO())
    pyro.enable_validation(is_validated)
    bad = x.clone()
    bad[3, 2] = float("nan")
    for _ in range(steps):
        svi.step(x)
    before = everything(svi, model)
    with pytest.raises(NonFiniteError, match=re.escape(f"step {steps + 1}, site 'z' of the guide")):
        svi.step(bad)
    after = everything(svi, model)  # the first step has made the parameters
    assert all(torch.equal(a, b) for a, b in zip(after[::-1], before[::-1], strict=steps > 0))
    assert math.isfinite(svi.step(x))
    assert svi._gradient.is_plain is False


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("restore", lambda state: None),
        ("CompiledSVI._undo", lambda self, before: None),
    ],
)
def test_a_refused_step_that_leaves_traces_is_caught(place, fault, monkeypatch):
    owner, _, name = place.rpartition(".")
    monkeypatch.setattr(getattr(compiled_svi, owner) if owner else compiled_svi, name, fault)
    with pytest.raises(AssertionError):
        test_a_bad_batch_is_refused_and_changes_nothing(5, False, monkeypatch)


def test_a_gradient_that_is_not_finite_is_refused(monkeypatch):
    """The square root of zero: a finite loss with an infinite slope."""
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: module)

    def loss(model, guide, x):
        return pyro.param("w", torch.ones(())).mul(x).sqrt()

    svi = CompiledSVI(lambda x: None, lambda x: None, adam(), loss)
    for _ in range(4):
        svi.step(torch.ones(()))
    before = values()
    with pytest.raises(NonFiniteError, match="non-finite gradient in step 5"):
        svi.step(torch.zeros(()))
    assert values() == before
