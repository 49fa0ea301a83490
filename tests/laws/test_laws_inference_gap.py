"""Laws of the inference gap, each with the mutants that it must catch.

A law is a function of an implementation ``gap(model, guide, x) -> InferenceGap``; ``LAWS`` lists each law with its
mutants. The oracles are PPCA in float64, whose posterior, log p(x) and best diagonal Gaussian have closed forms, and
quadrature for a nonlinear decoder of one latent. Statistical laws compare with 4.9 standard errors, a false-alarm rate
of 1e-6 for each number.
"""

import dataclasses
import math
from functools import partial
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_dgm.diagnostics import gap_estimates, local_guide
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.models import PPCA
from pyro_dgm.samplers import annealed_importance_sampling
from tests.laws.listed import as_tests

D, L, B = 6, 3, 6
Z_LIMIT = 4.9
SUBOPTIMAL = 5e-3  # nats, what the search for the best member may miss


class Diagonal(nn.Module):
    """Diagonal normal around ``weight x + shift``."""

    def __init__(self, weight, shift, scale):
        super().__init__()
        self.weight, self.shift, self.scale = weight, shift, scale

    def forward(self, x):
        return dist.Normal(x @ self.weight.T + self.shift, self.scale).to_event(1)


def ppca(seed, guide, num=B):
    """PPCA in float64 with an exact, a wrong or the best diagonal guide, data, and the posterior."""
    torch.manual_seed(seed)
    program = PPCA(D, L).double()
    with torch.no_grad():
        program.loadings.normal_()
        program.mean.normal_()
        program.log_scale.fill_(-0.2)
        x = program.model(n=num).detach()
        posterior = program.exact_posterior(x)
        zero = program.exact_posterior(torch.zeros(1, D, dtype=torch.float64)).mean
        weight = (program.exact_posterior(torch.eye(D, dtype=torch.float64)).mean - zero).T
        best_scale = posterior.precision_matrix[0].diagonal() ** -0.5
        if guide == "best":
            program.posterior = Diagonal(weight, zero, best_scale)
        elif guide == "wrong":
            weight = weight + 0.1 * torch.randn(L, D, dtype=torch.float64)
            scale = best_scale * (0.3 * torch.randn(L, dtype=torch.float64)).exp()
            program.posterior = Diagonal(weight, zero + 0.2, scale)
    return program, x, posterior, best_scale


def divergence(scale, mean, posterior):
    """KL(N(mean, diag(scale^2)) || posterior) in closed form."""
    q = dist.MultivariateNormal(mean, scale_tril=torch.diag_embed(scale.expand_as(mean)))
    return torch.distributions.kl_divergence(q, posterior).detach().numpy()


# ---- what the laws are about, and its mutants


def gap(model, guide, x, **options):
    return inference_gap(
        model, guide, x, **{"num_particles": 5000, "steps": 400, "estimator": "iwae"} | options
    )


def changed(**parts):
    """The gap with fields computed otherwise."""

    def mutant(*args, **options):
        found = gap(*args, **options)
        return dataclasses.replace(found, **{name: change(found) for name, change in parts.items()})

    return mutant


def moving(change):
    """The gap with other offsets than those that were optimised."""
    true = local_guide.moved

    def mutant(*args, **options):
        with mock.patch.object(
            local_guide,
            "moved",
            lambda fn, offsets: true(fn, {n: change(n, o) for n, o in offsets.items()}),
        ):
            return gap(*args, **options)

    return mutant


def selected_on_what_is_reported(model, guide, x, **options):
    true = gap_estimates.bounds

    def bounds(piece, *, num_particles, steps):
        found = true(piece, num_particles=num_particles, steps=steps)
        local, seed = piece.best_member(steps), gap_estimates.new_seed()
        ours, theirs = (piece.log_weights(num_particles, seed, by).mean(0) for by in (None, local))
        return found | {"elbo": ours, "best_elbo": np.maximum(ours, theirs)}

    with mock.patch("pyro_dgm.diagnostics.gaps.bounds", bounds):
        return gap(model, guide, x, **options)


def astray(*args, **options):
    """The local guide may replace an exact one."""
    with mock.patch.object(gap_estimates, "_EXACT", -1.0):
        return gap(*args, **options)


ELBO_FOR_LOG_P = changed(log_p=lambda found: found.elbo)
SUM_FOR_MEAN = changed(log_p=lambda found: found.log_p + math.log(found.num_particles))
SWAPPED = changed(best_elbo=lambda found: found.log_p - found.amortisation)
NO_SEARCH = changed(best_elbo=lambda found: found.elbo)
LOC_ALONE = moving(lambda name, offset: offset if name == "loc" else 0 * offset)
SCALE_ALONE = moving(lambda name, offset: offset if name == "scale" else 0 * offset)
ONE_FOR_ALL_DATA = moving(lambda name, offset: offset.mean(0, keepdim=True).expand_as(offset))


# ---- the laws


def law_log_p_is_exact(gap):
    """log p(x) is the closed form, within 4.9 of its own standard errors."""
    program, x, _, _ = ppca(0, "wrong")
    found = gap(program.model, program.guide, x, steps=100)
    error = found.log_p - program.log_prob(x).detach().numpy()
    assert (np.abs(error) < Z_LIMIT * found.log_p_standard_error).all()


