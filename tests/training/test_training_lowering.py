"""What is rewritten in a graph before it is compiled: draws stay torch's, a Bernoulli takes one exponential."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from pyro_dgm.training import lowering, products

_aten = torch.ops.aten


def rewritten(function, *inputs):
    module = make_fx(function)(*inputs)
    lowering._as_drawn(module)
    lowering._share_exponentials(module)
    module.graph.lint()
    module.recompile()
    return module, [node.target for node in module.graph.nodes if node.op == "call_function"]


def loss_and_gradient(x, y):
    x = x.detach().requires_grad_()
    loss = cross_entropy(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss, gradient


def extremes(dtype):
    x = torch.cat([torch.linspace(-40, 40, 801), torch.tensor([-1e4, -200.0, -1e-8, 0.0, 1e-8, 200.0, 1e4])])
    x = x.to(dtype)
    return x.repeat(2), torch.cat([torch.zeros_like(x), torch.ones_like(x)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_bernoulli_takes_one_exponential(dtype):
    x, y = extremes(dtype)
    module, targets = rewritten(loss_and_gradient, x, y)
    assert targets.count(_aten.exp.default) == 1
    assert not {_aten.sigmoid.default, _aten.binary_cross_entropy_with_logits.default} & {*targets}
    x, y = x.double(), y.double()
    # torch's own loss cancels two numbers of the size of x.
    exact = x.clamp_min(0) - x * y + torch.log1p(torch.exp(-x.abs())), torch.sigmoid(x) - y
    for found, expected in zip(module(x.to(dtype), y.to(dtype)), exact, strict=True):
        error = (found.double() - expected).abs() / expected.abs().clamp_min(1)
        assert error.max() <= 2 * torch.finfo(dtype).eps


def test_a_wrong_sigmoid_is_caught():
    x, y = extremes(torch.float64)
    module, _ = rewritten(loss_and_gradient, x, y)
    for node in module.graph.find_nodes(op="call_function", target=_aten.where.self):
        node.args = (node.args[0], node.args[2], node.args[1])
    module.recompile()
    assert not torch.allclose(module(x, y)[1], loss_and_gradient(x, y)[1])


def test_a_sigmoid_may_come_first():
    x, y = extremes(torch.float64)

    def run(x, y):
        return torch.sigmoid(x), cross_entropy(x, y, reduction="none")

    module, targets = rewritten(run, x, y)
    assert targets.count(_aten.exp.default) == 1
    for found, expected in zip(module(x, y), run(x, y), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "mean"},
        {"reduction": "sum"},
        {"reduction": "none", "pos_weight": torch.full((1616,), 2.0)},
    ],
    ids=lambda options: "-".join(options),
)
def test_other_losses_stay(options):
    x, y = extremes(torch.float32)
    module, targets = rewritten(lambda x, y: cross_entropy(x, y, **options), x, y)
    assert _aten.exp.default not in targets
    assert torch.equal(module(x, y), cross_entropy(x, y, **options))


def drawn(probs, weights):
    noise = torch.empty(3, 4).normal_()
    turned = torch.bernoulli(probs.repeat(9, 9).t())
    shifted = torch.empty(3, 4).normal_(2.0, 0.5)
    return torch.bernoulli(probs) @ weights, noise @ weights, shifted, turned, torch.rand(3)


def test_draws_are_those_of_torch(monkeypatch):
    """And what follows them may be rewritten, too."""
    monkeypatch.setattr(products, "_has_slow_products", lambda: True)
    inputs = torch.full((3, 4), 0.3), torch.randn(4, 5)
    module, targets = rewritten(drawn, *inputs)
    assert _aten.bernoulli.default not in targets
    assert targets.count(_aten.normal_.default) == 1 and _aten.randn.default in targets
    products.faster_products(module)
    module.recompile()
    found = []
    for run in (module, drawn):
        torch.manual_seed(0)
        found.append(run(*inputs))
    for value, expected in zip(*found, strict=True):
        torch.testing.assert_close(value, expected)
