"""Laws of distributions by change of variables: they integrate to 1, draw what they say, and forget old parameters.

The integral is a sum over a grid of 1201 x 1201 points, to 5e-3. Draws are judged by where they fall in 400 cells, of
which the density says how many each should hold, to 1e-6 by Pearson's test: of 6 flows a false alarm in 2e5 runs.
"""

import math

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_dgm.distributions import FlowDistribution
from pyro_dgm.distributions.transforms import (
    Affine,
    Chain,
    Coupling,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    Permutation,
    Planar,
    RationalQuadratic,
    Sigmoid,
    Sylvester,
    TorchTransform,
)
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from tests.laws.bijections import at_random


def coupled(univariate):
    parts = [Coupling(kept, univariate(), hidden=(8,)) for kept in ([True, False], [False, True])]
    return Chain(parts)


def masked():
    parts = [Inverse(MaskedAutoregressive((2,), hidden=(8,))) for _ in range(2)]
    return Chain([parts[0], Permutation([1, 0]), parts[1]])


FLOWS = {
    "coupling": lambda: coupled(Affine),
    "spline": lambda: coupled(RationalQuadratic),
    "maf": masked,
    "planar": lambda: Chain([Planar(2), Planar(2), LULinear((2,))]),
    "sylvester": lambda: Chain([Sylvester(2), LULinear((2,))]),
    "sigmoid": lambda: Chain([LULinear((2,)), Sigmoid((2,), alpha=0.01)]),
}


def flow(name, *, scale=0.3):
    base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
    return FlowDistribution(base, at_random(FLOWS[name](), scale=scale))


def integral(p, number=1201):
    """The sum of densities over a grid about all draws, times its cell."""
    drawn = p.sample((100_000,))
    margin = 0.5 * (drawn.amax(0) - drawn.amin(0))
    low, high = drawn.amin(0) - margin, drawn.amax(0) + margin
    support = p.support.base_constraint
    if hasattr(support, "lower_bound"):
        low, high = low.clamp(min=support.lower_bound + 1e-9), high.clamp(max=support.upper_bound - 1e-9)
    sides = [torch.linspace(*ends, number).double() for ends in zip(low.tolist(), high.tolist(), strict=True)]
    cell = math.prod((side[1] - side[0]).item() for side in sides)
    with torch.no_grad():
        return p.log_prob(torch.cartesian_prod(*sides)).exp().sum().item() * cell


@pytest.mark.parametrize("name", FLOWS)
def test_a_density_integrates_to_one(name):
    torch.manual_seed(0)
    assert integral(flow(name)) == pytest.approx(1, abs=5e-3)


class Halved(Affine):
    def inverse_and_log_slope(self, y, params):
        x, log_slope = super().inverse_and_log_slope(y, params)
        return x, 0.5 * log_slope


def test_the_integral_catches_a_wrong_determinant():
    torch.manual_seed(0)
    base = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
    assert abs(integral(FlowDistribution(base, at_random(coupled(Halved), scale=0.3))) - 1) > 5e-3


def disagreement(p, drawn, side=20, nodes=30):
    """The p-value of Pearson's test of draws (n, 2) in cells between their own quantiles, and outside of them all.

    What a cell should hold is the integral of the density over it, by a sum over nodes x nodes midpoints.
    """
    level = torch.linspace(0.005, 0.995, side + 1, dtype=torch.float64)
    edges = [torch.quantile(p.sample((20_000,))[:, i], level) for i in range(2)]
    inner = (torch.arange(nodes).double() + 0.5) / nodes
    points = [(edge[:-1, None] + edge.diff()[:, None] * inner).flatten() for edge in edges]
    with torch.no_grad():
        density = p.log_prob(torch.cartesian_prod(*points)).exp().reshape(side, nodes, side, nodes)
    expected = density.mean((1, 3)) * edges[0].diff()[:, None] * edges[1].diff()
    place = [torch.searchsorted(edge, drawn[:, i].contiguous()) - 1 for i, edge in enumerate(edges)]
    inside = (place[0] >= 0) & (place[0] < side) & (place[1] >= 0) & (place[1] < side)
    counts = torch.bincount((place[0] * side + place[1])[inside], minlength=side * side).double()
    expected = len(drawn) * expected.flatten()
    often = expected > 5
    counts, expected = counts[often].tolist(), expected[often].tolist()
    counts.append(len(drawn) - sum(counts))
    expected.append(len(drawn) - sum(expected))
    return stats.chisquare(counts, expected).pvalue


@pytest.mark.parametrize("name", FLOWS)
def test_draws_have_the_density_that_is_claimed(name):
    torch.manual_seed(0)
    p = flow(name)
    assert disagreement(p, p.sample((20_000,))) > 1e-6


def test_draws_of_another_density_are_caught():
    """A shift by a twentieth of a deviation."""
    torch.manual_seed(0)
    p = flow("coupling")
    drawn = p.sample((20_000,))
    assert disagreement(p, drawn + 0.05 * drawn.std(0)) < 1e-6