def law_parts_are_divergences(gap):
    """Approximation = KL(best diagonal Gaussian || posterior), amortisation = KL(q || posterior) less that."""
    for seed in range(2):
        program, x, posterior, best_scale = ppca(seed, "wrong")
        found = gap(program.model, program.guide, x)
        q = program.posterior(x)
        best = divergence(best_scale, posterior.mean, posterior)
        total = divergence(q.base_dist.scale[0], q.mean, posterior)
        assert best.min() > 0.05, "no gap of the family, or the law says nothing"
        assert (total - best).min() > 0.05, "no amortisation gap, or the law says nothing"
        error = Z_LIMIT * np.hypot(found.log_p_standard_error, found.best_elbo_standard_error)
        assert (found.approximation > best - error).all()
        assert (found.approximation < best + SUBOPTIMAL + error).all()
        error = Z_LIMIT * found.amortisation_standard_error
        assert (found.amortisation < total - best + error).all()
        assert (found.amortisation > total - best - SUBOPTIMAL - error).all()
        assert np.allclose(found.approximation + found.amortisation, found.total)


def law_exact_posterior_has_no_gap(gap):
    """With the exact posterior log p(x) is exact and both parts are zero, to 1e-9."""
    program, x, _, _ = ppca(1, "exact")
    found = gap(program.model, program.guide, x, num_particles=50, steps=50)
    assert np.abs(found.log_p - program.log_prob(x).detach().numpy()).max() < 1e-9
    assert np.abs(found.approximation).max() < 1e-9
    assert np.abs(found.amortisation).max() < 1e-9


def law_best_guide_has_no_amortisation_gap(gap):
    """Where the guide is the best member already, noise finds no better one: mean gap at most 4.9 standard errors."""
    program, x, _, _ = ppca(2, "best", num=400)
    amortisation = gap(program.model, program.guide, x, num_particles=4, steps=3).amortisation
    error = amortisation.std() / math.sqrt(len(amortisation))
    assert amortisation.mean() <= Z_LIMIT * error


def curve(x=None):
    """One latent through a nonlinear decoder, whose posterior is skewed."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.float64), 1.0))
        mean = torch.stack([z.exp(), (1.5 * z).sin()], dim=-1)
        pyro.sample("x", dist.Normal(mean, 0.5).to_event(1), obs=x)


def curve_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x[:, 0] - 0.3, 0.6))


def law_quadrature_agrees(gap):
    """log p(x) and the best Gaussian's bound are those of quadrature, for weights and for annealing."""
    x = torch.tensor([[1.0, 0.2], [2.0, 0.9], [0.3, -0.9], [4.0, 0.5]], dtype=torch.float64)
    z = torch.linspace(-12, 12, 24_001, dtype=torch.float64)
    mean = torch.stack([z.exp(), (1.5 * z).sin()], dim=-1)
    log_joint = dist.Normal(mean[:, None], 0.5).log_prob(x).sum(-1) - 0.5 * z[:, None] ** 2
    log_joint = log_joint - 0.5 * math.log(2 * math.pi)
    log_p = (log_joint.logsumexp(0) + math.log(24 / 24_000)).numpy()
    # ELBO of a Gaussian by Gauss-Hermite; its maximum by Newton-like descent.
    nodes, weights = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(60))
    loc, log_scale = 0.3 * x[:, 0] - 0.3, torch.full((4,), math.log(0.6), dtype=torch.float64)
    q = [loc.clone().requires_grad_(), log_scale.requires_grad_()]

    def bound():
        at = q[0] + q[1].exp() * nodes[:, None]
        mean = torch.stack([at.exp(), (1.5 * at).sin()], dim=-1)
        log_joint = dist.Normal(mean, 0.5).log_prob(x).sum(-1) + dist.Normal(0.0, 1.0).log_prob(at)
        expected = (weights[:, None] * log_joint).sum(0) / weights.sum()
        return expected + q[1] + 0.5 * math.log(2 * math.pi * math.e)

    optimizer = torch.optim.LBFGS(q, max_iter=200, line_search_fn="strong_wolfe")
    optimizer.step(lambda: (optimizer.zero_grad(), (-bound().sum()).backward(), -bound().sum())[2])
    best = bound().detach().numpy()
    for options in ({}, {"estimator": "ais"}):
        found = gap(
            curve, curve_guide, x, ais=partial(annealed_importance_sampling, num_chains=300), **options
        )
        assert (np.abs(found.log_p - log_p) < Z_LIMIT * found.log_p_standard_error).all()
        error = Z_LIMIT * found.best_elbo_standard_error
        assert (found.best_elbo < best + error).all()
        assert (found.best_elbo > best - SUBOPTIMAL - error).all()


LAWS = [
    (law_log_p_is_exact, {"gap": gap}, {"ELBO": ELBO_FOR_LOG_P, "sum for mean": SUM_FOR_MEAN}),
    (
        law_parts_are_divergences,
        {"gap": gap},
        {
            "ELBO for log p": ELBO_FOR_LOG_P,
            "parts swapped": SWAPPED,
            "no search": NO_SEARCH,
            "loc alone": LOC_ALONE,
            "scale alone": SCALE_ALONE,
            "one offset for all data": ONE_FOR_ALL_DATA,
        },
    ),
    (law_exact_posterior_has_no_gap, {"gap": gap}, {"sum for mean": SUM_FOR_MEAN, "astray": astray}),
    (
        law_best_guide_has_no_amortisation_gap,
        {"gap": gap},
        {"selected on what is reported": selected_on_what_is_reported},
    ),
    (
        law_quadrature_agrees,
        {"gap": gap},
        {"ELBO for log p": ELBO_FOR_LOG_P, "no search": NO_SEARCH, "loc alone": LOC_ALONE},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
