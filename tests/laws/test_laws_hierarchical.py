"""Laws of several stochastic layers, on chains of linear-Gaussian ones in float64 that are made from our programs.

A law is a function of one way to make a thing; ``LAWS`` lists each law with the true ways and the mutants that it must
catch. Statistical laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 for each comparison.
"""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_dgm.distributions import DiagonalNormal, MergedNormal, NormalObservation, merged_normal
from pyro_dgm.models import HierarchicalVAE, LadderVAE
from pyro_dgm.objectives import ELBO, IWAE, log_weights
from pyro_dgm.objectives.divergence import site_divergences
from tests.laws.linear_chain import Chain, TakeLatent

Z_LIMIT = 4.9
SAME = [3, 3, 3, 3, 3]  # sizes with which no shape gives a mutant away
FAMILIES = {"from below": Chain.hierarchical, "from above": Chain.ladder}


# ---- mutants of the programs, one change each


class WrongParent(HierarchicalVAE):
    """Every latent comes from the top one."""

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            z = top = pyro.sample(f"z{len(self.posteriors)}", self.prior())
            for layer in range(len(self.conditionals), 0, -1):
                z = pyro.sample(f"z{layer}", self.conditionals[layer - 1](top))
            pyro.sample("x", self.observation(self.decoder(z)), obs=x)


class WrongOrder(HierarchicalVAE):
    """The conditionals come from the data up."""

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample(f"z{len(self.posteriors)}", self.prior())
            for layer in range(len(self.conditionals), 0, -1):
                z = pyro.sample(f"z{layer}", self.conditionals[len(self.conditionals) - layer](z))
            pyro.sample("x", self.observation(self.decoder(z)), obs=x)


class GuideFromTheData(HierarchicalVAE):
    """The guide's layers all see the data."""

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            for layer, posterior in enumerate(self.posteriors, 1):
                pyro.sample(f"z{layer}", posterior(x))


class DroppedLayer(HierarchicalVAE):
    """x comes from z2."""

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            zs = [pyro.sample(f"z{len(self.posteriors)}", self.prior())]
            for layer in range(len(self.conditionals), 0, -1):
                zs.append(pyro.sample(f"z{layer}", self.conditionals[layer - 1](zs[-1])))
            pyro.sample("x", self.observation(self.decoder(zs[-2])), obs=x)


class Ladder(LadderVAE):
    """The top-down path with its parts apart, so that a mutant changes one."""

    conditional = staticmethod(lambda i, num: i)
    feature = staticmethod(lambda i, num: i)
    next_h = staticmethod(lambda i, h, new: new)
    merge = staticmethod(lambda i, p, q: q)

    def _top_down(self, take, features=None):
        h, p, num = self.top, self.prior(), len(self.blocks)
        for i in reversed(range(num)):
            if i < num - 1:
                p = self.conditionals[self.conditional(i, num)](h)
            q = p if features is None else self.posteriors[i](p, features[self.feature(i, num)])
            z = take(f"z{i + 1}", self.merge(i, p, q))
            h = self.next_h(i, h, self.blocks[i](h, z))
        return h


def ladder_with(name, function):
    return partial(Chain.ladder, program=type(name, (Ladder,), {name: staticmethod(function)}))


LADDER_MUTANTS = {
    "above, wrong parent": ladder_with("next_h", lambda i, h, new: h if i == 1 else new),
    "above, dropped layer": ladder_with("next_h", lambda i, h, new: new if i else h),
    "above, wrong order": ladder_with("conditional", lambda i, num: num - 2 - i),
    "above, wrong features": ladder_with("feature", lambda i, num: num - 1 - i),
    "above, a layer without data": ladder_with("merge", lambda i, p, q: p if i == 1 else q),
}
HIERARCHICAL_MUTANTS = {
    f"below, {mutant.__doc__}": partial(Chain.hierarchical, program=mutant)
    for mutant in (WrongParent, WrongOrder, GuideFromTheData, DroppedLayer)
}


# ---- laws of programs: functions of ``make(chain) -> program``


def law_exact_posterior_has_no_variance(make):
    """With the exact posterior each weight, whatever the draw, equals log p(x) to 1e-8."""
    for seed, chain in enumerate([Chain(4, 3, dims=SAME), Chain(1, 0), Chain(2, 1), Chain(4, 2)]):
        program = make(chain)
        torch.manual_seed(seed)
        with torch.no_grad():
            log_w = log_weights(program.model, program.guide, chain.x, num_particles=5)
        assert (log_w - chain.log_prob(chain.x)).abs().max() < 1e-8


