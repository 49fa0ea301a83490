"""Laws of collapse on linear-Gaussian pairs in float64, each with the mutants that it must catch.

A law is a function of one implementation of ``measure(pair, x) -> Found``; ``LAWS`` lists each law with the true
implementations and its planted mutants. A law that a mutant passes is a defect of the law.
Statistical laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 each.
"""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_dgm.diagnostics.posterior_collapse import collapse
from pyro_dgm.models import PPCA
from tests.laws.listed import as_tests

D, L, N = 5, 2, 2000
Z_LIMIT = 4.9


class Diagonal(nn.Module):
    """Diagonal normal whose last unit knows nothing of the data: it is the prior."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(L, D))
        self.log_scale = nn.Parameter(torch.tensor([-0.7, 0.0]))
        with torch.no_grad():
            self.weight[-1] = 0

    def forward(self, x):
        return dist.Normal(x @ self.weight.T, self.log_scale.exp()).to_event(1)


class Prior(nn.Module):
    def forward(self, x):
        return dist.Normal(x.new_zeros(len(x), L), 1.0).to_event(1)


class Apart(nn.Module):
    """Posteriors that do not overlap: each datum can be read off its z."""

    def forward(self, x):
        place = torch.arange(len(x)).to(x)[:, None].expand(-1, L)
        return dist.Normal(place, 1e-3).to_event(1)


def ppca(posterior, num_data, *, seed=0):
    """Pair and data drawn from its model; the noise is such that log N does not bind."""
    torch.manual_seed(seed)
    program = PPCA(D, L, posterior=None if posterior is None else posterior()).double()
    with torch.no_grad():
        program.loadings.normal_().mul_(0.6)
        program.mean.normal_()
        program.log_scale.fill_(-0.1)
        return program, program.model(n=num_data)


class Chain:
    """The same model and its exact posterior, with z1 and z2 as sites of their own: q(z1 | x) q(z2 | z1, x)."""

    def __init__(self, program):
        self.program = program

    def model(self, x):
        program = self.program
        zero = x.new_zeros(())
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(zero, 1.0))
            z2 = pyro.sample("z2", dist.Normal(zero, 1.0))
            mean = torch.stack(torch.broadcast_tensors(z1, z2), -1) @ program.loadings.T + program.mean
            pyro.sample("x", dist.Normal(mean, program.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x):
        q = self.program.exact_posterior(x)
        cov = q.covariance_matrix
        slope = cov[..., 0, 1] / cov[..., 0, 0]
        left = cov[..., 1, 1] - slope * cov[..., 0, 1]
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(q.mean[:, 0], cov[..., 0, 0].sqrt()))
            pyro.sample("z2", dist.Normal(q.mean[:, 1] + slope * (z1 - q.mean[:, 0]), left.sqrt()))


@dataclasses.dataclass
class Found:
    """What the laws are about: ``kl`` (N,), ``per_unit`` (L,), and two estimates with their standard errors."""

    kl: torch.Tensor
    per_unit: torch.Tensor | None
    information: tuple[float, float]
    apart: tuple[float, float]
    active: int | None = None


def measured(program, x, pair=None):
    pair = pair or program
    found = collapse(pair.model, pair.guide, x, num_samples=2)
    sites = found.sites.values()
    units = [site.kl_per_unit for site in sites]
    active = [site.active_units for site in sites]
    return Found(
        kl=sum(torch.as_tensor(site.kl_per_datum) for site in sites),
        per_unit=None
        if any(unit is None for unit in units)
        else torch.cat([torch.as_tensor(unit) for unit in units]),
        information=(found.mutual_information, found.mutual_information_standard_error),
        apart=(found.aggregated_kl, found.aggregated_kl_standard_error),
        active=None if None in active else sum(active),
    )


def chained(program, x):
    return measured(program, x, Chain(program))


def by_hand(
    program,
    x,
    *,
    sign=1,
    reverse=False,
    reduce="mean",
    leave_out=False,
    log_count=True,
    transposed=False,
    of_draws=False,
):
    """The same numbers from the distributions themselves, so that a mutant differs from the truth in one place."""
    q = program.exact_posterior(x) if program.posterior is None else program.posterior(x)
    p = dist.Normal(x.new_zeros(L), 1.0).to_event(1)
    as_mvn = dist.MultivariateNormal(x.new_zeros(L), torch.eye(L).to(x))
    dense = q if program.posterior is None else dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
    kl = kl_divergence(as_mvn, dense) if reverse else kl_divergence(dense, as_mvn)
    per_unit = None
    if program.posterior is not None:
        pairs = (p.base_dist, q.base_dist) if reverse else (q.base_dist, p.base_dist)
        per_unit = sign * getattr(kl_divergence(*pairs), reduce)(0)
    z = q.sample()
    log_q = q.log_prob(z[:, None])  # (i, j)
    own = log_q.diagonal()
    if transposed:
        log_q = log_q.T
    if leave_out:
        log_q = log_q.masked_fill(torch.eye(len(x), dtype=torch.bool), -math.inf)
    mixture = log_q.logsumexp(1) - (math.log(len(x) - leave_out) if log_count else 0)
    told, apart = own - mixture, mixture - p.log_prob(z)
    share = (own - own.logaddexp(log_q.logsumexp(1))).exp().mean().item() / 2

    def estimate(values, bias):
        scale = 1 if reduce == "mean" else len(values)
        return scale * values.mean().item(), math.hypot(values.std().item() / math.sqrt(len(values)), bias)

    active = int(((z if of_draws else q.mean).var(0) > 0.01).sum())
    return Found(sign * kl, per_unit, estimate(told, 0), estimate(apart, share), active)


def mutant(**change):
    return lambda program, x: by_hand(program, x, **change)


# ---- the laws


def law_divergences_are_closed_forms(measure):
    """KL of each datum and unit as torch has it, to 1e-12; units sum to the site."""
    for posterior in (Diagonal, None):
        program, x = ppca(posterior, 300)
        with torch.no_grad():
            found = measure(program, x)
            q = program.exact_posterior(x) if posterior is None else program.posterior(x)
            dense = dist.MultivariateNormal(
                q.mean, q.covariance_matrix if posterior is None else torch.diag_embed(q.variance)
            )
            exact = kl_divergence(dense, dist.MultivariateNormal(x.new_zeros(L), torch.eye(L).to(x)))
        assert (found.kl - exact).abs().max() < 1e-12
        if posterior is not None:
            units = 0.5 * (q.mean**2 + q.variance - 1 - q.variance.log()).mean(0)
            assert (found.per_unit - units).abs().max() < 1e-12
            assert found.per_unit[-1] == 0


def law_exact_posterior_shares_the_information_of_the_model(measure):
    """For q = p(z | x) and data from the model: I = 0.5 log det(I + W'W / s^2), and q(z) = p(z).

    The mean KL is that information too. All within 4.9 standard errors.
    """
    for seed in range(3):
        program, x = ppca(None, N, seed=seed)
        with torch.no_grad():
            precision = torch.eye(L) + program.loadings.T @ program.loadings / (2 * program.log_scale).exp()
            exact = 0.5 * torch.logdet(precision).item()
            found = measure(program, x)
        assert exact > 0.5, "without information the law says nothing"
        estimate, error = found.information
        assert abs(estimate - exact) < Z_LIMIT * error
        assert 0 < error < 0.1
        estimate, error = found.apart
        assert abs(estimate) < Z_LIMIT * error
        assert 0 < error < 0.1
        kl = found.kl
        assert (kl.mean() - exact).abs() < Z_LIMIT * kl.std() / math.sqrt(N)


def law_the_two_parts_make_the_divergence(measure):
    """mean KL = I + KL(q(z) || p(z)) for a wrong guide, within 4.9 standard errors of both parts."""
    program, x = ppca(Diagonal, N)
    with torch.no_grad():
        found = measure(program, x)
    (information, error), (apart, other) = found.information, found.apart
    assert abs(found.kl.mean().item() - information - apart) < Z_LIMIT * (error + other)
    assert apart > Z_LIMIT * other, "this guide should leave the prior, or the law says nothing"


def law_a_guide_that_is_the_prior_has_nothing(measure):
    """KL, mutual information and active units are zero, to rounding."""
    program, x = ppca(Prior, 300)
    with torch.no_grad():
        found = measure(program, x)
    assert found.kl.abs().max() < 1e-12
    assert found.per_unit.abs().max() < 1e-12
    assert abs(found.information[0]) < 1e-12
    assert abs(found.apart[0]) < Z_LIMIT * found.apart[1]
    assert found.active == 0


def law_posteriors_apart_reach_the_ceiling(measure):
    """If each datum can be read off its z, the mutual information is log N to 1e-6, and not more."""
    program, x = ppca(Apart, 50)
    with torch.no_grad():
        information, _ = measure(program, x).information
    assert abs(information - math.log(50)) < 1e-6


def law_only_units_that_move_are_active(measure):
    """The unit whose mean is the same for all data is not active, the other is."""
    program, x = ppca(Diagonal, 300)
    with torch.no_grad():
        assert measure(program, x).active == 1


TRUTH = {"collapse": measured, "by hand": by_hand}
MUTANTS_OF_KL = {
    "sign": mutant(sign=-1),
    "KL(p || q)": mutant(reverse=True),
}
MUTANTS_OF_INFORMATION = {
    "log N dropped": mutant(log_count=False),
    "sum for mean": mutant(reduce="sum"),
    "own posterior at the others' draws": mutant(transposed=True),
}
LAWS = [
    (law_divergences_are_closed_forms, TRUTH, MUTANTS_OF_KL | {"sum for mean": mutant(reduce="sum")}),
    (
        law_exact_posterior_shares_the_information_of_the_model,
        TRUTH | {"structured": chained},
        MUTANTS_OF_KL | MUTANTS_OF_INFORMATION,
    ),
    (law_the_two_parts_make_the_divergence, TRUTH, MUTANTS_OF_KL | {"sum for mean": mutant(reduce="sum")}),
    (law_a_guide_that_is_the_prior_has_nothing, TRUTH, {"log N dropped": mutant(log_count=False)}),
    (
        law_posteriors_apart_reach_the_ceiling,
        TRUTH,
        {"i = j left out": mutant(leave_out=True), "log N dropped": mutant(log_count=False)},
    ),
    (
        law_only_units_that_move_are_active,
        TRUTH,
        {"spread for mean": mutant(of_draws=True)},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
