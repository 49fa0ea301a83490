"""Grey levels of a density: their probabilities sum to 1, and each dequantisation bounds them from below.

Probabilities are integrals over cells by Gauss-Legendre quadrature, exact to 1e-8 for a smooth flow; bounds are means
of 100,000 draws, judged at 4.9 standard errors: a false alarm in 1e6 runs of each.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from pyro_dgm.data import Arrays
from pyro_dgm.distributions import Dequantization, NormalMaps, Quantized, StandardLogistic
from pyro_dgm.distributions.quantized import IntoCells
from pyro_dgm.distributions.transforms import ActNorm, Chain, Coupling, Shift, Sigmoid
from pyro_dgm.models import Flow, VariationalDequantization
from pyro_dgm.nets import MLP
from pyro_dgm.objectives import log_weights
from tests.laws.bijections import at_random

LEVELS, NODES = 4, 10
DRAWS = 100_000


def flow():
    kept = ([True, False], [False, True])
    couplings = [Coupling(mask, Shift(), hidden=(8,), activation=nn.Tanh) for mask in kept]
    maps = Chain([couplings[0], ActNorm((2,)), couplings[1], Sigmoid((2,), alpha=0.0)])
    return Flow(at_random(maps, scale=0.3)).double()


def program(kind):
    torch.manual_seed(0)
    base = None
    if kind == "variational":
        base = NormalMaps((2,), at_random(MLP(2, (8,), (2, 2)), scale=0.1))
    return VariationalDequantization((2,), flow(), levels=LEVELS, base=base).double()


def probabilities(flow):
    """P of all pairs of levels, (levels^2,), and the pairs as data; by integrals over h, of which v is the sigmoid."""
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(NODES))
    edges = torch.tensor([k / LEVELS for k in range(1, LEVELS)]).double().logit()
    ends = torch.cat([torch.arange(-30.0, 31.0).double(), edges]).sort().values
    middles, widths = (ends[1:] + ends[:-1]) / 2, ends.diff()
    h = (middles.unsqueeze(1) + widths.unsqueeze(1) / 2 * nodes).flatten()
    mass = (widths.unsqueeze(1) / 2 * weights).flatten() * h.sigmoid() * (-h).sigmoid()
    with torch.no_grad():
        density = flow().log_prob(torch.cartesian_prod(h.sigmoid(), h.sigmoid())).exp().reshape(len(h), -1)
    level = (h.unsqueeze(1) > edges).sum(1)
    of_level = torch.nn.functional.one_hot(level, LEVELS).double() * mass.unsqueeze(1)
    pairs = list(itertools.product(range(LEVELS), repeat=2))
    return (of_level.T @ density @ of_level).flatten(), torch.tensor(pairs).double() / (LEVELS - 1)


@pytest.mark.parametrize("kind", ["uniform", "variational"])
def test_probabilities_of_levels_sum_to_one_and_bounds_are_below_them(kind):
    model = program(kind)
    p, x = probabilities(model.flow)
    assert p.sum().item() == pytest.approx(1, abs=1e-8)
    with torch.no_grad():
        weights = log_weights(model.model, model.guide, x, num_particles=DRAWS)
    error = weights.std(0) / DRAWS**0.5
    assert bool((weights.mean(0) <= p.log() + 4.9 * error).all())
    # The mean of the weights themselves is the probability.
    ratio = (weights - p.log()).exp()
    assert bool(((ratio.mean(0) - 1).abs() <= 4.9 * ratio.std(0) / DRAWS**0.5).all())


def test_a_cell_too_narrow_is_caught():
    """The mutant forgets the width of a cell in its density: the weights' mean is no probability."""
    model = program("uniform")

    class Wide(IntoCells):
        def _log_det(self, x):
            return super()._log_det(x) + 2 * math.log(self.levels)

    model.posterior.bijection = Wide((2,), levels=LEVELS)
    p, x = probabilities(model.flow)
    with torch.no_grad():
        ratio = (log_weights(model.model, model.guide, x, num_particles=DRAWS) - p.log()).exp()
    assert bool(((ratio.mean(0) - 1).abs() > 4.9 * ratio.std(0) / DRAWS**0.5).any())


def test_draws_are_the_levels_with_their_probabilities():
    """Pearson's test of 40,000 draws, to 1e-6."""
    model = program("uniform")
    p, _ = probabilities(model.flow)
    torch.manual_seed(1)
    k = (model.sample(40_000) * (LEVELS - 1)).round().long()
    counts = torch.bincount(k[:, 0] * LEVELS + k[:, 1], minlength=LEVELS**2)
    assert stats.chisquare(counts.numpy(), (40_000 * p / p.sum()).numpy()).pvalue > 1e-6


@pytest.mark.parametrize(("levels", "bits"), [(17, math.log2(17)), (256, 8.0)])
def test_bits_per_dimension_count_dequantisation_logit_and_scale(levels, bits):
    """A uniform density, of which a logistic variable through a sigmoid is one, takes log2(levels) bits a pixel."""
    k = np.random.default_rng(0).integers(0, levels, (40, 1, 4, 4))
    images = Arrays(k, scale=levels - 1, levels=levels, dequantize=True)
    uniform = Flow(Sigmoid((1, 4, 4), alpha=0.0), base=StandardLogistic((1, 4, 4)))
    nats = -uniform().log_prob(images.test.x).mean().item()
    assert images.bits_per_dim(nats) == pytest.approx(bits, abs=1e-5)
    # The same of the levels themselves, whose dequantisation is a guide.
    program = VariationalDequantization((1, 4, 4), uniform, levels=levels)
    grey = Arrays(k, scale=levels - 1, levels=levels)
    with torch.no_grad():
        nats = -log_weights(program.model, program.guide, grey.test.x, num_particles=3).mean().item()
    assert grey.bits_per_dim(nats) == pytest.approx(bits, abs=1e-5)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
@pytest.mark.parametrize("e", [-200.0, -20.0, 0.0, 20.0, 200.0])
def test_no_rounding_leaves_a_cell(levels, e):
    """In float32 too, whatever the noise: the model gives the level of a cell probability one."""
    x = torch.arange(levels) / (levels - 1)
    v, _ = IntoCells((levels,), levels=levels).forward_and_log_det(torch.full((levels,), e), x)
    assert Quantized(v, levels=levels).log_prob(x).abs().max() == 0
    assert torch.equal(Quantized(v, levels=levels).log_prob(x.flip(0)).isinf(), x != x.flip(0))


@pytest.mark.parametrize("levels", range(2, 257))
def test_draws_at_the_ends_of_cells_are_levels_that_have_them(levels):
    ends = torch.arange(levels + 1) / levels
    v = torch.cat([ends, torch.nextafter(ends, ends - 1), torch.nextafter(ends, ends + 1)])
    p = Quantized(v, levels=levels)
    assert p.log_prob(p.sample()).abs().max() == 0


def test_a_guide_gives_no_density_to_other_cells():
    q = Dequantization((2,), levels=4)(torch.zeros(2))
    assert q.log_prob(torch.tensor([0.1, 0.2])).item() == pytest.approx(2 * math.log(4))
    assert q.log_prob(torch.tensor([0.1, 0.3])).item() == -math.inf
