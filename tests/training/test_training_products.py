"""Products of matrices in compiled graphs go to what is quickest for their size, and are left to torch elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_dgm.training import products
from pyro_dgm.training.native import native

SMALL, LARGE, PLAIN = "pyro_dgm.small_product", "pyro_dgm.large_product", "aten.mm"


@pytest.fixture(autouse=True)
def slow_products(monkeypatch):
    monkeypatch.setattr(products, "_has_slow_products", lambda: True)


@pytest.fixture
def functions():
    if native() is None:
        pytest.skip("no functions in C++: they need AVX512 and a C++ compiler")


@pytest.mark.parametrize("shape", [(1, 1, 1), (33, 17, 65), (129, 255, 511)], ids=str)
def test_onednn_takes_every_layout(shape):
    m, k, n = shape
    products._operation("large_product")
    left, right = torch.randn(m, k), torch.randn(k, n)
    for a in (left, left.t().contiguous().t()):
        for b in (right, right.t().contiguous().t()):
            found = torch.ops.pyro_dgm.large_product(a, b)
            torch.testing.assert_close(found, left @ right, rtol=0, atol=1e-6 * k)


def rewritten(function, *inputs):
    module = make_fx(function)(*inputs)
    products.faster_products(module)
    module.recompile()
    found = module(*inputs)
    assert torch.allclose(found, function(*inputs), rtol=1e-4, atol=1e-4)
    names = [str(node.target) for node in module.graph.nodes if node.op == "call_function"]
    return [name.removesuffix(".default") for name in names if "mm" in name or "product" in name]


@pytest.mark.parametrize(
    ("threads", "size", "kind"), [(1, 20, SMALL), (1, 300, SMALL), (4, 20, SMALL), (4, 300, LARGE)]
)
def test_several_threads_share_what_is_not_small(functions, monkeypatch, threads, size, kind):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, w, b = (torch.randn(shape) / size**0.5 for shape in ((size, size), (size, size), (size,)))
    assert rewritten(lambda x, w, b: torch.addmm(b, x, w.t()) @ w, x, w, b) == [kind] * 2


def test_long_rows_go_to_onednn(functions, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert rewritten(torch.mm, torch.randn(100, 3000) / 50, torch.randn(3000, 100)) == [LARGE]


def test_without_a_compiler_small_products_stay(monkeypatch):
    monkeypatch.setattr(products, "native", lambda: None)
    small, large = torch.randn(20, 20), torch.randn(200, 200)
    assert rewritten(torch.mm, small, small) == [PLAIN]
    assert rewritten(torch.mm, large, large) == [LARGE]


def test_other_types_and_weighted_sums_stay():
    x = torch.randn(20, 20, dtype=torch.float64)
    assert rewritten(torch.mm, x, x) == [PLAIN]
    y = x.float()
    assert rewritten(lambda y: torch.addmm(y, y, y, beta=0.5), y) == ["aten.addmm"]


@pytest.mark.parametrize("has_bias", [False, True])
def test_products_of_products_are_rewritten(functions, has_bias):
    def run(x, w, b):
        return torch.addmm(b, torch.addmm(b, x, w), w) if has_bias else x @ w @ w

    x, w, b = torch.randn(20, 20), torch.randn(20, 20) / 5, torch.randn(20)
    assert rewritten(run, x, w, b) == [SMALL] * 2
