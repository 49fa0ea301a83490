"""calibration on all kinds of pairs: its arrays belong together, and what has no calibration is refused by name."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_dgm.diagnostics.simulated_calibration import calibration
from pyro_dgm.diagnostics.uniformity import ecdf_difference, ecdf_envelope, normal_scores, score_test
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA, VAE

X = torch.zeros(50)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def global_model(x):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(theta, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def global_exact(x):
    """theta given x: precision 1 + n / 2; z given theta and x: precision 2."""
    precision = 1 + len(x) / 2
    theta = pyro.sample("theta", dist.Normal(x.sum() / 2 / precision, precision**-0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((theta + x) / 2, 0.5**0.5))


def test_arrays_belong_together():
    ppca = PPCA(4, 2)
    found = calibration(ppca.model, ppca.guide, torch.zeros(30, 4), num_replications=100, num_samples=49)
    assert found.units == ("z[0]", "z[1]") and found.num_samples == 49
    for array in (found.ranks, found.normal_scores, found.z_scores, found.contraction):
        assert array.shape == (100, 2)
    assert found.ranks.min() >= 0 and found.ranks.max() <= 49 and found.ranks.dtype == np.int64
    assert np.array_equal(found.normal_scores, normal_scores(found.ranks, 49))
    assert found.ecdf_differences.shape == (len(found.ecdf_points), 2)
    assert found.envelope[0].shape == found.ecdf_points.shape
    assert found.p_value == min(1.0, 2 * found.p_values.min())
    assert found.worst_unit == found.units[found.p_values.argmin()]
    assert "100 replications" in str(found)


def test_z_scores_and_contraction_are_those_of_the_exact_posterior():
    """Variance 1/2 of a prior variance 1: contraction 1/2; z-scores standard normal; 4.9 standard errors."""
    found = calibration(model, exact, X, num_replications=4000, num_samples=199)
    spread = found.contraction[:, 0].std() / math.sqrt(4000) + math.sqrt(2 / 4000) / 2
    assert abs(found.contraction.mean() - 0.5) < 4.9 * spread
    assert abs(found.z_scores.mean()) < 4.9 / math.sqrt(4000)
    # Draws estimate mean and deviation: a t distribution of 198 degrees of freedom, stretched by the mean's error.
    variance = (1 + 1 / 199) * 198 / 196
    assert abs(found.z_scores.var() / variance - 1) < 4.9 * math.sqrt(2.1 / 4000)


def test_a_data_set_is_a_replication_where_a_latent_is_global():
    found = calibration(global_model, global_exact, X[:4], num_replications=400, num_samples=49)
    assert found.units == ("theta", "z[0]", "z[1]", "z[2]", "z[3]")
    assert found.ranks.shape == (400, 5) and found.p_value > 1e-6


def test_a_wrong_global_latent_is_found():
    def narrow(x):
        precision = 1 + len(x) / 2
        theta = pyro.sample("theta", dist.Normal(x.sum() / 2 / precision, 0.6 * precision**-0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((theta + x) / 2, 0.5**0.5))

    found = calibration(global_model, narrow, X[:4], num_replications=400, num_samples=49)
    assert found.worst_unit == "theta" and found.directions[0] == "too narrow" and not found.calibrated
    assert "miscalibrated, worst theta: too narrow" in str(found)


@pytest.mark.parametrize("size", [1, 500, 10**9], ids=["draw by draw", "passes", "one pass"])
def test_passes_change_nothing(size, monkeypatch):
    monkeypatch.setattr("pyro_dgm.diagnostics.ranking._ELEMENTS_PER_PASS", size)
    found = calibration(model, exact, X, num_replications=200, num_samples=20)
    assert found.ranks.shape == (200, 1) and found.p_value > 1e-6


def test_conditioning_arguments_stay_and_reach_both():
    def conditional(x, label):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(label, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, label):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + label) / 2, 0.5**0.5))

    assert calibration(conditional, guide, X, 10.0 * torch.arange(50)).p_value > 1e-6


def test_pairs_that_take_no_particles_run_one_by_one():
    def guide(x):
        assert x.dim() == 1
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))
            assert z.dim() == 1, "no particles"

    with pytest.warns(UserWarning, match="does not take a dimension of particles"):
        found = calibration(model, guide, X, num_replications=50, num_samples=20)
    assert found.ranks.shape == (50, 1) and found.p_value > 1e-6


def test_what_was_given_is_left_alone_and_seeds_are_followed():
    encoder = nn.Sequential(nn.Flatten(-3), nn.BatchNorm1d(64), nn.Linear(64, 200), nn.ReLU())
    vae = VAE((1, 8, 8), 2, encoder=encoder)
    x = torch.rand(30, 1, 8, 8).round()
    buffers = {name: value.clone() for name, value in vae.named_buffers()}

    def run(seed):
        torch.manual_seed(seed)
        return calibration(vae.model, vae.guide, x, num_replications=60, num_samples=20)

    first, again, other = run(1), run(1), run(2)
    assert np.array_equal(first.ranks, again.ranks) and not np.array_equal(first.ranks, other.ranks)
    state = torch.get_rng_state()
    run_without_seed = calibration(vae.model, vae.guide, x, num_replications=60, num_samples=20)
    assert not torch.equal(torch.get_rng_state(), state), "random numbers are used up"
    assert not np.array_equal(run_without_seed.ranks, other.ranks)
    assert all(torch.equal(value, buffers[name]) for name, value in vae.named_buffers())
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_score_test_far_in_the_tails():
    """The mean of many ranks at one end has no place in the null distribution, and its sign says which end."""
    found = score_test(np.array([[0, 99, 50]] * 300), 99)
    assert found.mean[0] < -20 and found.mean[1] > 20 and (found.dispersion < -10).all()
    assert (found.p_values < 1e-30).all()


def test_envelope_holds_as_often_as_it_says():
    """Of 4,000 exact units, 95 % stay inside, within 4.9 standard errors and the steps of the binomial."""
    ranks = np.random.default_rng(0).integers(0, 100, size=(200, 4000))
    lower, upper = ecdf_envelope(200, 99, 0.95)
    _, difference = ecdf_difference(ranks, 99)
    inside = ((difference >= lower[:, None]) & (difference <= upper[:, None])).all(0).mean()
    assert abs(inside - 0.95) < 4.9 * math.sqrt(0.95 * 0.05 / 4000) + 0.003


def table_guide(x):
    loc = pyro.param("loc", torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0))


def half_amortised(x):
    pyro.sample("theta", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 1.0))


def nan_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample(
            "z", dist.Normal(x / 2, 1.0, validate_args=False) if not x.any() else dist.Delta(x / 0 * 0)
        )


@pytest.mark.parametrize(
    ("model", "guide", "options", "message"),
    [
        (model, AutoNormal(model), {}, "a guide that does not look at the data in site 'z'"),
        (model, table_guide, {}, "a guide that does not look at the data in site 'z'"),
        (global_model, half_amortised, {}, "a guide that does not look at the data in site 'theta'"),
        (global_model, exact, {}, "latent variable without a guide in site 'theta'"),
        (model, exact, {"num_samples": 9}, "too few in num_samples: 9; expected an integer >= 10"),
        (model, exact, {"num_replications": 0}, "too few in num_replications: 0; expected an integer >= 20"),
        (model, exact, {"confidence": 1.0}, "no probability in confidence: 1.0"),
        (model, nan_guide, {}, "NaN or infinite draws in site 'z'"),
    ],
)
def test_what_has_no_calibration_is_refused_by_name(model, guide, options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        calibration(model, guide, X, **options)
    assert "\n" not in str(caught.value)


def test_no_data_and_no_latents_are_refused():
    def observed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    with pytest.raises(InvalidInput, match="no data in batch"):
        calibration(model, exact, torch.zeros(0))
    with pytest.raises(InvalidInput, match="no latent variables in guide"):
        calibration(observed, lambda x: None, X)
