"""The eight models have the densities of their Stan originals, written here a second time, from the words."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy.stats import beta, cauchy, norm

from tests.posteriordb.make_facts import facts_of
from tests.posteriordb.models import FACTS, POSTERIORS, linear_recurrence


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def regression(outcome, predictor, theta, prior):
    intercept, slope, sigma = theta
    return norm.logpdf(outcome, intercept + slope * predictor, sigma).sum() + prior(*theta)


def stan_eight_schools(theta, y, sigma):
    effects, mu, tau = theta[:8], theta[8], theta[9]
    # Stan's parameters are z = (theta - mu) / tau: the density of z, not of theta
    prior = norm.logpdf(mu, 0, 5) + cauchy.logpdf(tau, 0, 5) + norm.logpdf((effects - mu) / tau).sum()
    return prior + norm.logpdf(y, effects, sigma).sum()


def stan_kidscore(theta, kid_score, mom_iq):
    return regression(kid_score, mom_iq, theta, lambda a, b, s: cauchy.logpdf(s, 0, 2.5))


def stan_kilpisjarvi(theta, y, x, pmualpha, psalpha, pmubeta, psbeta):
    return regression(
        y, x, theta, lambda a, b, s: norm.logpdf(a, pmualpha, psalpha) + norm.logpdf(b, pmubeta, psbeta)
    )


def stan_garch(theta, y, sigma1):
    mu, alpha0, alpha1, beta1 = theta
    sigma = [float(sigma1)]
    for previous in y[:-1]:
        sigma.append(math.sqrt(alpha0 + alpha1 * (previous - mu) ** 2 + beta1 * sigma[-1] ** 2))
    return norm.logpdf(y, mu, sigma).sum()


def stan_gauss_mix(theta, y):
    mu, sigma, share = theta[:2], theta[2:4], theta[4]
    prior = norm.logpdf(mu, 0, 2).sum() + norm.logpdf(sigma, 0, 2).sum() + beta.logpdf(share, 5, 5)
    first, second = (norm.pdf(y, mu[k], sigma[k]) for k in range(2))
    return prior + np.log(share * first + (1 - share) * second).sum()


def stan_blr(theta, y, X):
    coefficients, sigma = theta[:-1], theta[-1]
    prior = norm.logpdf(coefficients, 0, 10).sum() + norm.logpdf(sigma, 0, 10)
    return prior + norm.logpdf(y, X @ coefficients, sigma).sum()


def stan_log_earnings(theta, earn, height):
    return regression(np.log(earn), height, theta, lambda a, b, s: 0.0)


def stan_ark(theta, y, K):
    alpha, coefficients, sigma = theta[0], theta[1:-1], theta[-1]
    prior = norm.logpdf(alpha, 0, 10) + norm.logpdf(coefficients, 0, 10).sum() + cauchy.logpdf(sigma, 0, 2.5)
    for t in range(K, len(y)):
        mean = alpha + sum(coefficients[k] * y[t - k - 1] for k in range(K))
        prior += norm.logpdf(y[t], mean, sigma)
    return prior


def regression_latents(theta, names=("intercept", "slope", "sigma")):
    return dict(zip(names, theta, strict=True))


# by posterior: the density over Stan's quantities, and the latents of the Pyro model from them
CASES = {
    "eight_schools-eight_schools_noncentered": (
        stan_eight_schools,
        lambda t: {"mu": t[8], "tau": t[9], "z": (t[:8] - t[8]) / t[9]},
    ),
    "kidiq-kidscore_momiq": (stan_kidscore, regression_latents),
    "kilpisjarvi_mod-kilpisjarvi": (
        stan_kilpisjarvi,
        lambda t: regression_latents(t, ("alpha", "beta", "sigma")),
    ),
    "garch-garch11": (
        stan_garch,
        lambda t: {"mu": t[0], "alpha0": t[1], "simplex": np.append(t[2:4], 1 - t[2] - t[3])},
    ),
    "low_dim_gauss_mix-low_dim_gauss_mix": (
        stan_gauss_mix,
        lambda t: {"mu": t[:2], "sigma": t[2:4], "theta": t[4]},
    ),
    "sblri-blr": (stan_blr, lambda t: {"beta": t[:-1], "sigma": t[-1]}),
    "earnings-logearn_height": (stan_log_earnings, regression_latents),
    "arK-arK": (stan_ark, lambda t: {"alpha": t[0], "beta": t[1:-1], "sigma": t[-1]}),
}


def test_every_posterior_has_a_density_here():
    assert CASES.keys() == POSTERIORS.keys()


def disagreement(posterior, model):
    """Spread of log p(Pyro) - log p(by hand) over 20 reference draws, beside the spread of log p itself."""
    by_hand, latents_of = CASES[posterior.name]
    data = [posterior.facts[f"data/{field}"] for field in posterior.fields]
    ours, theirs = [], []
    for point in posterior.facts["points"]:
        latents = {name: torch.as_tensor(value) for name, value in latents_of(point).items()}
        conditioned = poutine.condition(model, data=latents)
        ours.append(poutine.trace(conditioned).get_trace(*posterior.batch).log_prob_sum().item())
        theirs.append(by_hand(point, *data))
        back = posterior.scalars({name: value.numpy()[None] for name, value in latents.items()})
        assert np.allclose(back[0], point, rtol=1e-12), "scalars() does not undo it"
    return np.ptp(np.subtract(ours, theirs)), np.ptp(theirs)


@pytest.mark.parametrize("name", POSTERIORS)
def test_the_density_is_that_of_the_original(name):
    """log p of the Pyro model minus log p by hand is one constant over reference draws, to 1e-8 nats."""
    posterior = POSTERIORS[name]
    spread, scale = disagreement(posterior, posterior.model)
    assert scale > 1, "points of equal density prove nothing"
    assert spread < 1e-8


def with_factor(posterior, term):
    """The model with a term more, a function of Stan's first quantity."""

    def mutant(*batch):
        with poutine.trace() as traced:
            posterior.model(*batch)
        latents = {
            name: traced.trace.nodes[name]["value"].numpy()[None] for name in traced.trace if name in sites
        }
        pyro.factor("more", torch.as_tensor(term(posterior.scalars(latents)[0, 0])))

    sites = CASES[posterior.name][1](posterior.facts["points"][0]).keys()
    return mutant


