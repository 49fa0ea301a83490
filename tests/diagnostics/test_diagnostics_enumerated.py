"""Every tool on models with discrete latents that the guide leaves to enumeration."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_dgm as dgm
from pyro_dgm.diagnostics import (
    calibration,
    collapse,
    examine,
    importance,
    inference_gap,
    latent_traversals,
    to_inferencedata,
)
from pyro_dgm.evaluation import log_likelihood

SHARE, SHIFT = 0.3, 3.0
X = torch.randn(40, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2


def model(x):
    """Two classes of linear-Gaussian data: given k, z | x is normal with variance 1/3."""
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(x.new_tensor(SHARE)), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        pyro.sample(
            "x", dist.Normal((z + SHIFT * k).unsqueeze(-1).expand(*(z + k).shape, 2), 1.0).to_event(1), obs=x
        )


def exact(x):
    """p(z | x), a mixture of two normals; k is left to enumeration."""
    with pyro.plate("data", len(x)):
        means = torch.stack([x.sum(-1), (x - SHIFT).sum(-1)], -1) / 3
        parts = dist.Normal(means, 3**-0.5)
        pyro.sample("z", dist.MixtureSameFamily(dist.Categorical(logits=log_parts(x).T), parts))


def wide(x):
    """One normal for both classes."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x - SHIFT * SHARE).sum(-1) / 3, 1.0))


def log_parts(x):
    """log p(x, k), (2, data): x is normal with covariance 1 + I."""
    covariance = torch.eye(2, dtype=x.dtype) + 1
    parts = [
        dist.MultivariateNormal(x.new_full((2,), shift), covariance).log_prob(x) for shift in (0.0, SHIFT)
    ]
    return torch.stack([parts[0] + math.log(1 - SHARE), parts[1] + math.log(SHARE)])


LOG_P = log_parts(X).logsumexp(0).numpy()


@pytest.fixture(autouse=True)
def seeded():
    pyro.set_rng_seed(0)


def test_weights_of_the_exact_posterior_are_log_p():
    found = importance(model, exact, X, num_samples=100)
    np.testing.assert_allclose(found.log_p, LOG_P, atol=1e-10)
    assert found.usable_as_is.all()


def test_log_likelihood_of_a_wide_guide():
    found = log_likelihood(model, wide, X, num_particles=20_000)
    assert (found.per_datum - torch.tensor(LOG_P)).abs().max() < 0.1


def test_the_gap_of_a_family_is_what_the_mixture_lacks():
    """With the exact posterior there is none; one normal lacks some, and log p(x) is right all the same."""
    none = inference_gap(model, exact, X, num_particles=200, steps=20)
    np.testing.assert_allclose(none.total, 0, atol=1e-9)
    some = inference_gap(model, wide, X, num_particles=4000, steps=300)
    assert (some.total > 0).all() and some.amortisation.mean() > 0.1
    error = np.hypot(some.log_p_standard_error, 1e-3)
    assert (np.abs(some.log_p - LOG_P) < 4.9 * error).all()


def test_draws_of_the_discrete_latent_are_in_the_posterior():
    idata = to_inferencedata(model, exact, X, num_samples=4000)
    assert idata.posterior["k"].dims == ("chain", "draw", "data")
    share = torch.softmax(log_parts(X), 0)[1].numpy()
    error = np.sqrt(share * (1 - share) / 4000)
    assert (np.abs(idata.posterior["k"].values[0].mean(0) - share) < 4.9 * error + 1e-9).all()
    np.testing.assert_allclose(idata.sample_stats["log_p"], LOG_P, atol=1e-10)
    assert idata.posterior_predictive["x"].shape == (1, 4000, 40, 2)
    # KL(q(k | z, x) || p(k)) is averaged over z, and at least that of the average.
    average = share * np.log(share / SHARE) + (1 - share) * np.log((1 - share) / (1 - SHARE))
    assert (idata.sample_stats["kl_k"].values >= average - 1e-2).all()


def test_calibration_takes_the_conditional_for_exact_and_sees_a_narrow_guide():
    fine = calibration(model, exact, X, num_replications=1000)
    assert set(fine.units) == {"k", "z"} and fine.p_value > 1e-6

    def narrow(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - SHIFT * SHARE).sum(-1) / 3, 0.4))

    assert (
        calibration(model, narrow, X, num_replications=1000).directions[fine.units.index("z")] == "too narrow"
    )


def test_collapse_names_both_sites():
    found = collapse(model, wide, X)
    assert set(found.sites) == {"k", "z"} and found.sites["k"].kl > 0.1


def test_a_guide_without_any_latent_of_its_own():
    def mixture(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(x.new_tensor([0.2, 0.8])), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(4.0 * k, 1.0), obs=x)

    x = X[:, 0]
    log_p = torch.logaddexp(
        dist.Normal(0.0, 1.0).log_prob(x) + math.log(0.2), dist.Normal(4.0, 1.0).log_prob(x) + math.log(0.8)
    ).numpy()
    nothing = dgm.Pair(mixture, lambda x: None)
    pair = nothing.model, nothing.guide
    gap = inference_gap(*pair, x, num_particles=20, steps=5)
    np.testing.assert_allclose(gap.log_p, log_p, atol=1e-10)
    np.testing.assert_allclose(gap.total, 0, atol=1e-10)
    np.testing.assert_allclose(log_likelihood(*pair, x).per_datum, log_p, atol=1e-10)
    found = examine(*pair, x, num_samples=100, num_replications=200, num_nuts=0)
    assert not found.left_out, found.left_out
    assert found.importance.usable_as_is.all() and found.calibration.p_value > 1e-6


def test_an_examination_leaves_out_nothing():
    found = examine(model, wide, X, num_samples=200, num_replications=200, num_nuts=0)
    assert not found.left_out, found.left_out


def test_traversals_move_the_continuous_latent_alone():
    found = latent_traversals(model, wide, X, num_steps=3)
    assert found.units == ("z[0]",)
