"""Laws of invertible maps, in float64 to 1e-8, at random parameters of scale 0, 0.1, 0.3 and 1.

What a map gives is brought back, both ways; its log-determinant is that of all derivatives and minus that of its
inverse; a batch of contexts is one context after the other; gradients reach everything. In float32 at scales to 0.3
what a map gives is brought back to 1e-3 of the largest number, by couplings of splines at scale 10 to 1e-4. Each law
catches a planted mutant.
"""

import copy
import pickle

import pyro.distributions.transforms as pyro_transforms
import pytest
import torch

from pyro_dgm.distributions.transforms import (
    Affine,
    Coupling,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    Planar,
    RationalQuadratic,
    Sylvester,
    TorchTransform,
)
from pyro_dgm.errors import InvalidInput
from tests.laws.bijections import (
    ALL,
    BIJECTIONS,
    CONTEXT,
    HALF,
    SCALES,
    at_random,
    log_det_by_autograd,
    points,
)

CLOSE = {"rtol": 0, "atol": 1e-8}


def returns(bijection, x, context):
    """Both ways there and back, and the two log-determinants."""
    y, log_det = bijection.forward_and_log_det(x, context)
    back, log_det_back = bijection.inverse_and_log_det(y, context)
    torch.testing.assert_close(back, x, **CLOSE)
    torch.testing.assert_close(log_det + log_det_back, torch.zeros_like(log_det), **CLOSE)
    again, _ = bijection.forward_and_log_det(back, context)
    torch.testing.assert_close(again, y, **CLOSE)


def has_its_determinant(bijection, x, context):
    log_det = bijection.forward_and_log_det(x, context)[1]
    torch.testing.assert_close(log_det, log_det_by_autograd(bijection, x, context), **CLOSE)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ALL)
def test_what_a_map_gives_is_brought_back(name, scale):
    bijection = at_random(ALL[name](), scale=scale)
    with torch.no_grad():
        returns(bijection, *points(bijection, 3, 5))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ALL)
def test_a_log_determinant_is_that_of_all_derivatives(name, scale):
    bijection = at_random(ALL[name](), scale=scale)
    has_its_determinant(bijection, *points(bijection, 6))


