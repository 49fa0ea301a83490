"""Laws of the inference gap and of annealed importance sampling, each with the mutants that it must catch.

Laws of the gap are functions of an implementation ``gap(model, guide, x) -> InferenceGap``, laws of annealing of one
``ais(densities, start) -> log weights (chains, batch)``. The oracles are PPCA in float64, whose posterior, log p(x) and
best diagonal Gaussian have closed forms, quadrature for a nonlinear decoder of one latent, and Gaussians and Gammas
with known normalisers. Statistical laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 for each number.
"""

import dataclasses
import itertools
import math
from functools import partial
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.diagnostics import gap_estimates, local_guide, unconstrained
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.models import PPCA
from pyro_dgm.samplers import annealed_importance_sampling, hmc, temperatures

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


# ---- what the laws of the gap are about, and its mutants


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


# ---- laws of the gap


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


# ---- what the laws of annealing are about, and its mutants


def ais(densities, start, **options):
    return annealed_importance_sampling(
        densities, start, **{"num_chains": 4000, "num_temperatures": 12, **options}
    )


def log_weight(*args, **options):
    return ais(*args, **options).log_weight


def loop(increment):
    """The loop written plainly, with another weight."""

    def run(densities, start, transition=hmc):
        betas, z = temperatures(12), start(4000)
        log_w = torch.zeros(z.shape[:2], dtype=torch.float64)
        for last, beta in itertools.pairwise(betas):

            def tempered(z, beta=beta):
                log_start, log_target = densities(z)
                return (1 - beta) * log_start + beta * log_target

            new, _ = transition(z, tempered, torch.full((z.shape[1],), 0.3, dtype=z.dtype))
            log_w += increment(densities, z, new, last, beta)
            z = new
        return log_w

    return run


def ratio(densities, z):
    log_start, log_target = densities(z)
    return log_target - log_start


def true_increment(densities, z, new, last, beta):
    return (beta - last) * ratio(densities, z)


def after_the_transition(densities, z, new, last, beta):
    return (beta - last) * ratio(densities, new)


def target_alone(densities, z, new, last, beta):
    return (beta - last) * densities(z)[1]


def whole_temperature(densities, z, new, last, beta):
    return beta * ratio(densities, z)


def leapfrog(z, log_density, step_size, *, momentum=torch.randn_like, accept=None):
    """The transition written plainly, with steps large enough that the correction matters."""

    def gradient(z):
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(log_density(z).sum(), z)[0]

    step, velocity, end = 2 * step_size[:, None], momentum(z), z
    before = log_density(z), 0.5 * velocity.square().sum(-1)
    for _ in range(3):
        velocity = velocity + 0.5 * step * gradient(end)
        end = end + step * velocity
        velocity = velocity + 0.5 * step * gradient(end)
    after = log_density(end), 0.5 * velocity.square().sum(-1)
    log_ratio = (accept or hamiltonian)(before, after)
    accepted = torch.rand_like(log_ratio).log() < log_ratio
    return torch.where(accepted[..., None], end, z), log_ratio.exp().clamp(max=1)


def hamiltonian(before, after):
    return (after[0] - after[1]) - (before[0] - before[1])


TRANSITIONS = {
    "no Metropolis step": partial(leapfrog, accept=lambda before, after: torch.zeros_like(after[0])),
    "ratio upside down": partial(leapfrog, accept=lambda before, after: -hamiltonian(before, after)),
    "no kinetic energy": partial(leapfrog, accept=lambda before, after: after[0] - before[0]),
    "wrong sign of it": partial(
        leapfrog, accept=lambda before, after: (after[0] + after[1]) - (before[0] + before[1])
    ),
    "momentum not refreshed": partial(leapfrog, momentum=torch.ones_like),
}


# ---- laws of annealing


def law_mean_weight_is_the_normaliser(ais):
    """From N(0, I) to unnormalised Gaussians elsewhere: E[w] = Z, known, within 4.9 standard errors."""
    variance = torch.tensor([0.15, 0.5, 3.0], dtype=torch.float64)
    mean = torch.tensor([0.5, -0.5, 0.3], dtype=torch.float64)

    def densities(z):
        log_start = -0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]
        return log_start, -0.5 * (z - mean[:, None]).square().sum(-1) / variance + 7.0

    torch.manual_seed(0)
    log_w = ais(densities, lambda chains: torch.randn(chains, 3, 2, dtype=torch.float64))
    weight = (log_w - (2 * math.pi * variance).log() - 7.0).exp()
    error = weight.std(0) / math.sqrt(len(weight))
    assert (error < 0.2).all(), "too much noise to say anything"
    assert ((weight.mean(0) - 1).abs() < Z_LIMIT * error).all()


