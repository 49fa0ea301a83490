"""A graph sees what changes around it: parameters, buffers, flags, arguments, shapes."""

from __future__ import annotations

import copy
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceGraph_ELBO
from torch import nn

from pyro_dgm.errors import NonFiniteError
from pyro_dgm.training import CompiledSVI, compiled_loss
from pyro_dgm.training.compiled_loss import CompiledLoss
from tests.training.beside_plain import assert_same, values
from tests.training.compiled_pairs import regularised, score


@pytest.fixture(autouse=True)
def made(graphs):
    torch.set_default_dtype(torch.float64)
    return graphs


def adam():
    return pyro.optim.Adam({"lr": 0.05})


class Net(nn.Module):
    """A pair that is never called as a module; its scale is read of it directly."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.shift = nn.Parameter(torch.zeros(2))
        self.register_buffer("scale", torch.ones(2))

    def model(self, x, beta=1.0, stage=0):
        pyro.module("net", self)
        with pyro.plate("data", len(x)), poutine.scale(scale=beta):
            z = pyro.sample("z", dist.Normal(self.shift if stage == 0 else -self.shift, beta).to_event(1))
            h = z.tanh() if self.training else z
            pyro.sample("x", dist.Normal(self.layer(h) + stage, self.scale).to_event(1), obs=x)

    def guide(self, x, beta=1.0, stage=0):
        pyro.module("net", self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))


def both(change, steps=10):
    """Trajectories of a plain and a compiled run, in which `change(net, count)` gives each step's arguments."""
    found = []
    for kind in (SVI, CompiledSVI):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        net, x = Net(), torch.randn(6, 2)
        svi = kind(net.model, net.guide, adam(), Trace_ELBO())
        losses = [svi.step(*(change(net, count) or (x,))) for count in range(steps)]
        found.append(
            (losses, {**values(), **{f"module {n}": v.clone() for n, v in net.state_dict().items()}})
        )
    return found


def in_place(net, count):
    with torch.no_grad():
        net.layer.weight.mul_(1.1)
        net.scale.mul_(1.1)
        net.shift.data = net.shift.data + 0.1


def replaced(net, count):
    if count == 5:
        net.shift = nn.Parameter(torch.ones(2))
        net.layer.weight = nn.Parameter(torch.ones(2, 2))


def loaded(net, count):
    if count == 5:
        net.load_state_dict({name: torch.full_like(value, 0.5) for name, value in net.state_dict().items()})


def assigned(net, count):
    if count == 5:
        state = {name: torch.full_like(value, 0.5) for name, value in net.state_dict().items()}
        net.load_state_dict(state, assign=True)


def flagged(net, count):
    net.train(count % 4 < 2)


def frozen(net, count):
    if count == 0:
        net.layer.requires_grad_(False)
    if count == 5:
        net.layer.requires_grad_(True)