def law_gap_is_the_divergence(make):
    """With another guide log p(x) - E log w = KL(q || p(z | x)), and ELBO < IWAE <= log p(x)."""
    for num_layers in (4, 2):
        chain = Chain(num_layers, num_layers, dims=SAME[: num_layers + 1], stretch=1.3, shift=0.3)
        program = make(chain)
        joint = chain.joint_bottom_up() if isinstance(program, HierarchicalVAE) else chain.joint_top_down()
        gap = kl_divergence(joint, chain.joint_top_down(exact=True))
        torch.manual_seed(0)
        with torch.no_grad():
            log_w = log_weights(program.model, program.guide, chain.x, num_particles=20000)
        truth = chain.log_prob(chain.x)
        error = log_w.std(0) / math.sqrt(len(log_w))
        assert ((truth - gap - log_w.mean(0)).abs() < Z_LIMIT * error).all()
        groups = log_w.reshape(-1, 20, len(chain.x))
        bounds = groups.logsumexp(1) - math.log(20)
        above = bounds - groups.mean(1)  # of the same draws: never below zero
        assert (above.mean(0) > Z_LIMIT * above.std(0) / math.sqrt(len(above))).all()
        assert (bounds.mean(0) < truth + Z_LIMIT * bounds.std(0) / math.sqrt(len(bounds))).all()


def law_divergences_add_up(make):
    """Divergences of the sites add up to KL(q || p(z)); from above, of the layers down to any one of them."""
    chain = Chain(4, 5, dims=SAME, stretch=1.3, shift=0.3)
    program = make(chain)
    torch.manual_seed(0)
    found = site_divergences(program.model, program.guide, chain.x, num_particles=5000)
    if isinstance(program, HierarchicalVAE):
        sums = [(sum(found[f"z{i}"].per_datum for i in range(1, 5)), chain.joint_bottom_up(), 1)]
    else:
        sums = [
            (sum(found[f"z{i}"].per_datum for i in range(low, 5)), chain.joint_top_down(low), low)
            for low in range(1, 5)
        ]
    for total, joint, low in sums:
        error = sum(found[f"z{i}"].standard_error for i in range(low, 5))  # of a sum: no more than the sum
        expected = kl_divergence(joint, chain.joint_prior(low))
        assert ((total - expected).abs() < Z_LIMIT * error + 1e-9).all()
        assert (error < 0.05 * expected).all(), "a sum so uncertain says nothing"


def law_analytic_bound_has_the_mean_of_the_other(make):
    """With the exact posterior the mean of -ELBO(kl="analytic"), whose draws differ, is log p(x) all the same."""
    chain = Chain(4, 6, dims=SAME)
    program = make(chain)
    objective = ELBO(num_particles=500, kl="analytic")
    torch.manual_seed(0)
    with torch.no_grad():
        bounds = torch.stack([-objective(program.model, program.guide, chain.x) for _ in range(40)])
    error = bounds.std() / math.sqrt(len(bounds))
    truth = chain.log_prob(chain.x).sum()
    assert (bounds.mean() - truth).abs() < 5.85 * error  # Student's t of 39 degrees of freedom at 1e-6
    assert 1e-6 < error < 0.1, "in closed form each draw differs from log p(x), if by little on average"


def law_default_pieces_are_exact_where_the_chain_is_diagonal(make):
    """The default conditionals and the merging by precision are the exact posterior of independent chains."""
    for num_layers in (1, 2, 4):
        program, x, truth = make(num_layers)
        torch.manual_seed(0)
        with torch.no_grad():
            log_w = log_weights(program.model, program.guide, x, num_particles=5)
        assert (log_w - truth).abs().max() < 1e-8