def law_transition_leaves_its_density(transition):
    """20,000 states drawn from a Gaussian have its mean and variance after five transitions, some refused."""
    torch.manual_seed(0)
    variance = torch.tensor([0.2, 1.0], dtype=torch.float64)
    z = torch.randn(20_000, 2, 2, dtype=torch.float64) * variance[:, None].sqrt()
    for _ in range(5):
        z, probability = transition(z, lambda z: -0.5 * z.square().sum(-1) / variance, 0.75 * variance.sqrt())
    standard = z / variance[:, None].sqrt()
    assert standard.mean(0).abs().max() < Z_LIMIT / math.sqrt(len(z))
    assert (standard.square().mean(0) - 1).abs().max() < Z_LIMIT * math.sqrt(2 / len(z))
    assert 0.1 < probability.mean() < 0.99, "no refusals, or nothing moves: the law says nothing"


def law_chains_forget_their_start(transition):
    """Chains that begin three deviations away have the mean of the density after thirty transitions."""
    torch.manual_seed(0)
    z = torch.full((4000, 1, 1), 3.0, dtype=torch.float64)
    for _ in range(30):
        z, _ = transition(z, lambda z: -0.5 * z.square().sum(-1), torch.tensor([0.4], dtype=torch.float64))
    assert z.mean().abs() < Z_LIMIT / math.sqrt(len(z))


def gamma_poisson(x):
    with pyro.plate("data", len(x)):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0, dtype=torch.float64), 1.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


def law_supports_count(annealed_log_p):
    """A Gamma latent of Poisson data, annealed in log(rate): log p(x) is negative binomial, from prior and guide."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.LogNormal((0.5 + 0.5 * x).log(), 0.5))

    x = torch.tensor([0.0, 2.0, 7.0], dtype=torch.float64)
    truth = dist.NegativeBinomial(2.0, probs=torch.tensor(0.5, dtype=torch.float64)).log_prob(x).numpy()
    for start in ("prior", "guide"):
        torch.manual_seed(0)
        log_p, error = annealed_log_p(gamma_poisson, guide, x, start)
        assert (error < 0.1).all(), "too much noise to say anything"
        assert (np.abs(log_p - truth) < Z_LIMIT * error).all()


def annealed_log_p(model, guide, x, start):
    sampler = partial(annealed_importance_sampling, num_chains=2000, num_temperatures=20)
    found = gap(model, guide, x, num_particles=50, steps=1, estimator="ais", start=start, ais=sampler)
    return found.log_p, found.log_p_standard_error


def without_log_det(*args):
    class Forgetful(unconstrained._Transformed):
        def _pyro_sample(self, msg):
            super()._pyro_sample(msg)
            self.log_det = {name: 0 * value for name, value in self.log_det.items()}

    with mock.patch.object(unconstrained, "_Transformed", Forgetful):
        return annealed_log_p(*args)


def log_det_in_the_target_alone(*args):
    true = unconstrained.UnconstrainedModel.densities

    def densities(self, u):
        log_start, log_target = true(self, u)
        return log_start - u.sum(-1), log_target

    with mock.patch.object(unconstrained.UnconstrainedModel, "densities", densities):
        return annealed_log_p(*args)


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
    (
        law_mean_weight_is_the_normaliser,
        {
            "AIS": log_weight,
            "linear": partial(log_weight, schedule="linear"),
            "one temperature": partial(log_weight, num_temperatures=1),
            "fixed steps": partial(log_weight, num_adaptation_chains=0, step_size=0.3),
            "plain loop": loop(true_increment),
            "plain transition": partial(loop(true_increment), transition=leapfrog),
        },
        {
            "weight after the transition": loop(after_the_transition),
            "target alone": loop(target_alone),
            "whole temperature": loop(whole_temperature),
        }
        | {
            name: partial(loop(true_increment), transition=transition)
            for name, transition in TRANSITIONS.items()
        },
    ),
    (
        law_transition_leaves_its_density,
        {"hmc": lambda *args: hmc(*args[:2], 2 * args[2]), "plain transition": leapfrog},
        TRANSITIONS,
    ),
    (
        law_chains_forget_their_start,
        {"hmc": hmc},
        {
            "no step": lambda z, log_density, step: hmc(z, log_density, 0 * step),
            "force of the wrong sign": lambda z, log_density, step: hmc(
                z, lambda z: log_density(2 * z.detach() - z), step
            ),
        },
    ),
    (
        law_supports_count,
        {"AIS": annealed_log_p},
        {"no log-det": without_log_det, "log-det in the target alone": log_det_in_the_target_alone},
    ),
]
TRUE = [
    pytest.param(law, implementation, id=f"{law.__name__}-{name}")
    for law, true, _ in LAWS
    for name, implementation in true.items()
]
MUTANTS = [
    pytest.param(law, mutant, id=f"{law.__name__}-{name}")
    for law, _, mutants in LAWS
    for name, mutant in mutants.items()
]


@pytest.mark.parametrize(("law", "implementation"), TRUE)
def test_law_holds(law, implementation):
    law(implementation)


@pytest.mark.parametrize(("law", "mutant"), MUTANTS)
def test_law_catches_mutant(law, mutant):
    with pytest.raises(AssertionError):
        law(mutant)
