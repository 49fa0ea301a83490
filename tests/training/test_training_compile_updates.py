"""Twenty compiled steps are twenty plain ones, whatever the optimiser; schedules make no new graph."""

from __future__ import annotations

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import PyroLRScheduler, PyroOptim
from pyro.optim.clipped_adam import ClippedAdam

from pyro_dgm.training import CompiledSVI, update_part, updates
from tests.training.beside_plain import assert_same, trajectory
from tests.training.compiled_pairs import schools, vae


@pytest.fixture(autouse=True)
def lowered(graphs):
    torch.set_default_dtype(torch.float64)
    return graphs


def by_name(name):
    return {"lr": 0.03 if "loc" in name else 0.01, "betas": (0.8, 0.99)}


def exponential():
    options = {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.05}, "gamma": 0.9}
    return PyroLRScheduler(torch.optim.lr_scheduler.ExponentialLR, options)


def cycle():
    options = {"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.01, "momentum": 0.9}}
    return PyroLRScheduler(
        torch.optim.lr_scheduler.OneCycleLR, {**options, "max_lr": 0.01, "total_steps": 40}
    )


OPTIMIZERS = {
    "Adam": lambda: pyro.optim.Adam({"lr": 0.05}),
    "Adam, decayed": lambda: pyro.optim.Adam({"lr": 0.05, "weight_decay": 0.1, "betas": (0.8, 0.99)}),
    "Adam, amsgrad": lambda: pyro.optim.Adam({"lr": 0.05, "amsgrad": True}),
    "AdamW": lambda: pyro.optim.AdamW({"lr": 0.05, "weight_decay": 0.1}),
    "SGD": lambda: pyro.optim.SGD({"lr": 1e-3}),
    "SGD with momentum": lambda: pyro.optim.SGD({"lr": 1e-3, "momentum": 0.9, "nesterov": True}),
    "ClippedAdam": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.95, "clip_norm": 0.5}),
    "ClippedAdam, decayed": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "weight_decay": 0.1}),
    "ClippedAdam, centred": lambda: pyro.optim.ClippedAdam({"lr": 0.05, "centered_variance": True}),
    "options by name": lambda: pyro.optim.Adam(by_name),
    "clipped": lambda: pyro.optim.Adam({"lr": 0.05}, {"clip_norm": 0.5}),
    "RMSprop": lambda: pyro.optim.RMSprop({"lr": 0.01}),
    "exponential schedule": exponential,
    "cycle of rate and momentum": cycle,
}
SCHEDULED = ("exponential schedule", "cycle of rate and momentum")


def pair():
    return schools(AutoNormal)


def scheduled(svi, count):
    if isinstance(svi.optim, PyroLRScheduler):
        svi.optim.step()


def run(kind, optim, make=pair):
    return trajectory(kind, make, Trace_ELBO, optim, each=scheduled)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_steps_are_plain_ones(name, lowered):
    assert_same(run(CompiledSVI, OPTIMIZERS[name]), run(SVI, OPTIMIZERS[name]), rtol=1e-11)
    assert len(lowered) == 1


@pytest.mark.parametrize("name", ["Adam", "ClippedAdam", "SGD with momentum"])
def test_states_are_those_of_the_optimiser(name):
    found = {}
    for kind in (SVI, CompiledSVI):
        trajectory(
            kind,
            pair,
            Trace_ELBO,
            OPTIMIZERS[name],
            each=lambda svi, count: found.update({type(svi): svi.optim.get_state()}),
        )
    for parameter, state in found[SVI].items():
        (expected,), (other,) = state["state"].values(), found[CompiledSVI][parameter]["state"].values()
        for key, value in expected.items():
            torch.testing.assert_close(
                torch.as_tensor(other[key]), torch.as_tensor(value), rtol=1e-9, atol=1e-12
            )


def no_correction(monkeypatch):
    sqrt = type("math", (), {"sqrt": staticmethod(lambda x: 1.0)})
    monkeypatch.setattr(updates, "math", sqrt)


def no_clip(monkeypatch):
    monkeypatch.setattr(CompiledSVI, "_optimizer", unclipped)


def unclipped(svi, parameter):
    known = svi.optim.optim_objs.get(parameter)
    return known and (known, known.param_groups[0])


def no_momentum(monkeypatch):
    kernel = updates._KERNELS[torch.optim.SGD]

    def forgetful(part, gradients):
        for state in part.states:
            state["momentum_buffer"].zero_()
        kernel(part, gradients)

    monkeypatch.setitem(updates._KERNELS, torch.optim.SGD, forgetful)