def diagonal_ladder(num_layers, *, merged=MergedNormal, program=LadderVAE):
    """Independent chains of three units in LadderVAE with its own pieces, data, and log p(x)."""
    torch.manual_seed(num_layers)
    chain = Chain(num_layers, num_layers, dims=[3] * (num_layers + 1))
    chain.slopes = [torch.diag(slope.diagonal()) for slope in chain.slopes]
    chain.noises = [torch.diag(noise.diagonal()) for noise in chain.noises]
    chain.noises[-1] = torch.eye(3).double()
    chain.shifts[-1] = torch.zeros(3).double()
    chain.messages = chain._messages()

    class Repeat(nn.Module):
        def forward(self, x):
            return [x] * num_layers

    conditionals = [DiagonalNormal(3, 3) for _ in range(num_layers - 1)]
    posteriors = [merged(3, 3) for _ in range(num_layers)]
    decoder = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(-1, (1, 3)))
    program = program(
        (3,),
        [3] * num_layers,
        width=3,
        encoder=Repeat(),
        blocks=[TakeLatent() for _ in range(num_layers)],
        conditionals=conditionals,
        posteriors=posteriors,
        decoder=decoder,
        observation=NormalObservation((3,)),
    ).double()
    with torch.no_grad():
        for layer, piece in enumerate(conditionals, 1):
            fill(piece, chain.slopes[layer], chain.shifts[layer], chain.noises[layer].diagonal().sqrt())
        for piece, (j, g, c) in zip(posteriors, chain.messages, strict=True):
            piece.head.weight.copy_(torch.cat([g, torch.zeros_like(g)]))
            piece.head.bias.copy_(torch.cat([c, j.diagonal().expm1().log()]))
        decoder[0].weight.copy_(chain.slopes[0])
        decoder[0].bias.copy_(chain.shifts[0])
        scale = chain.noises[0].diagonal().sqrt()
        program.observation.log_scale.copy_((scale - program.observation.scale_floor).log())
    loc, cov = chain.shifts[-1], chain.noises[-1]
    for slope, shift, noise in zip(
        chain.slopes[::-1], chain.shifts[-2::-1], chain.noises[-2::-1], strict=True
    ):
        loc, cov = slope @ loc + shift, slope @ cov @ slope.T + noise
    return program, chain.x, dist.MultivariateNormal(loc, cov).log_prob(chain.x)


def fill(piece, slope, shift, scale):
    """Sets a DiagonalNormal to Normal(slope h + shift, scale)."""
    piece.head.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
    piece.head.bias.copy_(torch.cat([shift, (scale - piece.scale_floor).expm1().log()]))


def merged_by(merge):
    """MergedNormal with another product."""

    class Mutant(MergedNormal):
        def forward(self, p, d):
            shift, raw = self.head(d).chunk(2, dim=-1)
            return merge(p, shift, nn.functional.softplus(raw))

    return Mutant


# ---- laws of the product: functions of ``merge(p, shift, precision) -> distribution``


def law_product_is_the_density_of_the_product(merge):
    """log q - log p - (eta z - tau z^2 / 2) is one constant for each datum, whatever z; also at small scales."""
    torch.manual_seed(0)
    for smallest in (1.0, 1e-3):
        loc, scale = torch.randn(6, 3).double(), smallest * (torch.rand(6, 3).double() + 0.1)
        shift, precision = torch.randn(6, 3).double() / smallest, torch.rand(6, 3).double() / smallest**2
        p = dist.Normal(loc, scale).to_event(1)
        z = torch.randn(20, 6, 3).double()
        factor = (shift * z - 0.5 * precision * z**2).sum(-1)
        difference = merge(p, shift, precision).log_prob(z) - p.log_prob(z) - factor
        assert difference.std(0).max() < 1e-12 * p.log_prob(z).abs().max()


def as_normals(p, shift, precision):
    """Locs and scales of both factors."""
    return p.base_dist.loc, p.base_dist.scale, shift / precision, precision.rsqrt()


def sum_of_scales(p, shift, precision):
    """Variances add, as for a sum of independent variables; the loc is right."""
    _, s, _, t = as_normals(p, shift, precision)
    return dist.Normal(merged_normal(p, shift, precision).mean, (s**2 + t**2).sqrt()).to_event(1)


def swapped_weights(p, shift, precision):
    """Each loc counts with its own variance."""
    a, s, b, t = as_normals(p, shift, precision)
    return dist.Normal((a * s**2 + b * t**2) / (s**2 + t**2), s * t / (s**2 + t**2).sqrt()).to_event(1)


def weights_of_scales(p, shift, precision):
    """Precisions are inverse scales, not inverse squares."""
    a, s, b, t = as_normals(p, shift, precision)
    return dist.Normal((a * t + b * s) / (s + t), s * t / (s + t)).to_event(1)


PRODUCT_MUTANTS = {f.__name__: f for f in (sum_of_scales, swapped_weights, weights_of_scales)}


def test_a_flat_factor_leaves_the_prior_and_two_like_factors_halve_the_variance():
    p = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])).to_event(1)
    flat = merged_normal(p, torch.zeros(2), torch.zeros(2))
    assert torch.equal(flat.mean, p.mean)
    assert torch.equal(flat.base_dist.scale, p.base_dist.scale)
    twice = merged_normal(p, p.mean / p.variance, 1 / p.variance)
    assert torch.allclose(twice.mean, p.mean)
    assert torch.allclose(twice.variance, p.variance / 2)


