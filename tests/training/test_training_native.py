"""Functions in C++: products in every layout and the update of Adam, each beside the exact one."""

from __future__ import annotations

import pytest
import torch

from pyro_dgm.training import native

# Sizes around those of registers, of what is transposed at a time, and of what is copied together first.
SHAPES = [
    (1, 1, 1), (1, 784, 1), (5, 3, 7), (33, 17, 65), (128, 64, 64), (129, 255, 511), (20, 300, 600), (40, 1000, 530),
    (300, 500, 20), (1000, 700, 130), (64, 500, 450),
]  # fmt: skip
EPSILON = torch.finfo(torch.float32).eps


@pytest.fixture
def functions():
    found = native.native()
    if found is None:
        pytest.skip("no functions in C++: they need AVX512 and a C++ compiler")
    return found


def layouts(rows, columns, seed):
    """The same matrix by rows, by columns and as a part of a larger one."""
    value = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    wide = torch.zeros(rows, columns + 3)
    wide[:, :columns] = value
    return [value, value.t().contiguous().t(), wide[:, :columns]]


def close(found, left, right):
    exact = left.double() @ right.double()
    # Rounding of sums of `inner` terms of size one: six deviations.
    return torch.allclose(found.double(), exact, rtol=0, atol=6 * EPSILON * left.shape[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_right_in_every_layout(shape, functions):
    m, k, n = shape
    for left in layouts(m, k, 1):
        for right in layouts(k, n, 2):
            found = functions.product(left, right)
            assert found.is_contiguous() and close(found, left, right)
            assert not close(functions.product(left, right.flip(0)), left, right) or k == 1  # a mutant


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_empty_products_are_zero(functions, shape):
    m, k, n = shape
    assert torch.equal(functions.product(torch.ones(m, k), torch.ones(k, n)), torch.zeros(m, n))


def adam(kind, dtype, *, steps=7, seed=0, **options):
    """Parameters after some steps of torch's optimiser, with all that went into them."""
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(size, generator=generator).to(dtype) for size in (1, 15, 16, 33, 1000)]
    parameters = [value.clone().requires_grad_() for value in draw]
    optimizer = kind(parameters, **options)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
        optimizer.step()
    gradients = [torch.randn(parameter.shape, generator=generator).to(dtype) for parameter in parameters]
    return parameters, optimizer, gradients


def step_of_torch(found):
    parameters, optimizer, gradients = found
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()


def step_of_ours(found, functions, **other):
    parameters, optimizer, gradients = found
    states = [optimizer.state[parameter] for parameter in parameters]
    group = optimizer.param_groups[0]
    options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
    options |= {"decoupled": isinstance(optimizer, torch.optim.AdamW), **other}
    moments = [[state[name] for state in states] for name in ("exp_avg", "exp_avg_sq", "step")]
    functions.adam(parameters, *moments)(gradients, **options)


def error(found, exact):
    """Largest distance of parameters and moments from the exact ones, in units of rounding."""
    worst = 0.0
    for mine, theirs in zip(found[0], exact[0], strict=True):
        pairs = [(mine, theirs)] + [
            (found[1].state[mine][name], exact[1].state[theirs][name])
            for name in ("exp_avg", "exp_avg_sq", "step")
        ]
        for value, expected in pairs:
            gap = (value.detach().double() - expected.double()).abs() / expected.double().abs().clamp_min(
                1e-2
            )
            worst = max(worst, gap.max().item() / EPSILON)
    return worst


ADAMS = [
    (torch.optim.Adam, {"lr": 0.01}),
    (torch.optim.Adam, {"lr": 0.5, "betas": (0.5, 0.9), "eps": 1e-2}),
    (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.3}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.3}),
]


@pytest.mark.parametrize(("kind", "options"), ADAMS)
def test_an_update_is_that_of_adam(kind, options, functions):
    exact, beside, ours = (
        adam(kind, dtype, **options) for dtype in (torch.float64, torch.float32, torch.float32)
    )
    for found in (exact, beside):
        step_of_torch(found)
    step_of_ours(ours, functions)
    assert error(ours, exact) <= 2 * error(beside, exact) + 4


@pytest.mark.parametrize(
    "fault",
    [{"betas": (0.91, 0.999)}, {"betas": (0.9, 0.99)}, {"eps": 1e-3}, {"decoupled": False}, {"lr": 0.011}],
)
def test_a_wrong_update_is_caught(fault, functions):
    kind, options = ADAMS[-1]
    exact, beside, ours = (
        adam(kind, dtype, **options) for dtype in (torch.float64, torch.float32, torch.float32)
    )
    for found in (exact, beside):
        step_of_torch(found)
    step_of_ours(ours, functions, **fault)
    assert error(ours, exact) > 2 * error(beside, exact) + 4


def test_gradients_may_lie_otherwise(functions):
    options = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "decoupled": False}
    gradient, found = torch.randn(6, 4).t(), []
    for other in (gradient, gradient.contiguous()):
        parameter, first, second = torch.ones(4, 6), torch.zeros(4, 6), torch.zeros(4, 6)
        step = functions.adam([parameter], [first], [second], [torch.zeros(())])
        step([other], **options)
        step([other], **options)
        found.append(parameter)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], 1 - 0.2 * gradient.sign())


def test_a_compiler_that_fails_is_no_error(monkeypatch, tmp_path):
    broken = tmp_path / "broken.cpp"
    broken.write_text("int")
    monkeypatch.setattr(native, "_SOURCE", broken)
    assert native.native.__wrapped__() is None


def test_another_processor_has_none(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert native.native.__wrapped__() is None