def no_new_rates(monkeypatch):
    original = updates._adam_kernel

    def stale(part, *rest, **options):
        part.groups = [dict(part.groups[0], lr=0.05)]
        original(part, *rest, **options)

    monkeypatch.setattr(updates, "_adam_kernel", stale)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("ClippedAdam", no_correction),
        ("clipped", no_clip),
        ("SGD with momentum", no_momentum),
        ("exponential schedule", no_new_rates),
    ],
)
def test_a_wrong_update_is_caught(name, fault, monkeypatch):
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        assert_same(run(CompiledSVI, OPTIMIZERS[name]), run(SVI, OPTIMIZERS[name]), rtol=1e-11)


def test_parameters_of_two_types_are_moved():
    def mixed():
        model, guide, batch = vae()
        model.__self__.to(torch.float64)
        pyro.param("scale", torch.ones((), dtype=torch.float32))

        def scaled(x):
            scale = pyro.param("scale")
            with pyro.poutine.scale(scale=scale.square().double() + 1):
                model(x)

        return scaled, guide, batch

    for name in ("Adam", "ClippedAdam", "SGD with momentum"):
        assert_same(run(CompiledSVI, OPTIMIZERS[name], mixed), run(SVI, OPTIMIZERS[name], mixed), rtol=1e-5)


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1e-3}])
@pytest.mark.parametrize("name", ["ClippedAdam", "Adam"])
def test_strided_gradients_are_followed_and_data_are_not_clipped(name, clip):
    """Gradients of a sum, of a transposed product, and one that is the data themselves."""
    weights = torch.randn(3, 4)

    def loss(model, guide, x):
        w = pyro.param("w", torch.ones(3, 4))
        v = pyro.param("v", torch.ones(3, 4))
        u = pyro.param("u", torch.ones(3, 4))
        return w.sum() + (v.t() * weights.t()).sum() + (u * x).sum() + (w * v * u).square().sum() * 0.0

    def make():
        return (lambda x: None), (lambda x: None), (torch.arange(12.0).reshape(3, 4) - 5,)

    options = {"lr": 0.01, **({"clip_norm": 0.5} if name == "ClippedAdam" else {})}
    optim = lambda: PyroOptim(getattr(pyro.optim, name)(options).pt_optim_constructor, options, clip or None)  # noqa: E731
    compiled = trajectory(CompiledSVI, make, lambda: loss, optim)
    assert_same(compiled, trajectory(SVI, make, lambda: loss, optim), rtol=1e-11)


def test_parameters_that_part_ways_are_counted_apart():
    """One is left out of some steps; Pyro goes on to move it by momentum, and so do we."""

    def loss(model, guide, stage):
        a, b = pyro.param("a", torch.ones(2)), pyro.param("b", torch.ones(2))
        return (a - 2).square().sum() + ((b - 3).square().sum() if stage else 0.0)

    for name in ("Adam", "ClippedAdam", "SGD with momentum"):
        found = []
        for kind in (CompiledSVI, SVI):
            pyro.clear_param_store()
            svi = kind(lambda stage: None, lambda stage: None, OPTIMIZERS[name](), loss)
            losses = [svi.step(int(count % 3 != 1)) for count in range(20)]
            found.append(
                ([float(value) for value in losses], dict(pyro.get_param_store().named_parameters()))
            )
        assert_same(*found, rtol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_may_come_and_go(dtype):
    """Each combination of present gradients has a plan of its own, on the same state."""
    torch.set_default_dtype(dtype)
    found = []
    for is_fused in (False, True):
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.ones(3, dtype=dtype, requires_grad=True) for _ in range(3)]
        adam = torch.optim.Adam(parameters, lr=0.1)
        update = updates.FusedUpdate(lambda parameter, adam=adam: (adam, adam.param_groups[0]))
        for present in [
            (1, 1, 1),
            (1, 1, 0),
            (1, 1, 1),
            (0, 1, 1),
            (1, 1, 0),
            (1, 1, 1),
            (0, 0, 1),
            (1, 1, 1),
        ]:
            gradients = [
                torch.randn(3, generator=generator).to(dtype) if there else None for there in present
            ]
            left = update(parameters, gradients) if is_fused else [0, 1, 2]
            for place, parameter in enumerate(parameters):
                parameter.grad = gradients[place] if place in left else None
            adam.step()
        found.append([*parameters, *[adam.state[p]["step"] for p in parameters]])
    for plain, fused in zip(*found, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=0)


def cleared(adam, w):
    adam.state.clear()


def replaced_moment(adam, w):
    adam.state[w]["exp_avg"] = torch.zeros_like(w)


def moved_moment(adam, w):
    adam.state[w]["exp_avg"].data = torch.ones_like(w)


