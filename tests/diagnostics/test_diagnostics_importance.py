"""Importance of a guide's draws: k-hat, log p(x) and the two flags, against closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.diagnostics.draw_table import Variable
from pyro_dgm.diagnostics.importance_weights import importance, of_draws
from pyro_dgm.diagnostics.psis import smooth
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA, VAE


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back
    pyro.set_rng_seed(0)


def pair(loc, scale):
    """Posterior N(0, 1) of each of three data, and a guide that is N(loc, scale)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0 * z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale))

    return model, guide, torch.zeros(3)


@pytest.mark.parametrize("scale", [0.3, 0.5, 0.8, 0.95])
def test_k_hat_of_too_narrow_a_guide(scale):
    """1 - s^2 within 0.1 at 100,000 draws: a fit's standard error is (1 + k) / sqrt(949) < 0.07, that of the mean of
    three 0.04."""
    found = importance(*pair(0.0, scale), num_samples=100_000)
    assert abs(found.k_hat.mean() - (1 - scale**2)) < 0.1


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 1.0), (0.0, 0.95), (0.1, 1.05)])
def test_a_good_guide_is_usable_as_is(loc, scale):
    found = importance(*pair(loc, scale), num_samples=4000)
    assert found.reweighted_reliable.all() and found.usable_as_is.all()


def test_half_a_deviation_off_is_repaired_by_weights_and_not_usable_as_is():
    found = importance(*pair(0.5, 1.0), num_samples=4000)
    assert found.reweighted_reliable.all() and not found.usable_as_is.any()
    assert np.abs(found.shift - 0.5).max() < 0.1


def test_too_narrow_is_neither():
    """k = 0.91, 3.4 standard errors above the threshold."""
    found = importance(*pair(0.0, 0.3), num_samples=100_000)
    assert not found.reweighted_reliable.any() and not found.usable_as_is.any()


def test_log_p_and_its_standard_error():
    """Closed form within 4.9 standard errors (false alarm 1e-6 each) on 300 data, errors of the stated size; the ELBO
    below by the closed-form divergence."""
    torch.manual_seed(1)
    ppca = PPCA(4, 2)
    x = ppca.model(n=300).detach()

    def guide(x):
        with pyro.plate("data", len(x)):
            exact = ppca.exact_posterior(x)
            wider = dist.MultivariateNormal(exact.mean + 0.2, scale_tril=1.2 * exact.scale_tril)
            pyro.sample("z", wider)

    found = importance(ppca.model, guide, x, num_samples=1000, rows=70)
    error = (found.log_p - ppca.log_prob(x).detach().numpy()) / found.log_p_standard_error
    assert np.abs(error).max() < 4.9
    assert 0.8 < error.std() < 1.2
    exact = ppca.exact_posterior(x)
    wider = dist.MultivariateNormal(exact.mean + 0.2, scale_tril=1.2 * exact.scale_tril)
    gap = torch.distributions.kl_divergence(wider, exact).detach().numpy()
    assert (found.log_p - found.elbo).mean() == pytest.approx(gap.mean(), abs=0.02)


def test_pieces_are_of_the_data_they_are_of():
    ppca = PPCA(4, 2)
    x = ppca.model(n=7).detach()
    found = importance(ppca.model, ppca.guide, x, num_samples=30, rows=3)
    np.testing.assert_allclose(found.log_p, ppca.log_prob(x).detach(), atol=1e-10)
    assert found.k_hat.shape == found.shift.shape == (7,)


def test_a_global_latent_has_one_weight_of_all_the_data():
    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x):
        pyro.sample("w", dist.Normal(x.sum() / (len(x) + 1), (len(x) + 1) ** -0.5))

    x = torch.randn(250)  # more than one piece, if there were pieces
    found = importance(model, guide, x, num_samples=50)
    covariance = torch.eye(250) + torch.ones(250, 250)
    exact = dist.MultivariateNormal(torch.zeros(250), covariance).log_prob(x)
    assert found.k_hat.shape == () and float(found.log_p) == pytest.approx(float(exact), rel=1e-10)
    assert bool(found.usable_as_is)


def test_the_worst_latent_decides():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 2, 3))
    log_weight = 0.4 * z[..., 2]  # moves the third unit's mean by 0.4
    found = of_draws(Variable(log_weight, ("data",)), {"z": Variable(z, ("data", "z_dim_0"))})
    assert np.abs(found.shift - 0.4).max() < 0.1


def test_a_latent_without_spread_is_nowhere_else():
    log_weight = Variable(np.random.default_rng(0).standard_normal((100, 2)), ("data",))
    found = of_draws(log_weight, {"k": Variable(np.ones((100, 2), dtype=int), ("data",))})
    assert (found.shift == 0).all()


def test_few_draws_are_not_reliable():
    found = importance(*pair(0.0, 1.01), num_samples=10)
    assert np.isnan(found.k_hat).all() and not found.reweighted_reliable.any()


def test_smoothed_weights_are_the_plain_ones_where_no_tail_can_be_fitted():
    log_weights = np.random.default_rng(0).standard_normal((10, 3))
    found = smooth(log_weights)
    plain = np.exp(log_weights)
    np.testing.assert_allclose(np.exp(found.log_weights), plain / plain.sum(0))
    np.testing.assert_allclose(found.log_mean, np.log(plain.mean(0)))


def test_smoothing_takes_the_edge_off_the_largest_weight():
    """Weights with infinite variance (k = 0.7): the smoothed mean has half of the spread of the raw one or less, over
    400 repetitions, and stays within a tenth of the truth."""
    log_weights = 0.7 * np.random.default_rng(0).exponential(size=(1000, 400))
    raw, smoothed = np.exp(log_weights).mean(0), np.exp(smooth(log_weights).log_mean)
    truth = 1 / (1 - 0.7)
    assert smoothed.std() < 0.6 * raw.std()
    assert abs(smoothed.mean() / truth - 1) < 0.1


def test_memory_does_not_grow_with_the_data(monkeypatch):
    seen = []
    original = importance.__globals__["take_draws"]

    def watched(model, guide, batch, num_samples, **options):
        seen.append(len(batch[0]))
        return original(model, guide, batch, num_samples, **options)

    monkeypatch.setitem(importance.__globals__, "take_draws", watched)
    vae = VAE(data_shape=(1, 4, 4), latent_dim=2, hidden=(8,))
    found = importance(vae.model, vae.guide, torch.rand(25, 1, 4, 4).round(), num_samples=30, rows=10)
    assert seen == [10, 10, 5] and found.elbo.shape == (25,) and math.isfinite(found.log_p.sum())


@pytest.mark.parametrize("option", ["num_samples", "rows"])
def test_nothing_is_too_few(option):
    with pytest.raises(InvalidInput, match=f"too few in {option}: 0; expected an integer >= 1"):
        importance(*pair(0.0, 1.0), **{option: 0})


def test_a_latent_that_the_guide_lacks():
    model, _, x = pair(0.0, 1.0)
    with pytest.raises(InvalidInput, match="latent variable without a guide in site 'z'"):
        importance(model, lambda x: None, x)


def test_nan_in_the_data_is_refused_and_masked_nan_is_not():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).mask(~x.isnan()), obs=x.nan_to_num())

    def raw(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0, validate_args=False), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    x = torch.tensor([0.0, math.nan, 1.0])
    assert importance(model, guide, x, num_samples=30).log_p.shape == (3,)
    pyro.enable_validation(False)
    with pytest.raises(InvalidInput, match="NaN in the data in site 'x'.*mask"):
        importance(raw, guide, x, num_samples=30)
