"""What no graph repeats runs plainly, after one warning that names the user's line; nothing is frozen silently."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from pyro_dgm.training import CompiledSVI, compiled_loss, tracing
from pyro_dgm.training.compiled_loss import CompiledLoss
from tests.training.beside_plain import assert_same, values


@pytest.fixture(autouse=True)
def uncompiled(monkeypatch):
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: module)


def halved(x: Tensor, mask: Tensor) -> Tensor:
    y = x.clone()
    y[mask] = 0.5
    return y


def borrowed(x: Tensor, mask: Tensor) -> Tensor:
    y = x.clone()
    y[mask] = (2 * x)[mask]
    return y


def columns(x: Tensor, mask: Tensor) -> Tensor:
    y = x.view(2, 2).clone()
    y[:, mask[:2]] = 0.0
    return y


def borrowed_by_two(x: Tensor) -> Tensor:
    y = x.clone()
    y[x > 0] = (2 * x)[x > 0]
    return y


flag, count = torch.tensor(1.0), torch.tensor(3)
PLAIN = {
    "item": lambda x: x * (2 if x.sum().item() > 0 else 1),
    "decision": lambda x: x * (2 if x.sum() > 0 else 1),
    "decision on a tensor from outside": lambda x: x * (2 if flag else 1),
    "float of a tensor from outside": lambda x: x * float(flag),
    "loop": lambda x: sum(x for _ in range(count)),
    "numpy": lambda x: x * float(x.detach().numpy().sum()),
    "asarray": lambda x: x * float(np.asarray(x.detach()).sum()),
    "tolist": lambda x: x * sum(x.tolist()),
    "print": lambda x: x * len(f"{x.sum():.3f}"),
    "mask": lambda x: x[x > 0],
    "mask in a tuple": lambda x: x.view(2, 2)[:, x[:2] > 0],
    "nonzero": lambda x: x[(x > 0).nonzero()],
    "where": lambda x: x[torch.where(x > 0)],
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "unique": lambda x: x * len((x > 0).unique()),
    "equal": lambda x: x * (2 if torch.equal(x, x.abs()) else 1),
    "repeat": lambda x: torch.repeat_interleave(x, (x > 0).long()),
    "numpy draw": lambda x: x * np.random.rand(),  # noqa: NPY002
    "two masks": borrowed_by_two,
}

COMPILED = {
    "item in arithmetic": lambda x: x * x.sum().item(),
    "item from outside": lambda x: x * flag.item(),
    "constant": lambda x: x * (2 if torch.tensor(3.0) > 0 else 1),
    "assigned number": lambda x: halved(x, x > 0),
    "assigned entries": lambda x: borrowed(x, x > 0),
    "assigned columns": lambda x: columns(x, x > 0),
    "masked_fill": lambda x: x.masked_fill(x > 0, 3.0),
    "validated prior": lambda x: dist.Normal(x, 1.0, validate_args=True).log_prob(x.detach() + 1) * x,
}


def results(program, batches):
    """Whether graphs were used, and losses and gradients beside those of the plain run."""
    w = torch.ones(4, requires_grad=True)
    loss, plain = (CompiledLoss(lambda x: program(w * x).square().sum(), [w]) for _ in range(2))
    plain.is_plain = True
    pairs = []
    for place, batch in enumerate(batches):
        flag.fill_(1.0 if place < 5 else 0.0)
        count.fill_(3 if place < 5 else 2)
        states = []
        for run in (loss, plain):
            np.random.seed(place)  # noqa: NPY002
            states.append(run(batch))
        pairs.append(states)
    return loss.is_plain, pairs


def is_right(pairs) -> bool:
    return all(
        torch.allclose(a.numbers, b.numbers) and torch.allclose(a.gradients[0], b.gradients[0])
        for a, b in pairs
    )


@pytest.mark.parametrize("name", PLAIN)
def test_what_depends_on_values_falls_back_and_says_where(name):
    line = re.escape(__file__) + r":\d+: "
    with pytest.warns(UserWarning) as record:
        is_plain, pairs = results(PLAIN[name], torch.randn(8, 4))
    assert is_plain and is_right(pairs)
    assert len(record) == 1
    text = str(record[0].message)
    assert text.startswith("not compiled, so that steps take longer: ")
    assert re.search(line, text) or name == "numpy draw", text


@pytest.mark.parametrize("name", COMPILED)
def test_what_has_a_fixed_shape_is_compiled(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        is_plain, pairs = results(COMPILED[name], torch.randn(8, 4))
    assert not is_plain and is_right(pairs)


class NoGuard(tracing._Guard):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class NoRecording(tracing._Recording):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "place", "fault"),
    [
        ("decision on a tensor from outside", "_Guard", NoGuard),
        ("mask in a tuple", "_Guard", NoGuard),
        ("repeat", "_Guard", NoGuard),
        ("numpy", "_Recording", NoRecording),
        ("tolist", "_Recording", NoRecording),
    ],
)
def test_without_its_guard_a_value_is_frozen(name, place, fault, monkeypatch):
    """The mutants: each of these would be silently wrong, or stop, from the third call on."""
    monkeypatch.setattr(tracing, place, fault)
    monkeypatch.setattr(compiled_loss, "disagreement", lambda found, plain: None)
    try:
        _, pairs = results(PLAIN[name], torch.randn(8, 4))
    except (RuntimeError, IndexError):
        return
    assert not is_right(pairs)


class Annealed:
    """A pair whose temperature is a number of its own."""

    def __init__(self):
        self.beta = 1.0

    def model(self, x):
        with pyro.poutine.scale(scale=self.beta):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.poutine.scale(scale=self.beta):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def test_a_number_of_the_models_own_that_changes_is_noticed():
    def run(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        pair, x = Annealed(), torch.randn(5, 2)
        svi = kind(pair.model, pair.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        losses = []
        for step in range(15):
            pair.beta = 1.0 if step < 9 else 5.0  # the tenth call of the graph is the eleventh step
            losses.append(svi.step(x))
        return losses[:9] + losses[10:], values()

    expected = run(SVI)[0]
    with pytest.warns(UserWarning, match="as if a number from outside had changed") as record:
        losses = run(CompiledSVI)[0]
    assert len(record) == 1
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-2, atol=1e-2)


def test_a_fallen_back_pair_steps_as_plain_svi():
    def run(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)

        def model(x):
            scale = 1.0 if x.mean() > 0 else 2.0
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

        guide = pyro.infer.autoguide.AutoNormal(model)
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
        return [svi.step(x) for x in torch.randn(8, 5, 2)], values()

    expected = run(SVI)
    with pytest.warns(UserWarning, match="decision.*test_training_compile_fallback.py") as record:
        assert_same(run(CompiledSVI), expected, rtol=1e-6)
    assert len(record) == 1


def test_a_pair_at_its_optimum_is_not_taken_for_a_changed_one():
    """There a gradient is nothing but rounding."""

    def model(x):
        mu = pyro.param("mu", torch.tensor(0.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    x = 100 + torch.randn(1000)
    svi = CompiledSVI(model, lambda x: None, pyro.optim.SGD({"lr": 1e-3}), Trace_ELBO())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(110):
            svi.step(x)
    assert not svi._gradient.is_plain
