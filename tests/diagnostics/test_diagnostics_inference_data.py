"""to_inferencedata on all kinds of pairs: the draws, their weights and likelihoods belong together and are right."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from pyro_dgm.diagnostics import to_inferencedata
from pyro_dgm.distributions import Energy
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models import PPCA

X = torch.tensor([0.3, -1.2, 2.0, 0.7], dtype=torch.float64)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


@pytest.fixture(params=[1, 200, 10**9], ids=["draw by draw", "passes", "one pass"])
def passes(request, monkeypatch):
    """However the draws are cut into passes, the same must hold."""
    monkeypatch.setattr("pyro_dgm.diagnostics.draws._ELEMENTS_PER_PASS", request.param)


# ---- pairs


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * z)
        return pyro.sample("x", dist.Normal(0.8 * z, 1.0), obs=x)


def local_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.4 * x, 0.7))


def discrete_model(x):
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.4))
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        pyro.sample("x", dist.Normal(1.5 * y + k, 1.0), obs=x)


def discrete_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=0.3 * x))
        pyro.sample("k", dist.Categorical(torch.tensor([0.3, 0.3, 0.4])))


def nested_model(x):  # x (groups, data, 2)
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", x.shape[0], dim=-2):
        group = pyro.sample("group", dist.Normal(loc, 1.0))
        with pyro.plate("data", x.shape[1], dim=-1):
            z = pyro.sample("z", dist.Normal(group, 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1), 1.0).expand([*z.shape, 2]).to_event(1), obs=x)


def nested_guide(x):
    pyro.sample("loc", dist.Normal(0.1, 0.6))
    with pyro.plate("groups", x.shape[0], dim=-2):
        pyro.sample("group", dist.Normal(0.2, 0.7))
        with pyro.plate("data", x.shape[1], dim=-1):
            pyro.sample("z", dist.Normal(x.mean(-1), 0.8))


def regression_model(x):
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(weight[..., 0] + weight[..., 1] * torch.arange(4.0), scale), obs=x)


def log_normal(value, loc, scale):
    return -0.5 * ((value - loc) / scale) ** 2 - np.log(scale) - 0.5 * math.log(2 * math.pi)


def hand_made_weight(idata):
    """log p(x, z) - log q(z | x) of the stored draws of the local pair."""
    z, x = idata.posterior["z"], idata.observed_data["x"]
    return log_normal(z, 0.0, 1.0) + log_normal(x, 0.8 * z, 1.0) - log_normal(z, 0.4 * x, 0.7)


# ---- weights


@pytest.mark.usefixtures("passes")
def test_weights_are_those_of_the_stored_draws():
    """Each weight from its own draw, to 1e-12: with another draw's it would be off by tenths of a nat."""
    idata = to_inferencedata(local_model, local_guide, X, num_samples=60)
    log_weight = idata.sample_stats["log_weight"]
    assert log_weight.dims == ("chain", "draw", "data")
    assert log_weight.shape == (1, 60, 4)
    assert log_weight.std() > 0.1
    np.testing.assert_allclose(log_weight, hand_made_weight(idata), atol=1e-12)
    assert len(np.unique(idata.posterior["z"])) == 240  # no pass repeats another


def test_exact_posterior_makes_every_weight_log_p():
    """log_weight = log p(x) to 1e-10; mean and variance of 4000 draws within 6 standard errors (15 numbers: 3e-8)."""
    torch.manual_seed(1)
    ppca, x, number = PPCA(5, 2), torch.randn(3, 5), 4000
    idata = to_inferencedata(ppca.model, ppca.guide, x, num_samples=number)
    exact = ppca.exact_posterior(x)
    log_p = ppca.log_prob(x).detach().numpy()
    np.testing.assert_allclose(idata.sample_stats["log_weight"][0], np.tile(log_p, (number, 1)), atol=1e-10)
    assert (idata.sample_stats["k_hat"] == -math.inf).all()
    np.testing.assert_allclose(idata.sample_stats["ess"], number)
    z, variance = idata.posterior["z"][0].values, exact.covariance_matrix.detach().numpy()
    diagonal = variance.diagonal(axis1=-2, axis2=-1)
    error = (z.mean(0) - exact.mean.detach().numpy()) / np.sqrt(diagonal / number)
    assert np.abs(error).max() < 6
    for datum in range(3):
        error = np.cov(z[:, datum].T) - variance[datum]
        one = np.sqrt((np.outer(diagonal[datum], diagonal[datum]) + variance[datum] ** 2) / number)
        assert (np.abs(error) < 6 * one).all()


