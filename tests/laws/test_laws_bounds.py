"""Laws of weights and bounds on PPCA in float64, each with the mutants that it must catch.

A law is a function of one implementation of ``bound(model, guide, x, num_particles) -> (batch,)`` or of
``weights(model, guide, x, num_particles) -> (num_particles, batch)``; ``LAWS`` lists each law with the true
implementation and its planted mutants. A law that a mutant passes is a defect of the law.
Statistical laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 each.
"""

import itertools
import math

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import nn

from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, log_weights
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.sites import sample_sites
from pyro_dgm.objectives.traces import run_pair
from tests.laws.listed import as_tests

D, L, B = 6, 3, 4
Z_LIMIT = 4.9


class WrongPosterior(nn.Module):
    """Diagonal normal away from the exact posterior, wider than it, with parameters."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(0.3 * torch.randn(L, D))
        self.log_scale = nn.Parameter(0.2 * torch.randn(L))

    def forward(self, x):
        return dist.Normal(x @ self.weight.T, self.log_scale.exp()).to_event(1)


def ppca(seed, *, exact=False):
    torch.manual_seed(seed)
    program = PPCA(D, L, posterior=None if exact else WrongPosterior()).double()
    with torch.no_grad():
        program.loadings.normal_()
        program.mean.normal_()
        program.log_scale.fill_(-0.2 + 0.3 * torch.randn(()).item())
    return program, torch.randn(B, D, dtype=torch.float64)


# ---- what the laws are about: per-datum weights and per-datum bounds


def weights(model, guide, x, num_particles):
    return log_weights(model, guide, x, num_particles=num_particles)


def iwae(model, guide, x, num_particles):
    """IWAE's per-datum bound: the objective sums over data, so one datum at a time."""
    objective = IWAE(num_particles)
    return torch.stack([-objective(model, guide, row[None]) for row in x])


def elbo_monte_carlo(model, guide, x, num_particles):
    objective = ELBO(num_particles)
    return torch.stack([-objective(model, guide, row[None]) for row in x])


def elbo_analytic(model, guide, x, num_particles):
    objective = ELBO(num_particles, kl="analytic")
    return torch.stack([-objective(model, guide, row[None]) for row in x])


def pyro_trace(model, guide, x, num_particles):
    objective = PyroELBO(pyro.infer.Trace_ELBO(num_particles))
    return torch.stack([-objective(model, guide, row[None]) for row in x])


def mutant_of(sites_of, combine):
    """Weights summed site by site from the traces, so that a mutant differs from the truth in one place."""

    def mutant(model, guide, x, num_particles):
        layout = inspect_pair(model, guide, (x,), num_particles)
        (traces,) = run_pair(model, guide, (x,), num_particles, layout)
        parts = {
            f"{role}({name})": sites_of(site).expand(num_particles, B)
            for role, trace in zip("pq", traces, strict=True)
            for name, site in sample_sites(trace).items()
        }
        return combine(parts)

    return mutant


def unscaled(site):
    value = site["unscaled_log_prob"]
    return value if site["mask"] is None else torch.where(site["mask"], value, 0.0)


def total(parts, signs):
    return sum(sign * parts[name] for name, sign in signs.items() if name in parts)


SIGNS = {"p(x)": 1, "p(z)": 1, "q(z)": -1, "p(inert)": 1, "q(inert)": -1}
wrong_entropy_sign = mutant_of(unscaled, lambda parts: total(parts, SIGNS | {"q(z)": 1}))
missing_prior = mutant_of(unscaled, lambda parts: total(parts, {"p(x)": 1, "q(z)": -1}))
missing_guide = mutant_of(unscaled, lambda parts: total(parts, {"p(x)": 1, "p(z)": 1}))
counts_scale = mutant_of(lambda site: site["log_prob"], lambda parts: total(parts, SIGNS))
ignores_mask = mutant_of(lambda site: site["unscaled_log_prob"], lambda parts: total(parts, SIGNS))


