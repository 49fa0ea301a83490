"""Laws of several stochastic layers, on chains of linear-Gaussian ones in float64 that are made from our programs.

A law is a function of one way to make a thing; ``LAWS`` lists each law with the true ways and the mutants that it must
catch. Statistical laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 for each comparison.
"""

import math
from functools import partial

import pyro
import pytest
import torch
from torch.distributions import kl_divergence

from pyro_dgm.models import HierarchicalVAE, LadderVAE
from pyro_dgm.objectives import ELBO, IWAE, log_weights
from pyro_dgm.objectives.divergence import site_divergences
from tests.laws.linear_chain import Chain
from tests.laws.listed import as_tests

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
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)


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