def is_one_after_the_other(bijection, x, context):
    with torch.no_grad():
        for way in (bijection.forward_and_log_det, bijection.inverse_and_log_det):
            data = x if way == bijection.forward_and_log_det else bijection.forward_and_log_det(x, context)[0]
            values, log_dets = way(data, context)
            for place in range(len(x)):
                value, log_det = way(data[place], context[place])
                torch.testing.assert_close(values[place], value, rtol=0, atol=1e-10)
                torch.testing.assert_close(log_dets[place], log_det, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", BIJECTIONS)
def test_a_batch_of_contexts_is_one_after_the_other(name):
    bijection = at_random(BIJECTIONS[name](CONTEXT), scale=0.3)
    is_one_after_the_other(bijection, *points(bijection, 5))


def has_gradients(bijection, x, context):
    with torch.no_grad():
        y = bijection.forward_and_log_det(x, context)[0]
    for way, data in ((bijection.forward_and_log_det, x), (bijection.inverse_and_log_det, y)):
        data = data.clone().requires_grad_()
        bijection.zero_grad()
        value, log_det = way(data, context)
        ((value**2).sum() + log_det.sum()).backward()
        assert bool(data.grad.isfinite().all()) and bool(data.grad.any())
        for label, parameter in bijection.named_parameters():
            assert parameter.grad is not None and bool(parameter.grad.any()), label


@pytest.mark.parametrize("name", ALL)
def test_gradients_reach_data_and_parameters_both_ways(name):
    bijection = at_random(ALL[name](), scale=0.3)
    has_gradients(bijection, *points(bijection, 4))


@pytest.mark.parametrize("scale", SCALES[:-1])
@pytest.mark.parametrize("name", ALL)
def test_what_a_map_gives_is_brought_back_in_float32(name, scale):
    bijection = at_random(ALL[name](), scale=scale).float()
    x, context = (None if value is None else value.float() for value in points(bijection, 20))
    with torch.no_grad():
        y, log_det = bijection.forward_and_log_det(x, context)
        back, log_det_back = bijection.inverse_and_log_det(y, context)
    size = max(1.0, x.abs().max().item(), y.abs().max().item(), log_det.abs().max().item())
    torch.testing.assert_close(back, x, rtol=0, atol=1e-3 * size)
    torch.testing.assert_close(-log_det_back, log_det, rtol=0, atol=1e-3 * size)


@pytest.mark.parametrize(
    ("make", "scale"),
    [(lambda s: Coupling(HALF, s, hidden=(8,)), 10.0), (lambda s: MaskedAutoregressive((4,), s), 0.3)],
)
def test_splines_come_back_in_float32(make, scale):
    bijection = at_random(make(RationalQuadratic()), scale=scale).float()
    x = points(bijection, 2000)[0].float()
    with torch.no_grad():
        y, _ = bijection.forward_and_log_det(x)
        back, log_det = bijection.inverse_and_log_det(y)
        again, _ = bijection.forward_and_log_det(back)
    assert bool(back.isfinite().all()) and bool(log_det.isfinite().all())
    torch.testing.assert_close(again, y, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["planar", "sylvester_orthogonal", "autoregressive_spline", "coupling_spline", "images"]
)
def test_gradients_of_an_inverse_are_those_of_small_differences(name):
    bijection = at_random(ALL[name](), scale=0.3)
    x, _ = points(bijection, 2)
    y = bijection.forward_and_log_det(x)[0].detach().requires_grad_()
    torch.autograd.gradcheck(bijection.inverse_and_log_det, (y,))


@pytest.mark.parametrize("seed", range(5))
def test_a_planar_map_stays_invertible_wherever_its_parameters_go(seed):
    planar = at_random(Planar(4), scale=5.0, seed=seed)
    _, _, _, product = planar._parts(None)
    assert product.item() >= -1
    with torch.no_grad():
        returns(planar, *points(planar, 20))


# ---- mutants


class PyroSylvester(Sylvester):
    """Pyro's order of the matrices, with the determinant of the other order."""

    def _forward(self, x, context):
        q, r, twin, b = self._parts(context)
        h = ((x.unsqueeze(-2) @ twin @ q.mT).squeeze(-2) + b).tanh()
        y = x + (h.unsqueeze(-2) @ q @ r).squeeze(-2)
        return y, torch.log1p(
            (1 - h * h) * r.diagonal(dim1=-2, dim2=-1) * twin.diagonal(dim1=-2, dim2=-1)
        ).sum(-1)


class WithoutConstraint(Planar):
    def _parts(self, context):
        given = self.parameters_of(context)
        return given["u"], given["w"], given["b"], (given["u"] * given["w"]).sum(-1)


class WrongSign(Affine):
    def forward_and_log_slope(self, x, params):
        y, log_slope = super().forward_and_log_slope(x, params)
        return y, -log_slope


class Leaking(Coupling):
    def _mapped(self, x, context, univariate):
        y, log_det = super()._mapped(x, context, univariate)
        return y + 0.01 * y.roll(1, -1), log_det


class WrongSlope(RationalQuadratic):
    def inverse_and_log_slope(self, y, params):
        x, log_slope = super().inverse_and_log_slope(y, params)
        return x, log_slope * 1.001


class OneContextForAll(Planar):
    """The first datum's context for the whole batch."""

    def _parts(self, context):
        return super()._parts(context if context.dim() == 1 else context[:1])


class Detached(Affine):
    """Values without their share of the gradient of the slopes."""

    def forward_and_log_slope(self, x, params):
        y, log_slope = super().forward_and_log_slope(x, params)
        return y.detach(), log_slope.detach()


class Rounded(LULinear):
    """A map whose product with the data is left to autocast."""

    def _forward(self, x, context):
        y, log_det = super()._forward(x, context)
        return torch.nn.functional.linear(y, torch.eye(4)).float(), log_det


def test_a_map_in_bfloat16_is_caught():
    rounded = at_random(Rounded((4,)), scale=0.1).float()
    with pytest.raises(AssertionError):
        keeps_its_determinant_under_autocast(rounded, points(rounded, 20)[0].float(), None)


def fails(law, bijection, *, scale=1.0):
    bijection = at_random(bijection, scale=scale)
    with pytest.raises(AssertionError):
        law(bijection, *points(bijection, 20))


def test_mutants_are_caught():
    torch.manual_seed(0)
    fails(has_its_determinant, PyroSylvester(4))
    fails(returns, WithoutConstraint(4), scale=3.0)
    fails(has_its_determinant, Coupling([True, False], WrongSign(), hidden=(8,)))
    fails(has_its_determinant, MaskedAutoregressive((3,), WrongSign(), hidden=(8,)))
    fails(returns, MaskedAutoregressive((3,), WrongSign(), hidden=(8,)))
    fails(returns, Leaking([True, False, True], hidden=(8,)))
    fails(returns, Inverse(Coupling([True, False], WrongSlope(), hidden=(8,))))
    fails(is_one_after_the_other, OneContextForAll(4, context_features=CONTEXT))
    fails(has_gradients, Coupling([True, False], Detached(), hidden=(8,)))


@pytest.mark.parametrize(
    "name", [name for name in ALL if name != "torch"]
)  # Pyro's couplings refuse to be empty
def test_no_data_and_a_pickle(name):
    """Each map takes an empty batch, both ways, and goes through a pickle to another process, unchanged."""
    bijection = at_random(ALL[name](), scale=0.3)
    x, context = points(bijection, 3)
    before, _ = bijection.forward_and_log_det(x, context)
    other = pickle.loads(pickle.dumps(copy.deepcopy(bijection)))
    torch.testing.assert_close(other.forward_and_log_det(x, context)[0], before, rtol=0, atol=0)
    none = None if context is None else context[:0]
    y, log_det = bijection.forward_and_log_det(x[:0], none)
    back, _ = bijection.inverse_and_log_det(y, none)
    assert back.shape == x[:0].shape and log_det.shape == (0,)


def keeps_its_determinant_under_autocast(bijection, x, context, *, there_and_back=True):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        y, log_det = bijection.forward_and_log_det(x, context)
        back, log_det_back = bijection.inverse_and_log_det(y, context)
    assert y.dtype == log_det.dtype == torch.float32
    if there_and_back:
        torch.testing.assert_close(back, x, rtol=0, atol=1e-3)
        torch.testing.assert_close(log_det, -log_det_back, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("torch")])
