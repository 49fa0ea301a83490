"""Products of matrices in compiled graphs: right in every layout, and left to torch where there is no faster way."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dgm.training import products

SHAPES = [(1, 1, 1), (1, 784, 1), (5, 3, 7), (33, 17, 65), (128, 64, 64), (129, 255, 511)]


@pytest.fixture
def slow_products(monkeypatch):
    monkeypatch.setattr(products, "_has_slow_products", lambda: True)


@pytest.fixture
def micro():
    operation = products.micro_product()
    if operation is None:
        pytest.skip("oneDNN's micro-kernel cannot be had here")
    return operation


def layouts(rows, columns, seed):
    """The same matrix by rows, by columns and as a part of a larger one."""
    value = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    wide = torch.zeros(rows, columns + 3)
    wide[:, :columns] = value
    return [value, value.t().contiguous().t(), wide[:, :columns]]


def close(found, left, right):
    exact = left.double() @ right.double()
    # Rounding of sums of `inner` terms of size one: six deviations.
    return torch.allclose(found.double(), exact, rtol=0, atol=6 * 1.2e-7 * left.shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["micro", "blocked"])
def test_products_are_right_in_every_layout(shape, kind, request):
    operation = request.getfixturevalue("micro") if kind == "micro" else products.blocked_product()
    m, k, n = shape
    for left in layouts(m, k, 1):
        for right in layouts(k, n, 2):
            found = operation(left, right)
            assert found.is_contiguous() and close(found, left, right)
            assert not close(operation(left, right.flip(0)), left, right) or k == 1  # a mutant


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_empty_products_are_zero(micro, shape):
    m, k, n = shape
    assert torch.equal(micro(torch.ones(m, k), torch.ones(k, n)), torch.zeros(m, n))


def rewritten(function, *inputs):
    module = make_fx(function)(*inputs)
    products.faster_products(module)
    module.recompile()
    found = module(*inputs)
    assert torch.allclose(found, function(*inputs), rtol=1e-4, atol=1e-4)
    return [
        str(node.target).partition(".default")[0] for node in module.graph.nodes if "mm" in str(node.target)
    ]


@pytest.mark.parametrize(("size", "kind"), [(20, "pyro_dgm_products.mm"), (300, "pyro_dgm.mm")])
def test_small_products_go_to_the_micro_kernel_and_large_ones_to_onednn(
    micro, slow_products, monkeypatch, size, kind
):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    x, w, b = (torch.randn(shape) / size**0.5 for shape in ((size, size), (size, size), (size,)))
    assert rewritten(lambda x, w, b: torch.addmm(b, x, w.t()) @ w, x, w, b) == [kind] * 2


def test_several_threads_share_what_is_not_small(micro, slow_products, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    x = torch.randn(200, 200)
    assert rewritten(torch.mm, x, x) == ["pyro_dgm.mm"]


def test_without_the_kernel_small_products_stay(slow_products, monkeypatch):
    monkeypatch.setattr(products, "micro_product", lambda: None)
    small, large = torch.randn(20, 20), torch.randn(200, 200)
    assert rewritten(torch.mm, small, small) == ["aten.mm"]
    assert rewritten(torch.mm, large, large) == ["pyro_dgm.mm"]


def test_other_types_and_weighted_sums_stay(slow_products):
    x = torch.randn(20, 20, dtype=torch.float64)
    assert rewritten(torch.mm, x, x) == ["aten.mm"]
    y = x.float()
    assert rewritten(lambda y: torch.addmm(y, y, y, beta=0.5), y) == ["aten.addmm"]


def test_a_compiler_that_fails_is_no_error(monkeypatch, tmp_path):
    broken = tmp_path / "broken.cpp"
    broken.write_text("int")
    monkeypatch.setattr(products, "_SOURCE", broken)
    assert products.micro_product.__wrapped__() is None
