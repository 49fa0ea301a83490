"""Laws of estimating p(x) with a discrete latent: naive Monte Carlo and importance sampling, by enumeration.

With z one of eight states, p(x) = sum_z p(x, z) is estimated by the mean of k weights p(x, z_j) / q(z_j): for q uniform
this is the naive estimate |Z| mean p(x, z_j), for q = p(z) the mean likelihood. Each has the mean p(x) and the variance
(sum_z p(x, z)^2 / q(z) - p(x)^2) / k, which is zero for the posterior. A law is a function of
``weights(pair, guide, num_particles) -> (num_particles, batch)``, whose mutants it must catch.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.objectives import log_weights
from pyro_dgm.objectives.traces import Given
from tests.laws.listed import as_tests

STATES, PIXELS, DATA = 8, 5, 3
Z_LIMIT = 4.9
DRAWS = 40_000


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


class States:
    """Pixels whose probabilities depend on one of eight states, and guides by name."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.prior = torch.randn(STATES).softmax(-1)
        self.pixels = torch.randn(STATES, PIXELS).mul(1.5).sigmoid()
        self.x = torch.bernoulli(torch.full((DATA, PIXELS), 0.5))
        pixels = dist.Bernoulli(self.pixels).log_prob(self.x[:, None]).sum(-1)  # (batch, states)
        self.joint = (self.prior.log() + pixels).exp()
        self.p = self.joint.sum(-1)
        posterior = self.joint / self.p[:, None]
        uniform = torch.full((DATA, STATES), 1 / STATES)
        self.guides = {
            "naive": uniform,
            "prior": self.prior.expand(DATA, STATES),
            "halfway": 0.5 * posterior + 0.5 * uniform,
            "posterior": posterior,
        }

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(self.prior))
            pyro.sample("x", dist.Bernoulli(self.pixels[z]).to_event(1), obs=x)

    def guide(self, name):
        def guide(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Categorical(self.guides[name]))

        return guide

    def variance(self, name):
        """Of one weight, exactly: (batch,)."""
        return (self.joint**2 / self.guides[name]).sum(-1) - self.p**2


def weights(pair, name, num_particles):
    with torch.no_grad():
        return log_weights(pair.model, pair.guide(name), pair.x, num_particles=num_particles).exp()


def at_each_state(weights, pair, name):
    """Weights (states, batch), one for each value of z."""
    every = torch.arange(STATES)[:, None].expand(STATES, DATA)
    with Given({"z": every}):
        return weights(pair, name, STATES)


# ---- the laws


def law_they_are_unbiased_by_enumeration(weights):
    """The mean of a weight over all states is p(x) for each guide, to 1e-12."""
    for seed in range(5):
        pair = States(seed)
        for name, q in pair.guides.items():
            mean = (q.T * at_each_state(weights, pair, name)).sum(0)
            assert ((mean - pair.p) / pair.p).abs().max() < 1e-12


def law_variances_are_the_derived_ones(weights):
    """E w^2 - p(x)^2 over all states is sum_z p(x, z)^2 / q(z) - p(x)^2; naively, |Z| sum_z p(x, z)^2 - p(x)^2."""
    for seed in range(5):
        pair = States(seed)
        for name, q in pair.guides.items():
            found = (q.T * at_each_state(weights, pair, name) ** 2).sum(0) - pair.p**2
            assert (found - pair.variance(name)).abs().max() < 1e-12
        naive = STATES * (pair.joint**2).sum(-1) - pair.p**2
        assert (pair.variance("naive") - naive).abs().max() < 1e-14


def law_the_posterior_has_no_variance(weights):
    """With the posterior each weight, of every draw, is p(x) to 1e-12; the naive one has a variance."""
    for seed in range(5):
        pair = States(seed)
        gap = weights(pair, "posterior", 50) / pair.p - 1
        assert gap.abs().max() < 1e-12
        assert (weights(pair, "naive", 50).std(0) > 0.1 * pair.p).all()


def law_samples_have_these_moments(weights):
    """Means and variances of 40,000 draws are the derived ones within 4.9 standard errors (false alarm 1e-6 each).

    For these pairs a bias of a tenth of p(x), and a variance that is off by a quarter, are seen.
    """
    for seed in range(3):
        pair = States(seed)
        for name in ("naive", "prior", "halfway"):
            drawn, variance = weights(pair, name, DRAWS), pair.variance(name)
            error = (variance / DRAWS).sqrt()
            assert (error * 2 * Z_LIMIT < 0.1 * pair.p).all(), "more noise than the law can see through"
            assert ((drawn.mean(0) - pair.p).abs() < Z_LIMIT * error).all()
            fourth = (pair.guides[name] * (pair.joint / pair.guides[name] - pair.p[:, None]) ** 4).sum(-1)
            error = ((fourth - variance**2) / DRAWS).sqrt()
            assert (error * 2 * Z_LIMIT < 0.25 * variance).all(), "more noise than the law can see through"
            assert ((drawn.var(0) - variance).abs() < Z_LIMIT * error).all()