def test_networks_in_bfloat16_leave_a_map_its_own_determinant(name):
    """Under autocast the maps come back in float32: only networks, and so parameters, are of lower precision."""
    bijection = at_random(ALL[name](), scale=0.1).float()
    x, context = (None if value is None else value.float() for value in points(bijection, 20))
    # The outputs of an autoregressive network differ between one pass and one element after the other.
    in_order = name.startswith("chain") or ("autoregressive_" in name and "conv" not in name)
    keeps_its_determinant_under_autocast(bijection, x, context, there_and_back=not in_order)


@pytest.mark.parametrize("make", [lambda kept: Coupling(kept, hidden=(4,)), Permutation])
def test_a_map_that_loads_another_is_that_one(make):
    masks = [[True, False, True, False], [True, True, False, False]]
    first, second = (
        make(kept) for kept in (masks if make is not Permutation else ([2, 0, 3, 1], [0, 1, 2, 3]))
    )
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 4)
    torch.testing.assert_close(second.forward_and_log_det(x)[0], first.forward_and_log_det(x)[0])
    torch.testing.assert_close(second.inverse_and_log_det(first.forward_and_log_det(x)[0])[0], x)


def test_a_transform_of_transforms_forgets_and_is_trained():
    """Pyro's caches lie in each part, and behind ``.inv``; so do the parameters."""
    torch.manual_seed(0)
    compose = pyro_transforms.ComposeTransformModule([pyro_transforms.affine_coupling(4) for _ in range(2)])
    for transform in (compose, pyro_transforms.affine_coupling(4).inv):
        bijection = TorchTransform(transform, (4,))
        parameters, x = list(bijection.parameters()), torch.randn(5, 4)
        assert parameters
        for way in (bijection.forward_and_log_det, bijection.inverse_and_log_det):
            with torch.no_grad():
                way(x)
                for parameter in parameters:
                    parameter.add_(0.1)
            for found, expected in zip(way(x), way(x.clone()), strict=True):
                torch.testing.assert_close(found, expected)
            way(x)[1].sum().backward()
        copy.deepcopy(bijection).forward_and_log_det(x)
    loose = torch.distributions.AffineTransform(torch.nn.Parameter(torch.zeros(())), 1.0)
    with pytest.raises(InvalidInput, match="a parameter that nothing trains in AffineTransform.loc"):
        TorchTransform(loose, (4,))


def test_a_copy_is_another_map():
    bijection = at_random(ALL["chain"](), scale=0.3)
    x, _ = points(bijection, 3)
    bijection.forward_and_log_det(x)
    other = at_random(copy.deepcopy(bijection), scale=0.3)
    assert not torch.equal(other.forward_and_log_det(x)[0], bijection.forward_and_log_det(x)[0])
