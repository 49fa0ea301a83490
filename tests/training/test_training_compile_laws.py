"""A graph gives Pyro's loss and gradients, for any pair and objective; with each law, a fault that it catches."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import SVI
from torch import Tensor

from pyro_dgm.training import CompiledSVI, compiled_loss, tracing
from pyro_dgm.training.touched import Touched
from tests.training.beside_plain import assert_same, reference, trajectory
from tests.training.compiled_pairs import PAIRS

RTOL = {
    torch.float32: (1e-6, 1e-5),
    torch.float64: (1e-12, 1e-10),
}  # of the loss, and of a gradient's largest entry
COMPILED = ("score", "subsampled")


@pytest.fixture
def uncompiled(monkeypatch):
    """The recorded graph runs as it is: whether it is right is one question, Inductor another."""
    monkeypatch.setattr(compiled_loss, "lower", lambda module, inputs: module)


def errors(name: str, dtype: torch.dtype) -> tuple[float, float]:
    """Largest relative error of the loss and of a gradient, at parameters that have moved since the graph was made."""
    torch.set_default_dtype(dtype)
    make, loss = PAIRS[name][0], PAIRS[name][1]()
    model, guide, batch = make()
    svi = CompiledSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss)
    for _ in range(3):
        svi.step(*batch)
    gradient = svi._gradient
    assert not gradient.is_plain
    with gradient.touched.unchanged([]):
        expected, slopes = reference(loss, model, guide, batch, seed=7)
    pyro.set_rng_seed(7)
    runs, gradient.run = gradient.run, None  # so that nothing but the graph can answer
    found = gradient(*batch)
    gradient.run = runs
    gradients = {p: g for p, g in zip(gradient.parameters, found.gradients, strict=True) if g is not None}
    assert {p for p, slope in slopes.items() if slope.any()} <= gradients.keys() <= slopes.keys()
    total = sum(found.numbers[:-1].tolist())
    loss_error = 0.0 if math.isnan(total) or total == expected else abs(total - expected) / abs(expected)
    gaps = [
        (g - slopes[p]).abs().max() / slopes[p].abs().max().clamp(min=1e-30) for p, g in gradients.items()
    ]
    return loss_error, float(max(gaps))


def holds(name: str, dtype: torch.dtype) -> bool:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    most = RTOL[dtype]
    if name == "spline flow" and dtype == torch.float32:
        most = (1e-6, 4e-5)  # plain float32 is up to 2e-5 away from float64 itself
    return all(error <= bound for error, bound in zip(errors(name, dtype), most, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_a_recorded_graph_is_pyros_loss_and_gradient(name, uncompiled):
    assert holds(name, torch.float64)


@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_graph_is_pyros_loss_and_gradient(name):
    assert holds(name, torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", RTOL, ids=str)
@pytest.mark.parametrize("name", PAIRS)
def test_every_compiled_graph_is_pyros_loss_and_gradient(name, dtype):
    assert holds(name, dtype)


@pytest.mark.parametrize("name", ["vae, wake-sleep", "schools", "vae, IWAE", "Bayesian regression"])
def test_steps_are_those_of_plain_svi(name, uncompiled):
    torch.set_default_dtype(torch.float64)
    make, loss = PAIRS[name]
    adam = lambda: pyro.optim.Adam({"lr": 0.01})  # noqa: E731
    expected = trajectory(SVI, make, loss, adam, steps=5)
    assert_same(trajectory(CompiledSVI, make, loss, adam, steps=5), expected, rtol=1e-10)


def test_a_loss_that_is_always_infinite_trains(uncompiled):
    make, loss = PAIRS["vae, tail-adaptive"]
    adam = lambda: pyro.optim.Adam({"lr": 0.01})  # noqa: E731
    losses, found = trajectory(CompiledSVI, make, loss, adam, steps=4)
    assert all(math.isinf(value) for value in losses)
    expected = trajectory(SVI, make, loss, adam, steps=4)[1]
    assert_same(([], found), ([], expected), rtol=1e-5)


def test_buffers_move_once_a_step(uncompiled):
    def counted(kind):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide, batch = PAIRS["batch norm and dropout"][0]()
        svi = kind(model, guide, pyro.optim.Adam({"lr": 0.01}), PAIRS["batch norm and dropout"][1]())
        for _ in range(12):
            svi.step(*batch)
        return model.__self__.encoder[1]

    found, expected = counted(CompiledSVI), counted(SVI)
    assert found.num_batches_tracked == expected.num_batches_tracked == 12
    torch.testing.assert_close(found.running_mean, expected.running_mean)


def no_lifting(module):
    """Captured tensors stay constants of the graph: a copy of each, as at its recording."""
    for node in module.graph.nodes:
        if node.op == "get_attr":
            value = getattr(module, node.target).detach().clone()
            delattr(module, node.target)
            setattr(module, node.target, value)
    return []


class ZeroItem(tracing._Recording):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return 0.0 if func is Tensor.item else super().__torch_function__(func, types, args, kwargs)


class NoBackward(tracing._Recording):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.backward and any(p.grad is not None for p in self.parameters):
            return None  # all but the first are lost
        return super().__torch_function__(func, types, args, kwargs)


@pytest.mark.parametrize(
    ("name", "place", "fault"),
    [
        ("vae", "_lift", no_lifting),
        ("vae, 3 particles in a loop", "_Recording", ZeroItem),
        ("vae, 3 particles in a loop", "_Recording", NoBackward),
        (
            "mixture, enumerated guide",
            "_expectation",
            lambda dice, costs: sum(cost.sum() for terms in costs.values() for cost in terms),
        ),
    ],
)
def test_the_law_catches_a_wrong_graph(name, place, fault, uncompiled, monkeypatch):
    monkeypatch.setattr(tracing, place, fault)
    monkeypatch.setattr(compiled_loss, "disagreement", lambda found, plain: None)
    assert not holds(name, torch.float64)


def test_the_law_of_buffers_catches_a_probe_that_moves_them(uncompiled, monkeypatch):
    monkeypatch.setattr("pyro_dgm.training.touched.put_back", lambda buffers: None)
    with pytest.raises(AssertionError):
        test_buffers_move_once_a_step(None)


def test_a_wrong_graph_is_left_at_its_first_call(uncompiled, monkeypatch):
    monkeypatch.setattr(tracing, "_Recording", ZeroItem)
    make, loss = PAIRS["score"][0], PAIRS["vae, 3 particles in a loop"][1]
    adam = lambda: pyro.optim.Adam({"lr": 0.01})  # noqa: E731
    expected = trajectory(SVI, make, loss, adam, steps=5)
    with pytest.warns(UserWarning, match="not compiled.*as if a number from outside had changed"):
        found = trajectory(CompiledSVI, make, loss, adam, steps=5)
    assert_same(found, expected, rtol=1e-5)


def test_a_module_is_found_by_what_is_read_of_it():
    layer, touched = torch.nn.Linear(1, 1), Touched()
    with touched.watched():
        layer.weight.sum()
    assert touched.modules == [layer]
