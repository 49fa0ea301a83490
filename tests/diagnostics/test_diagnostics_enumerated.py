"""Every tool on models with discrete latents that the guide leaves to enumeration."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

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
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation import log_likelihood
from pyro_dgm.objectives import IWAE, complete_guide, log_weights

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


# ---- what enumeration meets in real programs


def labelled(x, y, seen):
    """Some labels are known."""
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(0.3), obs=y, obs_mask=seen)
        pyro.sample("x", dist.Normal(4 * k - 2, 1.0), obs=x)


def of_labels(x):
    return torch.stack(
        [
            dist.Normal(-2.0, 1.0).log_prob(x) + math.log(0.7),
            dist.Normal(2.0, 1.0).log_prob(x) + math.log(0.3),
        ]
    )


def mixture(x, size=None):
    with pyro.plate("data", len(x), subsample_size=size) as rows:
        k = pyro.sample(
            "k", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel", "num_samples": 7}
        )
        pyro.deterministic("is_one", k > 0)
        pyro.sample("x", dist.Normal(4 * k - 2, 1.0), obs=x[rows])


def test_one_datum_and_pieces_that_end_with_one():
    """Pyro packs away dimensions of one, and plates of that size with them."""
    x = X[:21, 0]
    expected = of_labels(x).logsumexp(0)
    torch.testing.assert_close(log_likelihood(mixture, lambda x: None, x, rows=20).per_datum, expected)
    np.testing.assert_allclose(importance(mixture, lambda x: None, x[:1]).log_p, expected[:1])
    assert not examine(
        mixture, lambda x: None, x[:1], num_samples=50, num_replications=50, num_nuts=0
    ).left_out


def test_some_labels_are_known():
    x, y, seen = (
        X[:5, 0],
        torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]),
        torch.tensor([True, False, True, False, False]),
    )
    parts = of_labels(x)
    expected = torch.where(seen, torch.where(y == 1, parts[1], parts[0]), parts.logsumexp(0))
    model = pyro.infer.config_enumerate(labelled)
    log_w = log_weights(
        model, complete_guide(model, lambda *batch: None, (x, y, seen)), x, y, seen, num_particles=20
    )
    torch.testing.assert_close(log_w, expected.expand(20, 5))


def test_a_model_that_subsamples_by_itself():
    """One choice of data for the conditional, the draw and the weight."""
    x = X[:7, 0]
    guide = complete_guide(mixture, lambda *batch: None, (x, 2))
    trace = poutine.trace(guide).get_trace(x, 2)
    rows = trace.nodes["data"]["value"]
    replayed = poutine.trace(poutine.replay(mixture, trace=trace)).get_trace(x, 2)
    log_w = replayed.nodes["k"]["fn"].log_prob(trace.nodes["k"]["value"]) + replayed.nodes["x"][
        "fn"
    ].log_prob(x[rows])
    log_w = log_w - trace.nodes["k"]["fn"].log_prob(trace.nodes["k"]["value"])
    torch.testing.assert_close(log_w, of_labels(x).logsumexp(0)[rows])


def test_data_that_are_not_given_say_nothing():
    """Pyro's Predictive calls guides without data; k is then that of its prior."""

    def model(x, n=3):
        with pyro.plate("data", n):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(4 * k - 2, 0.01 + 3 * k), obs=x)

    guide = complete_guide(model, lambda x: None, (torch.zeros(3),))
    found = pyro.infer.Predictive(model, guide=guide, num_samples=2000, parallel=True)(None)
    assert (found["k"].mean(0) - 0.3).abs().max() < 4.9 * (0.21 / 2000) ** 0.5


def test_values_that_the_data_rule_out():
    def inflated(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Poisson(2.0 * (1 - k)), obs=x)

    x = torch.tensor([0.0, 0.0, 3.0, 1.0])
    expected = (0.7 * dist.Poisson(2.0).log_prob(x).exp() + 0.3 * (x == 0)).log()
    np.testing.assert_allclose(importance(inflated, lambda x: None, x).log_p, expected, atol=1e-6)
    with pytest.raises(InvalidInput, match="a model that Pyro cannot enumerate in site 'k'") as caught:
        importance(inflated, lambda x: None, torch.tensor([0.5, 1.0]))
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("scaled", ["k", "x"])
def test_scales_do_not_count(scaled):
    def model(x):
        with pyro.plate("data", len(x)):
            with poutine.scale(scale=0.1 if scaled == "k" else 1.0):
                k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
            with poutine.scale(scale=0.1 if scaled == "x" else 1.0):
                pyro.sample("x", dist.Normal(4 * k - 2, 1.0), obs=x)

    x = X[:5, 0]
    torch.testing.assert_close(
        log_weights(model, complete_guide(model, lambda x: None, (x,)), x)[0], of_labels(x).logsumexp(0)
    )


def test_factors_and_an_importance_weighted_bound_for_training():
    def model(x):
        shift = pyro.param("shift", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
            pyro.factor("preference", -0.5 * k)
            pyro.sample("x", dist.Normal(4 * k - 2 + shift, 1.0), obs=x)

    x = X[:5, 0]
    shift = torch.tensor(0.5, requires_grad=True)
    expected = (of_labels(x - shift) + torch.tensor([[0.0], [-0.5]])).logsumexp(0).sum()
    (slope,) = torch.autograd.grad(expected, shift)
    loss = IWAE(3)(model, complete_guide(model, lambda x: None, (x,)), x)
    loss.backward()
    torch.testing.assert_close(loss, -expected)
    torch.testing.assert_close(pyro.param("shift").grad, -slope.to(pyro.param("shift")))


def one_mask(x, seen, *, around_all):
    with pyro.plate("data", len(x)):
        with poutine.mask(mask=seen):
            k = pyro.sample("k", dist.Bernoulli(x.new_tensor(0.3)), infer={"enumerate": "parallel"})
        with poutine.mask(mask=seen if around_all else torch.ones_like(seen)):
            pyro.sample("x", dist.Normal(4 * k - 2, 1.0), obs=x)


def test_masks_around_latent_and_data_and_around_the_latent_alone():
    x, seen = X[:4, 0], torch.tensor([True, False, True, False])
    ragged = partial(one_mask, around_all=True)
    log_w = log_weights(ragged, complete_guide(ragged, lambda *batch: None, (x, seen)), x, seen)[0]
    torch.testing.assert_close(log_w, torch.where(seen, of_labels(x).logsumexp(0), torch.zeros_like(x)))
    alone = partial(one_mask, around_all=False)
    with pytest.raises(InvalidInput, match="masked where the data depend on it in site 'k'"):
        log_weights(alone, complete_guide(alone, lambda *batch: None, (x, seen)), x, seen)


def test_a_guide_that_observes_the_data_is_refused():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(4 * k - 2 + mean, 1.0), obs=x)

    messenger = pyro.infer.autoguide.AutoNormalMessenger(poutine.block(model, hide=["k"]))
    with pytest.raises(InvalidInput, match="observes what the model observes in site 'x'.*AutoNormal"):
        importance(model, messenger, X[:4, 0])


def test_chains_of_a_latent_that_depends_on_a_discrete_one():
    """Pyro starts it with a copy for each value, and so samples another posterior."""

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(2.0 * k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = X[:3, 0].float()
    run = pyro.infer.MCMC(pyro.infer.NUTS(model), num_samples=10, warmup_steps=10, disable_progbar=True)
    run.run(x)
    with pytest.raises(
        InvalidInput, match="draws of another shape than the latent in site 'z'.*nuts_reference"
    ):
        to_inferencedata(model, run, x)