def law_the_variance_of_a_mean_falls_as_its_draws(weights):
    """The mean of k draws has variance / k, for k = 4: 10,000 means, within 4.9 standard errors of their variance."""
    pair = States(0)
    for name in ("naive", "halfway"):
        means = weights(pair, name, DRAWS).reshape(-1, 4, DATA).mean(1)
        spread = means.var(0)
        error = (((means - means.mean(0)) ** 4).mean(0) - spread**2).div(len(means)).sqrt()
        assert (error * 2 * Z_LIMIT < 0.5 * spread).all(), "more noise than the law can see through"
        assert ((spread - pair.variance(name) / 4).abs() < Z_LIMIT * error).all()


def law_a_better_guide_has_less_variance(weights):
    """Halfway from uniform to the posterior the variance is less than the naive one, and there is none at the end; the
    mean logarithm of a weight is below log p(x) (Jensen), but for the posterior."""
    pair = States(1)
    variances = {
        name: (q.T * at_each_state(weights, pair, name) ** 2).sum(0) - pair.p**2
        for name, q in pair.guides.items()
    }
    assert (variances["naive"] > variances["halfway"]).all()
    assert (variances["halfway"] > 1e-3 * pair.p**2).all()
    assert (variances["posterior"].abs() < 1e-12).all()
    for name, q in pair.guides.items():
        elbo = (q.T * at_each_state(weights, pair, name).log()).sum(0)
        gap = pair.p.log() - elbo
        assert (gap > 1e-3).all() if name != "posterior" else (gap.abs() < 1e-12).all()


def without_guide(pair, name, num_particles):
    """Mean of p(x, z) without the number of states, or without q."""
    found = weights(pair, name, num_particles)
    return found / STATES if name == "naive" else found


def likelihood_of_any(pair, name, num_particles):
    """p(x | z) whatever z is drawn from: the weight of the prior."""
    drawn = torch.distributions.Categorical(pair.guides[name]).sample((num_particles,))
    if num_particles == STATES:
        drawn = torch.arange(STATES)[:, None].expand(STATES, DATA)
    return (pair.joint / pair.prior).T.gather(0, drawn)


def always_naive(pair, name, num_particles):
    return weights(pair, "naive", num_particles)


def one_draw_for_all(pair, name, num_particles):
    return weights(pair, name, num_particles)[:1].expand(num_particles, DATA)


MUTANTS_OF_ALL = {
    "number of states forgotten": without_guide,
    "likelihood for a weight": likelihood_of_any,
}
LAWS = [
    (
        law_they_are_unbiased_by_enumeration,
        {"ours": weights},
        MUTANTS_OF_ALL | {"always naive": always_naive},
    ),
    (law_variances_are_the_derived_ones, {"ours": weights}, MUTANTS_OF_ALL | {"always naive": always_naive}),
    (
        law_the_posterior_has_no_variance,
        {"ours": weights},
        {"always naive": always_naive, "likelihood for a weight": likelihood_of_any},
    ),
    (
        law_samples_have_these_moments,
        {"ours": weights},
        MUTANTS_OF_ALL | {"always naive": always_naive, "one draw for all": one_draw_for_all},
    ),
    (
        law_the_variance_of_a_mean_falls_as_its_draws,
        {"ours": weights},
        {
            "always naive": always_naive,
            "draws in pairs": lambda pair, name, number: weights(pair, name, number // 2).repeat_interleave(
                2, 0
            ),
        },
    ),
    (law_a_better_guide_has_less_variance, {"ours": weights}, {"always naive": always_naive}),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)


def test_the_naive_estimate_of_a_rare_explanation_is_mostly_too_low():
    """Where one of eight states explains x, seven draws in eight say next to nothing: the naive weights' relative
    variance is close to |Z| - 1, as it is for a state that has all of the posterior."""
    pair = States(0)
    pair.pixels = torch.full((STATES, PIXELS), 1e-4)
    pair.pixels[3] = 1 - 1e-4
    pair.x = torch.ones(DATA, PIXELS)
    found = at_each_state(weights, pair, "naive")
    p = found.mean(0)
    assert ((found**2).mean(0) / p**2 - 1 - (STATES - 1)).abs().max() < 1e-3
    assert (found[[0, 1, 2, 4, 5, 6, 7]] < 1e-10 * p).all()
    assert math.isclose(p[0].item(), pair.prior[3].item() * (1 - 1e-4) ** PIXELS, rel_tol=1e-9)