@pytest.mark.parametrize(
    ("change", "number"),
    [(in_place, 1), (replaced, 2), (loaded, 1), (assigned, 2), (flagged, 2), (frozen, 2)],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.filterwarnings("ignore:.*requires_grad=False:UserWarning")  # by pyro.module
def test_what_changes_in_the_module_is_seen(change, number, made):
    plain, compiled = both(change)
    assert_same(compiled, plain, rtol=1e-10)
    assert len(made) == number


@pytest.mark.parametrize("fault", ["is_replaced", "training", "lifting"])
def test_a_graph_that_does_not_look_is_caught(fault, monkeypatch):
    monkeypatch.setattr(compiled_loss, "disagreement", lambda found, plain: None)
    change = {"is_replaced": replaced, "training": flagged, "lifting": in_place}[fault]
    if fault == "is_replaced":
        monkeypatch.setattr(compiled_loss.Touched, "is_replaced", lambda self: False)
    elif fault == "training":
        nothing = property(lambda self: [], lambda self, new: None)
        monkeypatch.setattr(compiled_loss.Touched, "modules", nothing, raising=False)
    else:
        original = compiled_loss._Graph
        frozen_graph = lambda f, captured, *rest: original(f, [c.detach().clone() for c in captured], *rest)  # noqa: E731
        monkeypatch.setattr(compiled_loss, "_Graph", frozen_graph)
    plain, compiled = both(change)
    with pytest.raises(AssertionError):
        assert_same(compiled, plain, rtol=1e-10)


def test_floats_are_inputs_and_integers_constants(made):
    x = torch.randn(6, 2)
    plain, compiled = both(lambda net, count: (x, 1.0 + 0.1 * count))
    assert_same(compiled, plain, rtol=1e-10)
    assert len(made) == 1
    plain, compiled = both(lambda net, count: (x, 1.0, count % 3))
    assert_same(compiled, plain, rtol=1e-10)
    assert len(made) == 1 + 3


def test_floats_keep_the_type_of_a_float32_pair(made):
    torch.set_default_dtype(torch.float32)
    plain, compiled = both(lambda net, count: (torch.ones(6, 2), 1.0 + 0.1 * count))
    assert_same(compiled, plain, rtol=1e-5)
    assert len(made) == 1


def test_too_many_constants_fall_back(made):
    x = torch.randn(6, 2)
    with pytest.warns(UserWarning, match="more than 8 graphs") as record:
        plain, compiled = both(lambda net, count: (x, 1.0, count), steps=14)
    assert len(record) == 1 and len(made) == 8
    assert_same(compiled, plain, rtol=1e-10)


def test_a_second_shape_makes_one_more_graph(made):
    batches = torch.randn(10, 2).split(4)  # 4, 4, 2
    plain, compiled = both(lambda net, count: (batches[count % 3],), steps=12)
    assert_same(compiled, plain, rtol=1e-10)
    assert len(made) == 2


def test_a_pair_made_double_is_traced_anew(made):
    torch.set_default_dtype(torch.float32)
    net = Net()
    svi = CompiledSVI(net.model, net.guide, adam(), Trace_ELBO())
    for _ in range(4):
        svi.step(torch.ones(6, 2))
    net.double()
    torch.set_default_dtype(torch.float64)
    loss = CompiledLoss(svi._gradient.run)
    x = torch.ones(6, 2, dtype=torch.float64)
    pyro.set_rng_seed(1)
    found = svi._gradient(x)
    loss.is_plain = True
    pyro.set_rng_seed(1)
    torch.testing.assert_close(found.numbers, loss(x).numbers, rtol=1e-12, atol=0)
    assert len(made) == 2


def test_a_cleared_store_starts_anew(made):
    def run(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide, batch = score()
        svi = kind(model, guide, adam(), Trace_ELBO())
        losses = [svi.step(*batch) for _ in range(4)]
        pyro.clear_param_store()
        return losses + [svi.step(*batch) for _ in range(4)], values()

    assert_same(run(CompiledSVI), run(SVI), rtol=1e-10)
    assert len(made) == 2


def test_a_run_that_replaces_its_own_parameters_is_plain():
    def pair():
        model, _, batch = score()

        def guide(x):
            q = pyro.param("q", torch.full((len(x),), 0.5))
            with pyro.plate("data", len(x)):
                infer = {"baseline": {"use_decaying_avg_baseline": True}}
                pyro.sample("b", dist.Bernoulli(q), infer=infer)

        return model, guide, batch

    def run(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide, batch = pair()
        svi = kind(model, guide, adam(), TraceGraph_ELBO())
        return [svi.step(*batch) for _ in range(6)], {}

    expected = run(SVI)
    with pytest.warns(UserWarning, match="each run puts another tensor"):
        assert_same(run(CompiledSVI), expected, rtol=1e-10)


def test_a_handler_around_a_step_is_heard():
    model, guide, batch = regularised(training=False)
    svi = CompiledSVI(model, guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    for _ in range(3):
        svi.step(*batch)
    with poutine.scale(scale=1e6):
        assert svi.step(*batch) > 1e6
    assert svi.step(*batch) < 1e6


def test_evaluate_loss_is_that_of_plain_svi_and_moves_nothing():
    def run(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        net, x = Net(), torch.randn(6, 2)
        svi = kind(net.model, net.guide, adam(), Trace_ELBO())
        svi.step(x)
        before = copy.deepcopy(net.state_dict())
        losses = [svi.evaluate_loss(x) for _ in range(4)]
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        return losses, {}

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(run(CompiledSVI), run(SVI), rtol=1e-10)


def batches(count, rows=6):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(rows, 2, generator=generator),) for _ in range(count)]


def several(run, make_optim=adam):
    """What `run` returns, with parameters, buffers and noise after it."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    net = Net()
    svi = CompiledSVI(net.model, net.guide, make_optim(), Trace_ELBO())
    found = run(svi)
    return found, {**values(), **dict(net.named_buffers()), "noise": torch.get_rng_state()}


@pytest.mark.parametrize(
    "make_optim", [adam, lambda: pyro.optim.SGD({"lr": 1e-3}), lambda: pyro.optim.RMSprop({"lr": 0.01})]
)
def test_several_steps_are_as_many_calls(make_optim):
    """Over compared calls, and with a batch of another shape among them."""
    data = batches(12) + batches(1, rows=4) + batches(100)
    one_by_one = several(lambda svi: [svi.step(*batch) for batch in data], make_optim)
    at_once = several(lambda svi: svi.steps(data), make_optim)
    in_parts = several(lambda svi: svi.steps(data[:20]) + svi.steps(iter(data[20:])), make_optim)
    for found in (at_once, in_parts):
        assert found[0] == one_by_one[0]
        assert all(torch.equal(found[1][name], value) for name, value in one_by_one[1].items())


def test_a_bad_batch_among_several_changes_nothing():
    data = batches(20)

    def run(svi, bad):
        svi.steps(data)
        if bad:
            with pytest.raises(NonFiniteError, match="step 21"):
                svi.steps([(torch.full((6, 2), torch.nan),), *data])
            with pytest.raises(NonFiniteError, match="step 23"):
                svi.steps([*data[:2], (torch.full((6, 2), torch.nan),), *data])
        else:
            svi.steps(data[:2])

    good, bad = several(lambda svi: run(svi, False)), several(lambda svi: run(svi, True))
    assert all(torch.equal(bad[1][name], value) for name, value in good[1].items())


@pytest.mark.parametrize("change", [lambda w: w.t(), lambda w: w[:2, :2]], ids=["turned", "cut"])
def test_data_at_the_same_address_may_have_another_shape(change):
    w = torch.arange(9.0).view(3, 3).clone().requires_grad_()

    def run(x):
        return (x[: len(w)] @ w).square().sum()

    loss, x = CompiledLoss(run, [w]), torch.arange(3.0)
    for _ in range(3):
        loss(x)
    w.data = change(w.data)
    found = loss(x)
    assert found.numbers[0] == run(x) and found.gradients[0].shape == w.shape


def test_a_generator_of_the_models_own_falls_back():
    generator = torch.Generator().manual_seed(0)
    w = torch.ones(3, requires_grad=True)
    loss = CompiledLoss(lambda x: (w * torch.randn(3, generator=generator) * x).sum(), [w])
    with pytest.warns(UserWarning, match="a Generator of its own"):
        loss(torch.ones(3))
    assert loss.is_plain