@pytest.mark.parametrize("name", FLOWS)
def test_the_density_of_own_draws_is_that_of_any_data(name):
    p = flow(name)
    y = p.rsample((7,))
    torch.testing.assert_close(p.log_prob(y), p.log_prob(y.clone()), rtol=0, atol=1e-9)


@pytest.mark.parametrize("grad", [True, False])
def test_a_density_after_an_update_is_the_new_one(grad):
    """Pyro's cache gives the old one without a word, or cannot go back twice."""
    p = flow("coupling")
    with torch.set_grad_enabled(grad):
        y = p.rsample((5,))
        before = p.log_prob(y)
        with torch.no_grad():
            for parameter in p.bijection.parameters():
                parameter.add_(0.1)
        after = p.log_prob(y)
    torch.testing.assert_close(after, p.log_prob(y.clone()))
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("grad", [True, False])
def test_a_density_of_a_draw_that_was_written_to_is_the_new_one(grad):
    p = flow("coupling")
    with torch.no_grad():
        y = p.rsample((5,))
    with torch.set_grad_enabled(grad):
        p.log_prob(y)
        y.add_(0.5)
        torch.testing.assert_close(p.log_prob(y), p.log_prob(y.clone()))


def test_two_steps_on_one_tensor_are_two_steps():
    p, data = flow("maf"), torch.randn(50, 2, dtype=torch.float64)
    optimizer = torch.optim.SGD(p.bijection.parameters(), 1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = -p.log_prob(data).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]


def test_torch_has_the_same_density_of_the_same_map():
    p = flow("maf")
    data = torch.randn(50, 2, dtype=torch.float64)
    theirs = dist.TransformedDistribution(p.base, [p.bijection()])
    torch.testing.assert_close(theirs.log_prob(data), p.log_prob(data), rtol=0, atol=1e-10)


def test_a_batch_of_contexts_and_more_draws():
    context = torch.randn(7, 3)
    base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
    p = FlowDistribution(base, MaskedAutoregressive((2,), context_features=3), context)
    assert p.batch_shape == (7,) and p.event_shape == (2,)
    assert p.sample((4,)).shape == (4, 7, 2) and p.log_prob(torch.zeros(2)).shape == (7,)
    wide = p.expand((5, 7))
    x = wide.sample((4,))
    assert x.shape == (4, 5, 7, 2)
    torch.testing.assert_close(wide.log_prob(x.clone()), p.log_prob(x.clone()))


def test_a_support_with_an_event_dimension_of_its_own():
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    p = FlowDistribution(
        base, TorchTransform(torch.distributions.StickBreakingTransform(), (3,), out_shape=(4,))
    )
    x = p.sample((5,))
    assert p.support.event_dim == 1 and bool(p.support.check(x).all())
    assert p.log_prob(x.clone()).shape == (5,)
    with pytest.raises(InvalidInput, match="data outside the support of a flow in x: 0.9, 1 of 1 elements"):
        p.log_prob(torch.full((1, 4), 0.9))


@pytest.mark.parametrize("name", FLOWS)
def test_draws_and_their_densities_are_compiled_once(name):
    """Nothing that changes from call to call, such as how often a tensor was written to, is part of the graph."""
    torch._dynamo.reset()
    p = flow(name)

    @torch.compile(backend="eager", dynamic=False)
    def both(base):
        q = FlowDistribution(base, p.bijection)
        y = q.rsample((5,))
        return y, q.log_prob(y)

    with torch.no_grad(), torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(3):
            y, density = both(p.base)
            torch.testing.assert_close(density, p.log_prob(y.clone()))


@pytest.mark.parametrize("name", FLOWS)
def test_no_data_have_no_densities(name):
    assert flow(name).log_prob(torch.zeros(0, 2).double()).shape == (0,)
    assert flow(name).sample((0,)).shape == (0, 2)


def test_pieces_that_do_not_fit_are_one_line():
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    with pytest.raises(InvalidInput, match="another event shape"):
        FlowDistribution(base, Planar(2))
    with pytest.raises(IncompatibleModel, match="no context"):
        FlowDistribution(base, Planar(3, context_features=2))
    with pytest.raises(IncompatibleModel, match="a context"):
        FlowDistribution(base, Planar(3), torch.zeros(2))
    with pytest.raises(InvalidInput, match="wrong event shape in context"):
        FlowDistribution(base, Planar(3, context_features=2), torch.zeros(4))
    with pytest.raises(InvalidInput, match="data outside the support of a flow in x: 1.2, 1 of 3 elements"):
        FlowDistribution(base, Sigmoid((3,), alpha=0.01), validate_args=True).log_prob(
            torch.tensor([0.5, 0.5, 1.2])
        )
    with pytest.raises(InvalidInput, match="parts that do not fit"):
        Chain([Planar(2), Planar(3)])
    with pytest.raises(InvalidInput, match="no coupling"):
        Coupling([True, True])