def assigned(adam, w):
    w.data = torch.arange(12.0, dtype=w.dtype).view(3, 4)


def turned(adam, w):
    w.data = w.data.t().contiguous().t()


def other_group(adam, w):
    adam.param_groups[0] = dict(adam.param_groups[0], lr=0.5)


def loaded(adam, w):
    adam.load_state_dict(adam.state_dict())


def hooked(adam, w):
    def add(*_):
        w.data.add_(1.0)

    adam.register_step_pre_hook(add)


def slowed(adam, w):
    adam.param_groups[0]["lr"] = 1e-4


CHANGES = [
    cleared, replaced_moment, moved_moment, assigned, turned, other_group, loaded, hooked, slowed
]  # fmt: skip


def moved(change, dtype, first, update=None):
    """A parameter after steps of Adam with a change among them; the counts of steps have its type, too."""
    torch.set_default_dtype(dtype)
    generator = torch.Generator().manual_seed(0)
    w = first.to(dtype).requires_grad_()
    adam = torch.optim.Adam([w], lr=0.1)
    step = update(adam) if update else None
    for count in range(8):
        if count == 4 and change is not None:
            change(adam, w)
        gradient = torch.empty_like(w.detach()).copy_(torch.randn(w.shape, generator=generator))
        w.grad = gradient if step is None or step([w], [gradient]) else None
        if w.grad is not None:
            adam.step()
    state = adam.state[w]
    return [w.detach(), state["exp_avg"], state["exp_avg_sq"], state["step"]]


def fused(adam):
    return updates.FusedUpdate(lambda parameter: (adam, adam.param_groups[0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_in_the_optimiser_is_seen(change, dtype):
    plain, found = moved(change, dtype, torch.ones(3, 4)), moved(change, dtype, torch.ones(3, 4), fused)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)


@pytest.mark.parametrize("change", [cleared, replaced_moment, hooked])
def test_an_update_that_does_not_look_is_caught(change, monkeypatch):
    plain = moved(change, torch.float64, torch.ones(3, 4))
    monkeypatch.setattr(update_part.Part, "is_same", lambda part: True)
    try:
        found = moved(change, torch.float64, torch.ones(3, 4), fused)
    except KeyError:  # of a state that is empty
        return
    assert not torch.allclose(found[0], plain[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layout", ["columns", "part"])
def test_parameters_may_lie_as_they_like(layout, dtype):
    def start():
        if layout == "columns":
            return torch.ones(4, 3, dtype=dtype).t()
        return wide[-1][:, :4]

    wide = [torch.ones(3, 6, dtype=dtype) for _ in range(2)]
    plain = moved(None, dtype, start())
    wide.pop()
    found = moved(None, dtype, start(), fused)
    for a, b in zip(found, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-6)
    assert torch.equal(wide[0][:, 4:], torch.ones(3, 2, dtype=dtype))


def test_the_rates_of_a_shared_group_decay_once():
    found = []
    for is_fused in (False, True):
        a, b = torch.ones(3, requires_grad=True), torch.ones(3, dtype=torch.float64, requires_grad=True)
        clipped = ClippedAdam([a, b], lr=0.1, lrd=0.9)
        update = updates.FusedUpdate(lambda parameter, clipped=clipped: (clipped, clipped.param_groups[0]))
        for _ in range(5):
            gradients = [torch.ones(3), torch.ones(3, dtype=torch.float64)]
            left = update([a, b], gradients) if is_fused else [0, 1]
            for place, parameter in enumerate((a, b)):
                parameter.grad = gradients[place] if place in left else None
            if left:
                clipped.step()
        found.append((clipped.param_groups[0]["lr"], a.detach(), b.detach()))
    assert found[0][0] == found[1][0]
    assert torch.allclose(found[0][1], found[1][1]) and torch.allclose(found[0][2], found[1][2])


def test_another_optimiser_takes_over():
    def change(svi, count):
        if count == 9:
            svi.optim = pyro.optim.SGD({"lr": 1e-3})

    found = [
        trajectory(kind, pair, Trace_ELBO, OPTIMIZERS["Adam"], each=change) for kind in (SVI, CompiledSVI)
    ]
    assert_same(found[1], found[0], rtol=1e-10)


def test_sparse_gradients_are_left_to_the_optimiser():
    w = torch.ones(3, 2, requires_grad=True)
    sgd = torch.optim.SGD([w], lr=0.1)
    sparse = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (3, 2), check_invariants=True)
    update = updates.FusedUpdate(lambda parameter: (sgd, sgd.param_groups[0]))
    assert update([w], [torch.ones(3, 2)]) == []
    assert update([w], [sparse]) == [0]
    assert torch.equal(w, torch.full((3, 2), 0.9))