def law_a_guide_that_hears_nothing_is_the_prior(program):
    """Where q-hat is flat, q is p at every layer of the default networks: both go down one path."""
    torch.manual_seed(0)
    ladder = program((5,), (4, 3, 2), width=8).double()
    with torch.no_grad():
        for posterior in ladder.posteriors:
            posterior.head.weight.zero_()
            posterior.head.bias.zero_().chunk(2)[1].fill_(-100.0)  # a precision of 4e-44
    found = site_divergences(ladder.model, ladder.guide, torch.ones(4, 5).double(), num_particles=20)
    assert max(site.per_datum.abs().max().item() for site in found.values()) < 1e-10


class GuideOfItsOwnPath(LadderVAE):
    """h of the guide forgets the layers above."""

    def _top_down(self, take, features=None):
        h, p = self.top, self.prior()
        for i in reversed(range(len(self.blocks))):
            if i < len(self.conditionals):
                p = self.conditionals[i](h)
            z = take(f"z{i + 1}", p if features is None else self.posteriors[i](p, features[i]))
            h = self.blocks[i](h if features is None else self.top, z)
        return h


LAWS = [
    (
        law_exact_posterior_has_no_variance,
        FAMILIES | {"path in parts": partial(Chain.ladder, program=Ladder)},
        HIERARCHICAL_MUTANTS | LADDER_MUTANTS,
    ),
    (
        law_gap_is_the_divergence,
        FAMILIES,
        HIERARCHICAL_MUTANTS | LADDER_MUTANTS,
    ),
    (
        law_divergences_add_up,
        FAMILIES,
        {
            name: make
            for name, make in (HIERARCHICAL_MUTANTS | LADDER_MUTANTS).items()
            if "dropped" not in name and "x comes" not in name
        },
    ),
    (
        law_analytic_bound_has_the_mean_of_the_other,
        {"from above": Chain.ladder},
        {name: LADDER_MUTANTS[f"above, {name}"] for name in ("wrong parent", "wrong features")},
    ),
    (
        law_default_pieces_are_exact_where_the_chain_is_diagonal,
        {"LadderVAE": diagonal_ladder},
        {
            name: partial(diagonal_ladder, merged=merged_by(product))
            for name, product in PRODUCT_MUTANTS.items()
        },
    ),
    (law_product_is_the_density_of_the_product, {"ours": merged_normal}, PRODUCT_MUTANTS),
    (law_a_guide_that_hears_nothing_is_the_prior, {"LadderVAE": LadderVAE}, {"own path": GuideOfItsOwnPath}),
]
TRUE = [
    pytest.param(law, make, id=f"{law.__name__}-{name}")
    for law, true, _ in LAWS
    for name, make in true.items()
]
MUTANTS = [
    pytest.param(law, make, id=f"{law.__name__}-{name}")
    for law, _, mutants in LAWS
    for name, make in mutants.items()
]


@pytest.mark.parametrize(("law", "make"), TRUE)
def test_law_holds(law, make):
    law(make)


@pytest.mark.parametrize(("law", "mutant"), MUTANTS)
def test_law_catches_mutant(law, mutant):
    with pytest.raises(AssertionError):
        law(mutant)


@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_two_closed_forms_of_the_chain_agree(num_layers):
    """The marginal covariance and the recursion from the data give one log p(x), and both guides one posterior."""
    chain = Chain(num_layers, 7)
    assert (chain.log_prob(chain.x) - chain.log_prob_by_recursion(chain.x)).abs().max() < 1e-9
    above, below = chain.joint_top_down(exact=True), chain.joint_bottom_up()
    assert (above.mean - below.mean).abs().max() < 1e-9
    assert (above.covariance_matrix - below.covariance_matrix).abs().max() < 1e-9


def test_iwae_tightens_the_elbo_on_both_families():
    for make in FAMILIES.values():
        chain = Chain(2, 8, stretch=1.3, shift=0.3)
        program = make(chain)
        losses = {}
        for objective in (ELBO(50), IWAE(50)):
            torch.manual_seed(0)
            with torch.no_grad():
                losses[type(objective)] = objective(program.model, program.guide, chain.x)
        assert losses[IWAE] < losses[ELBO]  # of the same draws, by Jensen's inequality
