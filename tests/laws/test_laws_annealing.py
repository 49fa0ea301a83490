"""Laws of annealed importance sampling and its transitions, each with the mutants that it must catch.

A law is a function of ``ais(densities, start) -> log weights (chains, batch)``, of a transition, or of
``annealed_log_p(model, guide, x, start)``; ``LAWS`` lists each law with the true implementations and its mutants. The
oracles are Gaussians and Gammas with known normalisers. Statistical laws compare with 4.9 standard errors, a
false-alarm rate of 1e-6 for each number.
"""

import itertools
import math
from functools import partial
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import torch

from pyro_dgm.diagnostics import unconstrained
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.samplers import annealed_importance_sampling, hmc, temperatures
from tests.laws.listed import as_tests

Z_LIMIT = 4.9


# ---- what the laws are about, and its mutants


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


# ---- the laws


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
    found = inference_gap(
        model, guide, x, num_particles=50, steps=1, estimator="ais", start=start, ais=sampler
    )
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
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