def whole_trace(model, guide, x, num_particles):
    """One weight for all data, shared: what an inert site does to Pyro's RenyiELBO."""
    log_w = weights(model, guide, x, num_particles)
    return log_w.sum(1, keepdim=True).expand_as(log_w) / B


def mean_of(estimator, reduce):
    """A bound made from weights; ``reduce`` is where sum-for-mean and order mutants sit."""
    return lambda model, guide, x, num_particles: reduce(estimator(model, guide, x, num_particles))


def logmeanexp(log_w):
    return log_w.logsumexp(0) - math.log(len(log_w))


def logsumexp(log_w):
    return log_w.logsumexp(0)  # sum for mean


def meanlog(log_w):
    return log_w.mean(0)  # the ELBO whatever K is


def logmeanexp_over_batch(log_w):
    return logmeanexp(log_w).mean().expand(log_w.shape[1])  # one number for all data


# ---- the laws


def law_exact_posterior_has_no_variance(bound):
    """With the exact posterior each estimate, of any number of particles, equals log p(x) to 1e-10."""
    for seed in range(3):
        program, x = ppca(seed, exact=True)
        for num_particles in (1, 2, 7):
            with torch.no_grad():
                error = bound(program.model, program.guide, x, num_particles) - program.log_prob(x)
            assert error.abs().max() < 1e-10


def law_gap_is_the_divergence(bound):
    """log p(x) - ELBO = KL(q || p(z | x)), the closed form, within 4.9 standard errors of 2,000 one-sample bounds."""
    for seed in range(2):
        program, x = ppca(seed)
        with torch.no_grad():
            repeated = x[:1].expand(B, D)
            gap = torch.distributions.kl_divergence(
                as_mvn(program.posterior(x[:1])), program.exact_posterior(x[:1])
            )
            estimates = torch.cat(
                [bound(program.model, program.guide, repeated, 1).flatten() for _ in range(500)]
            )
        error = program.log_prob(x[:1]) - gap - estimates.mean()
        assert error.abs() < Z_LIMIT * estimates.std() / math.sqrt(len(estimates))


def as_mvn(normal):
    return dist.MultivariateNormal(normal.mean, torch.diag_embed(normal.variance))


def law_more_particles_tighten(bound):
    """L_K does not fall with K, is not above log p(x), and reaches it; all within 4.9 standard errors."""
    program, x = ppca(0)
    truth = program.log_prob(x).detach()
    gaps = []
    for num_particles, repeats in ((1, 400), (5, 400), (50, 200), (5000, 20)):
        with torch.no_grad():
            draws = torch.stack(
                [bound(program.model, program.guide, x, num_particles) for _ in range(repeats)]
            )
        gap = truth - draws
        gaps.append((gap.mean(0), gap.std(0) / math.sqrt(repeats)))
    for mean, error in gaps:
        assert (mean > -Z_LIMIT * error - 1e-9).all(), "above log p(x)"
    for (mean, error), (next_mean, next_error) in itertools.pairwise(gaps):
        assert (next_mean - mean < Z_LIMIT * (error**2 + next_error**2).sqrt()).all(), "falls with K"
    assert (gaps[0][0] > 0.1).all(), "this guide should leave a gap at K = 1, or the law says nothing"
    assert (gaps[-1][0] < 0.05 + Z_LIMIT * gaps[-1][1]).all(), "does not reach log p(x)"


