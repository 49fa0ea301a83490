"""nuts_reference: exact guides agree with it, wrong ones do not, and it leaves nothing behind."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.diagnostics.nuts import nuts_reference
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.diagnostics.sliced import sliced_wasserstein
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA, VAE

QUICK = {"num_samples": 20, "warmup": 20, "num_chains": 2}
X = torch.tensor([0.5, -1.0, 2.0])


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


def normal_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normal_guide(shift=0.0, scale=1.0):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2 + shift * 0.5**0.5, scale * 0.5**0.5))

    return guide


def errors(found):
    """Mean error and log of the scale ratio, each in its standard errors."""
    arviz = import_arviz()
    chains = found.idata.posterior.sizes["chain"]
    draws = found.nuts_draws.reshape(chains, -1, *found.nuts_draws.shape[1:])
    ess = arviz.ess(arviz.convert_to_dataset(draws), method="sd")["x"].values
    spread = np.sqrt(1 / (2 * ess) + 1 / (2 * len(found.guide_draws)))
    return found.mean_error / found.mean_error_standard_error, np.log(found.scale_ratio) / spread


def test_an_exact_guide_agrees_within_its_standard_errors():
    """PPCA, means and deviations of 3 data and 2 units within 4.9 standard errors."""
    ppca = PPCA(4, 2)
    found = nuts_reference(
        ppca.model, ppca.guide, ppca.model(n=3).detach(), num_samples=250, warmup=150, num_chains=4
    )
    assert found.units == ("z[0]", "z[1]")
    mean, scale = errors(found)
    assert (abs(mean) < 4.9).all() and (abs(scale) < 4.9).all()
    assert (found.sliced_wasserstein < 3 * found.sliced_wasserstein_floor).all()
    assert dict(found.idata.posterior.sizes) == {"chain": 4, "draw": 250, "data": 3, "z_dim_0": 2}
    assert np.array_equal(found.idata.posterior.z.values.reshape(1000, 3, 2), found.nuts_draws), (
        "the two hold the same draws"
    )
    assert found.divergences == 0
    assert found.reliable == (found.r_hat.max() <= 1.01 and found.ess.min() >= 400) == (not found.reasons)


@pytest.mark.parametrize(
    ("shift", "scale"), [(0.0, 0.8), pytest.param(0.0, 1.25, marks=pytest.mark.slow), (0.5, 1.0)]
)
def test_a_wrong_guide_is_seen(shift, scale):
    """One 20 % too narrow, one too wide and one half a deviation off, by more than 4.9 standard errors."""
    found = nuts_reference(
        normal_model, normal_guide(shift, scale), X, num_samples=400, warmup=100, num_chains=4
    )
    mean, log_scale = errors(found)
    off = mean if shift else log_scale
    assert (abs(off) > 4.9).all()
    truth = shift if shift else math.log(scale)
    assert abs((found.mean_error if shift else np.log(found.scale_ratio)) - truth).max() < 0.25
    assert (found.sliced_wasserstein > found.sliced_wasserstein_floor).all()


def test_global_latents_run_chain_by_chain_with_names_of_their_own():
    def model(x):
        theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("draw", len(x)):
            z = pyro.sample("z", dist.Normal(theta, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        return scale

    def guide(x):
        pyro.sample("theta", dist.Normal(x.sum() / 5, 1.0))
        pyro.sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("draw", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    found = nuts_reference(model, guide, X, **QUICK | {"num_chains": 3})
    assert found.units == ("theta", "scale[0]", "scale[1]", "z[0]", "z[1]", "z[2]")
    assert found.mean_error.shape == (1, 6) and found.sliced_wasserstein.shape == (1,)
    assert found.idata.posterior.z.dims == ("chain", "draw", "draw_plate")
    assert found.idata.posterior.scale.dims == ("chain", "draw", "scale_dim_0")
    assert (found.nuts_draws[..., 1:3] > 0).all(), "constrained values"
    assert not found.reliable and any("effective sample size" in reason for reason in found.reasons)


def test_discrete_latents_are_summed_out_whether_the_guide_has_them_or_not():
    """z is a mixture over k, and the guide has its two moments; within 4.9 standard errors."""

    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.4))
            z = pyro.sample("z", dist.Normal(2.0 * k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def moments(x):
        logit = math.log(0.4 / 0.6) + (-((x - 2) ** 2) + x**2) / 4
        weight = torch.sigmoid(logit)  # p(k = 1 | x); z given k and x is Normal(x / 2 + k, 1 / 2)
        return x / 2 + weight, (0.5 + weight * (1 - weight)).sqrt()

    def without(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(*moments(x)))

    def with_it(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("z", dist.Normal(*moments(x)))

    found = nuts_reference(model, without, X, num_samples=300, warmup=100, num_chains=4)
    assert found.units == ("z",)
    mean, scale = errors(found)
    assert (abs(mean) < 4.9).all() and (abs(scale) < 4.9).all()
    assert nuts_reference(model, with_it, X, **QUICK).units == ("z",)


def test_nothing_is_left_behind_and_seeds_are_followed():
    decoder = nn.Sequential(nn.Linear(2, 64), nn.BatchNorm1d(64), nn.Unflatten(1, (1, 1, 8, 8)))
    vae = VAE((1, 8, 8), 2, hidden=(16,), decoder=decoder)
    next(vae.encoder.parameters()).requires_grad_(False)
    vae.eval()
    x = torch.rand(3, 1, 8, 8).round()
    wanted = {name: parameter.requires_grad for name, parameter in vae.named_parameters()}
    buffers = {name: value.clone() for name, value in vae.named_buffers()}

    def run(seed):
        torch.manual_seed(seed)
        with pytest.warns(UserWarning, match="does not take a dimension of particles"):
            return nuts_reference(vae.model, vae.guide, x, **QUICK).nuts_draws

    first = run(1)
    names = set(pyro.get_param_store().keys())
    assert np.array_equal(first, run(1)) and not np.array_equal(first, run(2))
    assert set(pyro.get_param_store().keys()) == names
    assert {name: parameter.requires_grad for name, parameter in vae.named_parameters()} == wanted
    assert all(parameter.grad is None for parameter in vae.parameters())
    assert all(torch.equal(value, buffers[name]) for name, value in vae.named_buffers())


def test_it_runs_where_gradients_are_off():
    with torch.no_grad():
        found = nuts_reference(normal_model, normal_guide(), X, **QUICK)
        assert not torch.is_grad_enabled()
    assert found.nuts_draws.std(0).min() > 0


def test_sliced_wasserstein_of_shifted_normals():
    """A shift by d in 5 dimensions is seen as E|u_1| d, u uniform on the sphere: 0.375 d."""
    a = torch.randn(2000, 2, 5)
    shift = torch.zeros(5)
    shift[0] = 10.0
    found = sliced_wasserstein(a, a + shift)
    expected = 10 * math.gamma(2.5) / (math.gamma(3) * math.sqrt(math.pi))
    assert abs(found - expected).max() < 4.9 * 10 * math.sqrt((1 / 5 - 0.375**2) / 100)
    assert sliced_wasserstein(a, a).max() == 0


def poisson(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("k", dist.Poisson(2.0)), 1.0), obs=x)


def poisson_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Poisson(1.0))


def coin(x):
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("k", dist.Bernoulli(0.5)), 1.0), obs=x)


def coin_guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(0.5))


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2) as index:
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[index])


def subsampled_guide(x):
    with pyro.plate("data", len(x), subsample_size=2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    ("model", "guide", "options", "message"),
    [
        (
            poisson,
            poisson_guide,
            {},
            "a discrete latent variable that cannot be summed out in site 'k': Poisson",
        ),
        (coin, coin_guide, {}, "no continuous latent variable in model"),
        (subsampled, subsampled_guide, {}, "a subsample in plate 'data': 2 of 3, at site 'z'"),
        (normal_model, lambda x: None, {}, "latent variable without a guide in site 'z'"),
        (
            normal_model,
            normal_guide(),
            {"num_chains": 1},
            "too few in num_chains: 1; expected an integer >= 2",
        ),
        (normal_model, normal_guide(), {"num_samples": 0}, "too few in num_samples: 0"),
    ],
)
def test_what_nuts_cannot_do_is_refused_by_name(model, guide, options, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        nuts_reference(model, guide, X, **QUICK | options)
    assert "\n" not in str(caught.value)