MUTANTS = {
    "a unit normal prior too many": lambda value, mean, sd: -0.5 * ((value - mean) / sd) ** 2,
    "a Jacobian too many": lambda value, mean, sd: np.log(np.abs(value)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@pytest.mark.parametrize("name", POSTERIORS)
def test_a_mutant_is_caught(name, mutant):
    posterior = POSTERIORS[name]
    mean, sd = posterior.facts["mean"][0], posterior.facts["sd"][0]
    spread, _ = disagreement(
        posterior, with_factor(posterior, lambda value: MUTANTS[mutant](value, mean, sd))
    )
    assert spread > 1e-4


def test_the_recurrence_is_the_loop():
    """v_t = u_t + b v_(t-1), to 1e-12, for lengths around a power of two and a leading dimension of b."""
    b = torch.rand(3, 1)
    for length in (1, 2, 7, 8, 9, 200):
        u = torch.randn(3, length)
        v = [u[:, 0]]
        for t in range(1, length):
            v.append(u[:, t] + b[:, 0] * v[-1])
        assert (linear_recurrence(b, u) - torch.stack(v, -1)).abs().max() < 1e-12


def test_the_facts_are_small_and_true_to_their_draws():
    """facts.npz is under 100 kB; the function that made it takes mean, sd and the rest of planted draws."""
    assert FACTS.stat().st_size < 100_000
    draws = np.random.default_rng(0).normal(size=(10, 1000, 2)) * [1.0, 3.0] + [0.0, 5.0]
    facts = facts_of(draws, np.array(["a", "b"]))
    assert np.abs((facts["mean"] - [0, 5]) / [1, 3]).max() < 0.05
    assert np.abs(facts["sd"] / [1, 3] - 1).max() < 0.05
    assert np.abs(facts["quantiles"][:, 1] - (5 + 3 * norm.ppf([0.05, 0.5, 0.95]))).max() < 0.25
    assert abs(facts["correlation"][0, 1]) < 0.05
    assert facts["points"].shape == (20, 2)