def test_log_likelihood_is_the_density_of_the_stored_draws():
    """Bit by bit, in double precision."""
    idata = to_inferencedata(local_model, local_guide, X, num_samples=60)
    z = torch.from_numpy(idata.posterior["z"].values)
    expected = dist.Normal(0.8 * z, 1.0).log_prob(X).numpy()
    assert np.array_equal(idata.sample_stats["log_likelihood_x"], expected)
    assert idata.sample_stats["log_likelihood_x"].dims == ("chain", "draw", "data")


@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_k_hat_is_one_minus_the_squared_scale_of_too_narrow_a_guide(scale):
    """p(z | x) = N(0, 1), q = N(0, s^2): mean of 20 k-hats within 0.1 of 1 - s^2.

    Its standard error is (2 - s^2) / sqrt(20 * 671) < 0.016 and its bias about -0.03: 4.5 deviations, 1e-5.
    """

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, scale))

    idata = to_inferencedata(model, guide, torch.zeros(20), num_samples=50_000)
    assert idata.sample_stats["k_hat"].dims == ("data",)
    assert abs(idata.sample_stats["k_hat"].mean().item() - (1 - scale**2)) < 0.1


def test_effective_sample_size_is_that_of_the_weights():
    idata = to_inferencedata(local_model, local_guide, X, num_samples=60)
    weights = np.exp(hand_made_weight(idata).values[0])
    np.testing.assert_allclose(idata.sample_stats["ess"], weights.sum(0) ** 2 / (weights**2).sum(0))


# ---- predictions


def test_predictions_belong_to_the_stored_draws():
    """x' - 0.8 z is standard normal, over 40,000 numbers: mean within 6 / 200, variance within 6 * 1.41 / 200.

    With another run's draws the variance would be 1.31 or more, with the data themselves 0.
    """
    idata = to_inferencedata(local_model, local_guide, X, num_samples=10_000)
    noise = (idata.posterior_predictive["x"] - 0.8 * idata.posterior["z"]).values
    assert abs(noise.mean()) < 6 / 200
    assert abs(noise.var() - 1) < 6 * math.sqrt(2) / 200
    np.testing.assert_array_equal(idata.observed_data["x"], X)