def law_gradient_is_autograd_of_logmeanexp(bound):
    """Gradients equal those of logmeanexp written by hand with the same noise, to 1e-12 of the largest."""
    program, x = ppca(1)
    num_particles = 8
    torch.manual_seed(0)
    bound(program.model, program.guide, x[:1], num_particles).sum().backward()
    found = {name: parameter.grad.clone() for name, parameter in program.named_parameters()}
    program.zero_grad()
    torch.manual_seed(0)
    noise = torch.randn(num_particles, 1, L, dtype=torch.float64)
    q = program.posterior
    z = x[:1] @ q.weight.T + q.log_scale.exp() * noise
    log_q = (-0.5 * noise**2 - q.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    log_prior = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(-1)
    residual = (x[:1] - z @ program.loadings.T - program.mean) / program.log_scale.exp()
    log_likelihood = (-0.5 * residual**2 - program.log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)
    logmeanexp(log_likelihood + log_prior - log_q).sum().backward()
    for name, parameter in program.named_parameters():
        assert (found[name] - parameter.grad).abs().max() <= 1e-12 * parameter.grad.abs().max()


def law_scales_and_inert_sites_change_nothing(estimate):
    """A scale around model and guide, and a site with one density in both, leave each datum's weights as they are."""
    program, x = ppca(2)

    def model(x):
        result = program.model(x)
        pyro.sample("inert", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
        return result

    def guide(x):
        program.guide(x)
        pyro.sample("inert", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))

    def seeded(model, guide, num_particles):
        torch.manual_seed(5)
        with torch.no_grad():
            return estimate(model, guide, x, num_particles)

    for num_particles in (1, 6):
        plain = seeded(program.model, program.guide, num_particles)
        scaled = seeded(poutine.scale(program.model, 4.0), poutine.scale(program.guide, 4.0), num_particles)
        assert (scaled - plain).abs().max() < 1e-12
    assert (seeded(model, guide, 1) - seeded(program.model, program.guide, 1)).abs().max() < 1e-12
    # With several particles an inert site draws in between; the exact posterior makes the weights free of noise.
    program.posterior = None
    assert (seeded(model, guide, 6) - program.log_prob(x)).abs().max() < 1e-10


def law_masks_are_honoured(estimate):
    """A masked datum weighs nothing; a masked observation leaves log p(z) - log q(z)."""
    program, x = ppca(3)
    mask = torch.tensor([True, False, True, False])
    with torch.no_grad():
        torch.manual_seed(1)
        plain = estimate(program.model, program.guide, x, 1)
        torch.manual_seed(1)
        masked = estimate(
            poutine.mask(program.model, mask=mask), poutine.mask(program.guide, mask=mask), x, 1
        )
    assert (masked - torch.where(mask, plain, 0.0)).abs().max() < 1e-12


MUTANT_BOUNDS = {
    "entropy sign": mean_of(wrong_entropy_sign, logmeanexp),
    "no prior": mean_of(missing_prior, logmeanexp),
    "no guide density": mean_of(missing_guide, logmeanexp),
    "sum for mean": mean_of(weights, logsumexp),
}
LAWS = [
    (
        law_exact_posterior_has_no_variance,
        {
            "weights": weights,
            "IWAE": iwae,
            "ELBO": elbo_monte_carlo,
            "Pyro": pyro_trace,
            "from weights": mean_of(weights, logmeanexp),
        },
        MUTANT_BOUNDS | {"one number for all data": mean_of(weights, logmeanexp_over_batch)},
    ),
    (
        law_gap_is_the_divergence,
        {"weights": weights, "IWAE": iwae, "ELBO": elbo_monte_carlo, "analytic": elbo_analytic},
        {
            name: bound for name, bound in MUTANT_BOUNDS.items() if name != "sum for mean"
        },  # one particle: no mean
    ),
    (
        law_more_particles_tighten,
        {"weights": mean_of(weights, logmeanexp)},
        MUTANT_BOUNDS | {"always the ELBO": mean_of(weights, meanlog)},
    ),
    (
        law_gradient_is_autograd_of_logmeanexp,
        {"IWAE": iwae},
        {
            name: bound for name, bound in MUTANT_BOUNDS.items() if name != "sum for mean"
        }  # a constant: no gradient
        | {
            "always the ELBO": mean_of(weights, meanlog),
            "detached weights": lambda *a: (lambda w: (w.softmax(0).detach() * w.exp()).sum(0))(weights(*a)),
        },
    ),
    (
        law_scales_and_inert_sites_change_nothing,
        {"weights": weights},
        {"counts scales": counts_scale, "one weight for all data": whole_trace},
    ),
    (law_masks_are_honoured, {"weights": weights}, {"ignores masks": ignores_mask, "shared": whole_trace}),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