def test_an_observed_site_that_follows_another_is_drawn_after_it():
    """b = a + tiny noise: the drawn b follows the drawn a, not the observed one."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            a = pyro.sample("a", dist.Normal(z, 1.0), obs=x)
            pyro.sample("b", dist.Normal(a, 1e-6), obs=x)

    idata = to_inferencedata(model, local_guide, X, num_samples=30)
    drawn = idata.posterior_predictive
    assert np.abs(drawn["a"] - drawn["b"]).max() < 1e-4
    assert np.abs(drawn["a"] - X.numpy()).min() > 1e-6


def test_a_model_that_cannot_be_sampled_has_all_but_predictions():
    class Silent(dist.Normal):
        def expand(self, batch_shape, _instance=None):
            return super().expand(batch_shape, Silent.__new__(Silent))

        def sample(self, sample_shape=()):
            raise NotImplementedError("only a density")

        rsample = sample

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", Silent(0.8 * z, 1.0), obs=x)

    with pytest.warns(UserWarning, match="no predictions.*only a density") as caught:
        idata = to_inferencedata(model, local_guide, X)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert idata.groups() == ["posterior", "sample_stats", "prior", "observed_data"]


# ---- kinds of pairs


def test_discrete_latents():
    """Weights from the stored draws; frequencies of 20,000 draws within 6 standard errors of q."""
    idata = to_inferencedata(discrete_model, discrete_guide, X, num_samples=20_000)
    y, k, x = idata.posterior["y"], idata.posterior["k"].astype(int), idata.observed_data["x"]
    assert k.dtype.kind == "i" and set(np.unique(y)) == {0, 1}
    prior, guide = np.log([0.2, 0.5, 0.3]), np.log([0.3, 0.3, 0.4])
    q = 1 / (1 + np.exp(-0.3 * x))
    expected = log_normal(x, 1.5 * y + k, 1.0) + np.log(0.4 * y + 0.6 * (1 - y))
    expected = expected - np.log(y * q + (1 - y) * (1 - q))
    expected = expected.transpose(*k.dims) + (prior - guide)[k.values]
    np.testing.assert_allclose(idata.sample_stats["log_weight"], expected, atol=1e-12)
    assert (np.abs(y.mean(("chain", "draw")) - q) < 6 * np.sqrt(q * (1 - q) / 20_000)).all()


@pytest.mark.usefixtures("passes")
def test_nested_plates_name_the_dimensions():
    x = torch.randn(3, 4, 2)
    idata = to_inferencedata(nested_model, nested_guide, x, num_samples=30)
    dims = {name: variable.dims[2:] for name, variable in idata.posterior.data_vars.items()}
    assert dims == {"loc": (), "group": ("groups",), "z": ("groups", "data")} or dims["group"] == ("groups",)
    assert idata.posterior_predictive["x"].dims == ("chain", "draw", "groups", "data", "x_dim_0")
    assert idata.posterior_predictive["x"].shape == (1, 30, 3, 4, 2)
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "groups", "data")
    assert idata.observed_data["x"].dims == ("groups", "data", "x_dim_0")
    np.testing.assert_array_equal(idata.observed_data["x"], x)
    # loc is global, so there is one weight of the whole data set
    draws, data = idata.posterior.isel(chain=0), idata.observed_data["x"]
    p = log_normal(draws["loc"], 0.0, 1.0) + log_normal(draws["group"], draws["loc"], 1.0).sum("groups")
    p = p + log_normal(draws["z"], draws["group"], 1.0).sum(("groups", "data"))
    p = p + log_normal(data, draws["z"], 1.0).sum(("groups", "data", "x_dim_0"))
    q = log_normal(draws["loc"], 0.1, 0.6) + log_normal(draws["group"], 0.2, 0.7).sum("groups")
    q = q + log_normal(draws["z"], data.mean("x_dim_0"), 0.8).sum(("groups", "data"))
    assert idata.sample_stats["log_weight"].dims == ("chain", "draw")
    np.testing.assert_allclose(idata.sample_stats["log_weight"][0], p - q, atol=1e-10)


@pytest.mark.parametrize("make", [AutoNormal, AutoMultivariateNormal])
def test_global_latents_of_an_autoguide(make):
    """One weight of the whole data set, with the density of what the guide draws in its own coordinates."""
    guide = make(regression_model, init_scale=0.4)
    idata = to_inferencedata(regression_model, guide, X, num_samples=40)
    assert set(idata.posterior.data_vars) == {"weight", "scale"}  # no auxiliary site
    assert idata.posterior["weight"].dims == ("chain", "draw", "weight_dim_0")
    assert (idata.posterior["scale"] > 0).all()
    assert idata.sample_stats["log_weight"].dims == ("chain", "draw")
    assert idata.sample_stats["k_hat"].shape == idata.sample_stats["ess"].shape == ()
    weight, scale = idata.posterior["weight"].values[0], idata.posterior["scale"].values[0]
    mean = weight[:, :1] + weight[:, 1:] * np.arange(4)
    p = log_normal(weight, 0.0, 1.0).sum(-1) + log_normal(np.log(scale), 0.0, 0.5) - np.log(scale)
    p += log_normal(X.numpy(), mean, scale[:, None]).sum(-1)
    medians = guide.median()
    centre = [*medians["weight"].tolist(), math.log(medians["scale"])]
    free = np.column_stack([weight, np.log(scale)])
    q = log_normal(free, np.array(centre), 0.4).sum(-1) - np.log(scale)
    np.testing.assert_allclose(idata.sample_stats["log_weight"][0], p - q, atol=1e-6)
    stored = idata.log_likelihood["x"]
    np.testing.assert_allclose(stored[0], log_normal(X.numpy(), mean, scale[:, None]), atol=1e-12)


def test_a_local_autoguide_has_weights_per_datum():
    idata = to_inferencedata(local_model, AutoNormal(local_model), X, num_samples=30)
    assert idata.sample_stats["log_weight"].dims == ("chain", "draw", "data")
    assert idata.sample_stats["k_hat"].dims == ("data",)


@pytest.mark.usefixtures("passes")
def test_a_single_datum_without_plates():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.8 * z, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(0.4 * x, 0.7))

    idata = to_inferencedata(model, guide, torch.tensor(0.3), num_samples=30)
    assert idata.observed_data["x"].shape == idata.sample_stats["k_hat"].shape == ()
    assert idata.posterior["z"].dims == idata.posterior_predictive["x"].dims == ("chain", "draw")
    np.testing.assert_allclose(idata.sample_stats["log_weight"], hand_made_weight(idata), atol=1e-12)


@pytest.mark.filterwarnings("ignore:this model or guide does not take a dimension of particles")
@pytest.mark.usefixtures("passes")
def test_a_pair_that_is_not_vectorised_is_looped():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            assert z.shape == x.shape, "one draw at a time"
            pyro.sample("x", dist.Normal(0.8 * z, 1.0), obs=x)

    idata = to_inferencedata(model, local_guide, X, num_samples=60)
    np.testing.assert_allclose(idata.sample_stats["log_weight"], hand_made_weight(idata), atol=1e-12)
    assert idata.posterior_predictive["x"].shape == (1, 60, 4)
    assert len(np.unique(idata.posterior["z"])) == 240


def test_without_latents_there_is_no_posterior():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.5, 1.0), obs=x)

    idata = to_inferencedata(model, lambda x: None, X, num_samples=50)
    assert idata.groups() == ["posterior_predictive", "log_likelihood", "sample_stats", "observed_data"]
    expected = np.tile(dist.Normal(0.5, 1.0).log_prob(X).numpy(), (50, 1))
    np.testing.assert_allclose(idata.sample_stats["log_weight"][0], expected, atol=1e-12)
    assert (idata.sample_stats["k_hat"] == -math.inf).all()
    assert len(np.unique(idata.posterior_predictive["x"])) == 200


def test_masks_count_and_scales_do_not():
    mask = torch.tensor([True, False, True, True])
    model, guide = (poutine.scale(poutine.mask(f, mask=mask), 3.0) for f in (local_model, local_guide))
    idata = to_inferencedata(model, guide, X, num_samples=30)
    expected = hand_made_weight(idata).transpose("chain", "draw", "data") * mask.numpy()
    np.testing.assert_allclose(idata.sample_stats["log_weight"], expected, atol=1e-12)
    z, x = idata.posterior["z"], idata.observed_data["x"]
    np.testing.assert_allclose(
        idata.sample_stats["log_likelihood_x"], log_normal(z * 0.8, x, 1.0) * mask.numpy(), atol=1e-12
    )


def test_a_value_that_no_particle_changes_is_there_in_each_draw():
    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Delta(torch.tensor(1.5)))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.factor("prefer", -(z**2))
            pyro.sample("x", dist.Normal(z, c), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Delta(torch.tensor(1.5)))
            pyro.sample("z", dist.Normal(0.0, 1.0))

    idata = to_inferencedata(model, guide, X, num_samples=30)
    assert idata.posterior["c"].shape == (1, 30, 4)
    assert (idata.posterior["c"] == 1.5).all()
    np.testing.assert_array_equal(idata.sample_stats["log_likelihood_prefer"], -(idata.posterior["z"] ** 2))
    assert set(idata.observed_data) == set(idata.posterior_predictive) == {"x"}  # a factor has no value


def test_a_plate_named_draw_is_not_taken_for_the_draws():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("draw", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    idata = to_inferencedata(model, lambda x: pyro.sample("z", dist.Normal(0.0, 2.0)), X, num_samples=30)
    assert idata.log_likelihood["x"].dims == ("chain", "draw", "draw_plate")


def test_half_precision_becomes_single():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.bfloat16), 1.0))
            pyro.sample("x", dist.Normal(z.float(), 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros((), dtype=torch.bfloat16), 1.0))

    idata = to_inferencedata(model, guide, X.float(), num_samples=30)
    assert idata.posterior["z"].dtype == np.float32


# ---- the state of the caller, and what is refused


def test_random_numbers_are_the_callers():
    first, again = (to_inferencedata(local_model, local_guide, X) for _ in range(2))
    assert not np.intersect1d(first.posterior["z"], again.posterior["z"]).size
    pyro.set_rng_seed(0)
    same = to_inferencedata(local_model, local_guide, X)
    assert same.posterior.identical(first.posterior)
    assert same.posterior_predictive.identical(first.posterior_predictive)


def test_no_graph_is_kept_and_the_attributes_say_what_it_is():
    weight = torch.tensor(0.8, requires_grad=True)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            assert not (weight * z).requires_grad
            pyro.sample("x", dist.Normal(weight * z, 1.0), obs=x)

    attrs = to_inferencedata(model, local_guide, X).attrs
    assert attrs["inference_library"] == "pyro"
    assert attrs["inference_library_version"] == pyro.__version__
    assert attrs["num_samples"] == 200
    assert "creation_library_version" in attrs


def implicit(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def unnormalised(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", Energy(lambda value: value.sum(-1), (1,)), obs=x.unsqueeze(-1))


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as index:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])


def subsampled_guide(x):
    with pyro.plate("data", len(x), subsample_size=2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def misnamed(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("draw", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def misnamed_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("draw", dist.Normal(0.0, 1.0))


REFUSED = {
    "no draws": (InvalidInput, "no draws in num_samples: 0", (local_model, local_guide, X), 0),
    "no data": (InvalidInput, "no data in batch", (local_model, local_guide, X[:0]), 30),
    "implicit": (IncompatibleModel, "the model observes nothing", (implicit, local_guide, X), 30),
    "unnormalised": (IncompatibleModel, "no normalised density", (unnormalised, local_guide, X), 30),
    "no guide for z": (InvalidInput, "latent variable without a guide", (local_model, lambda x: None, X), 30),
    "random subsample, several draws": (
        InvalidInput,
        "an observed value that changes from run to run in site 'x'",
        (subsampled, subsampled_guide, torch.arange(50.0)),
        30,
    ),
    "random subsample": (
        InvalidInput,
        "an observed value that changes from run to run in site 'x'",
        (subsampled, subsampled_guide, torch.arange(50.0)),
        1,
    ),
    "a site named draw": (
        InvalidInput,
        "the name of a dimension in site 'draw'",
        (misnamed, misnamed_guide, X),
        30,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    error, message, arguments, num_samples = REFUSED[name]
    with pytest.raises(error, match=message):
        to_inferencedata(*arguments, num_samples=num_samples)


def test_a_point_estimate_is_refused():
    with pytest.raises(InvalidInput, match="a point estimate"):
        to_inferencedata(local_model, AutoDelta(local_model), X)


def test_a_site_that_comes_and_goes_is_refused():
    runs = iter(range(1000))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            if next(runs) > 4:
                pyro.sample("more", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InvalidInput, match="a site that is not there in every draw in site 'more'"):
        to_inferencedata(model, local_guide, X)


def test_arviz_is_imported_when_it_is_needed():
    code = "import sys, pyro_dgm.diagnostics; sys.exit(bool({'arviz', 'xarray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# ---- prior, constants, chains


def labelled_model(x, y, slope):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(slope * y, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def labelled_guide(x, y, slope):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((0.25 * slope * y + x) / 1.25, 0.2**0.5))  # exact


def test_constants_have_the_names_of_the_arguments():
    y = torch.tensor([0.0, 1.0, 0.0, 2.0])
    idata = to_inferencedata(labelled_model, labelled_guide, X, y, 0.5, num_samples=30)
    assert set(idata.constant_data) == {"y", "slope"}
    assert idata.constant_data["y"].dims == ("data",) and float(idata.constant_data["slope"]) == 0.5
    np.testing.assert_array_equal(idata.constant_data["y"], y)


def test_constants_of_global_latents_lie_in_the_plate_that_is_as_long():
    def model(x, covariate):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("patients", len(x)):
            pyro.sample("x", dist.Normal(slope * covariate, 1.0), obs=x)

    def guide(x, covariate):
        pyro.sample("slope", dist.Normal(0.0, 0.5))

    idata = to_inferencedata(model, guide, X, torch.arange(4.0), num_samples=30)
    assert idata.constant_data["covariate"].dims == ("patients",)


def test_a_model_of_all_its_arguments_has_no_constants():
    assert "constant_data" not in to_inferencedata(local_model, local_guide, X).groups()


def test_the_prior_is_that_of_the_model():
    """20,000 draws of N(y / 2, 1), and of x with variance 1.25: means and variances within 4.9 standard errors."""
    y = torch.tensor([0.0, 1.0, 0.0, 2.0])
    idata = to_inferencedata(labelled_model, labelled_guide, X, y, 0.5, num_samples=20_000)
    for values, variance in ((idata.prior["z"], 1.0), (idata.prior_predictive["x"], 1.25)):
        mean, spread = values.mean(("chain", "draw")), values.var(("chain", "draw"))
        assert (abs(mean - 0.5 * y.numpy()) < 4.9 * (variance / 20_000) ** 0.5).all()
        assert (abs(spread - variance) < 4.9 * variance * (2 / 20_000) ** 0.5).all()


def test_the_prior_leaves_the_draws_of_the_posterior_as_they_are():
    """It is drawn last: the same seed gives the posterior that it gives without one."""
    from pyro_dgm.diagnostics.draws import take_draws

    pyro.set_rng_seed(3)
    idata = to_inferencedata(local_model, local_guide, X, num_samples=10)
    pyro.set_rng_seed(3)
    draws = take_draws(local_model, local_guide, (X,), 10)
    np.testing.assert_array_equal(idata.posterior["z"][0], draws.groups["posterior"]["z"].values)


def test_what_the_weights_say_of_the_exact_posterior():
    y = torch.tensor([0.0, 1.0, 0.0, 2.0])
    idata = to_inferencedata(labelled_model, labelled_guide, X, y, 0.5, num_samples=200)
    stats = idata.sample_stats
    np.testing.assert_allclose(stats["log_p"], log_normal(X.numpy(), 0.5 * y.numpy(), 1.25**0.5), atol=1e-10)
    np.testing.assert_allclose(stats["elbo"], stats["log_p"], atol=1e-10)
    assert stats["reweighted_reliable"].all() and stats["usable_as_is"].all()
    assert stats["usable_as_is"].dtype == bool and stats["usable_as_is"].dims == ("data",)


def conjugate_model(x):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w.sum(-1), 1.0), obs=x)


@pytest.fixture(scope="module")
def chains():
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr("pyro.infer.mcmc.api.mp.cpu_count", lambda: 1)  # one chain after the other
        warnings.simplefilter("ignore")  # which Pyro says
        run = pyro.infer.MCMC(
            pyro.infer.NUTS(conjugate_model),
            num_samples=150,
            warmup_steps=100,
            num_chains=2,
            disable_progbar=True,
        )
        run.run(X)
    torch.set_default_dtype(dtype)  # a fixture of the module comes before that of tests/conftest.py
    return run


@pytest.fixture
def of_chains(chains):
    return to_inferencedata(conjugate_model, chains, X)


def test_groups_hold_the_draws_of_each_chain(chains, of_chains, passes):
    np.testing.assert_array_equal(of_chains.posterior["w"], chains.get_samples(group_by_chain=True)["w"])
    assert of_chains.posterior["w"].dims == ("chain", "draw", "w_dim_0")
    expected = log_normal(X.numpy(), of_chains.posterior["w"].values.sum(-1, keepdims=True), 1.0)
    np.testing.assert_allclose(of_chains.log_likelihood["x"], expected, atol=1e-12)
    assert of_chains.posterior_predictive["x"].dims == ("chain", "draw", "data")
    assert of_chains.posterior_predictive["x"].shape == (2, 150, 4)
    assert of_chains.sample_stats["diverging"].shape == (2, 150)


def test_divergences_are_where_pyro_counts_them(chains, monkeypatch):
    found = {"divergences": {"chain 0": [], "chain 1": [3, 149]}}
    monkeypatch.setattr(chains, "diagnostics", lambda: found)
    diverging = to_inferencedata(conjugate_model, chains, X).sample_stats["diverging"].values
    assert diverging.sum() == 2 and diverging[1, 3] and diverging[1, 149]


def test_their_verdict_is_that_of_chains(of_chains):
    from pyro_dgm.diagnostics import reliability

    found = reliability(of_chains)
    assert found.worst_r_hat is not None and found.divergences == 0 and found.num_k_hats == 0


def test_a_run_that_was_not_made():
    waiting = pyro.infer.MCMC(pyro.infer.NUTS(conjugate_model), num_samples=10)
    with pytest.raises(InvalidInput, match=r"no draws of chains in MCMC.*try mcmc\.run"):
        to_inferencedata(conjugate_model, waiting, X)


def test_chains_of_local_latents_have_no_leave_one_out():
    run = pyro.infer.MCMC(pyro.infer.NUTS(local_model), num_samples=20, warmup_steps=20, disable_progbar=True)
    run.run(X)
    idata = to_inferencedata(local_model, run, X)
    assert "log_likelihood" not in idata.groups() and "log_likelihood_x" in idata.sample_stats
    assert idata.posterior["z"].dims == ("chain", "draw", "data")


def test_the_divergence_of_each_site(passes):
    idata = to_inferencedata(labelled_model, labelled_guide, X, torch.ones(4), 0.5, num_samples=30)
    q = dist.Normal((0.125 + X) / 1.25, 0.2**0.5)
    exact = torch.distributions.kl_divergence(q, dist.Normal(0.5, 1.0))
    np.testing.assert_allclose(idata.sample_stats["kl_z"], exact, atol=1e-12)
    assert idata.sample_stats["kl_z"].dims == ("data",)


def test_divergences_without_a_closed_form_are_means_over_draws(passes):
    """log q - log p of the stored draws."""
    idata = to_inferencedata(
        conjugate_model,
        lambda x: pyro.sample("w", dist.StudentT(5.0, torch.zeros(2)).to_event(1)),
        X,
        num_samples=40,
    )
    w = torch.tensor(idata.posterior["w"].values[0])
    terms = dist.StudentT(5.0).log_prob(w) - dist.Normal(0.0, 1.0).log_prob(w)
    assert float(idata.sample_stats["kl_w"]) == pytest.approx(terms.sum(-1).mean().item(), rel=1e-12)


def test_reparameterised_latents():
    """``poutine.reparam`` leaves a Delta that observes itself where the latent was: it is no data."""
    from pyro.infer.reparam import LocScaleReparam

    def schools(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("schools", len(y)):
            theta = pyro.sample("theta", dist.Normal(mu, 2.0))
            pyro.sample("y", dist.Normal(theta, 10.0), obs=y)

    model = poutine.reparam(schools, config={"theta": LocScaleReparam(0.0)})
    guide = AutoNormal(model)
    guide(X)
    idata = to_inferencedata(model, guide, X, num_samples=50)
    assert set(idata.posterior) == {"mu", "theta_decentered"} and set(idata.observed_data) == {"y"}


def test_chains_that_summed_a_latent_out_get_it_from_its_conditional():
    def mixture(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z + 4 * k, 1.0), obs=x)

    run = pyro.infer.MCMC(pyro.infer.NUTS(mixture), num_samples=300, warmup_steps=50, disable_progbar=True)
    run.run(X)
    idata = to_inferencedata(mixture, run, X)
    assert idata.posterior["k"].dims == ("chain", "draw", "data")
    z = idata.posterior["z"].values[0]
    log_odds = dist.Normal(torch.tensor(z) + 4, 1.0).log_prob(X) - dist.Normal(torch.tensor(z), 1.0).log_prob(
        X
    )
    expected = log_odds.sigmoid()
    error = (expected * (1 - expected)).sum(0).sqrt() / len(
        z
    )  # of k given z; a false alarm of 1e-6 per datum
    difference = torch.tensor(idata.posterior["k"].values[0]).mean(0) - expected.mean(0)
    assert (difference.abs() < 4.9 * error + 1e-9).all()
    with pytest.raises(InvalidInput, match="draws of a site that the model lacks in site 'z'"):
        to_inferencedata(
            lambda x: pyro.sample("x", dist.Normal(torch.zeros(4), 1.0).to_event(1), obs=x), run, X
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_prior_too_wide_to_be_sampled_leaves_the_posterior():
    def model(y):
        log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1e6))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.0, log_scale.exp()), obs=y)

    idata = to_inferencedata(model, lambda y: pyro.sample("log_scale", dist.Normal(0.0, 0.3)), X)
    assert "posterior" in idata.groups() and "prior" not in idata.groups()


def test_a_flat_prior_is_not_drawn_from():
    """It is written as a proper distribution without density, whose draws say nothing."""

    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    with pytest.warns(UserWarning, match="no draws from the prior, which has no density at site 'mu'"):
        idata = to_inferencedata(
            model, lambda y: pyro.sample("mu", dist.Normal(y.mean(), 0.5)), X, num_samples=50
        )
    assert "prior" not in idata.groups()
    assert float(idata.sample_stats["log_p"]) == pytest.approx(
        float(dist.Normal(X.mean(), 1.0).log_prob(X).sum()) + 0.5 * math.log(2 * math.pi / 4), abs=1e-9
    )
