"""What could be silently wrong with a user's pair: particles mixed up with data, stale knowledge, no bound at all."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer import autoguide
from torch import nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, log_weights

X = torch.tensor([0.3, -1.2, 2.0, 0.7])


def normal(loc, scale=1.0):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float32), scale)


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0.0))
        pyro.sample("x", normal(z), obs=x)


def local_guide(x):
    slope = pyro.param("slope", torch.tensor(0.4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(slope * x))


def score_guide(x):
    slope = pyro.param("slope", torch.tensor(0.4))
    with pyro.plate("data", len(x)):
        pyro.sample("z", normal(slope * x).has_rsample_(False))


def two_globals(x):
    a, b = pyro.sample("a", normal(0.0)), pyro.sample("b", normal(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(a + b), obs=x)


# ---- particles that a model takes for data: shapes fit, values do not


def first_column(z):
    return z[:, :1]


def centred(z):
    return z - z.mean(0)


def test_particles_that_meet_each_other_in_the_data_are_looped():
    def model(x):
        line = pyro.sample("line", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):  # the slice keeps a dimension, to whose left the particles then go
            mean = line[..., :1] + line[..., 1:] * torch.arange(len(x))
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    def guide(x):
        pyro.sample("line", dist.Normal(torch.tensor([0.5, -0.2]), 1e-6).to_event(1))

    with pytest.warns(UserWarning, match="to the left of the particles"):
        log_w = log_weights(model, guide, X, num_particles=3, joint=True)
    line, zero = torch.tensor([0.5, -0.2]), torch.zeros(2)
    log_lik = normal(line[0] + line[1] * torch.arange(4)).log_prob(X).sum()
    log_q = log_w - log_lik - normal(zero).log_prob(line).sum()
    # All that is left is -log q, which for a normal of scale 1e-6 in two dimensions is -25.8 + |noise|^2 / 2.
    expected = 2 * (0.5 * math.log(2 * math.pi) + math.log(1e-6))
    assert (log_q >= expected - 1e-3).all() and (log_q < expected + 30).all()


@pytest.mark.parametrize(
    "decode",
    [first_column, centred, nn.BatchNorm1d(4), lambda z: z.flatten(1) if z.dim() == 2 else z[:, :1]],
    ids=["column", "mean of the batch", "batch norm as wide as the batch", "flatten"],
)
def test_a_decoder_that_takes_particles_for_data_is_looped(decode):
    """A narrow guide: estimates differ by the noise of 16 terms of log q, deviation below sqrt(16); 20 nats are 4.9."""

    def model(x):
        with pyro.plate("data", 4):
            z = pyro.sample("z", normal(torch.zeros(4)).to_event(1))
            out = decode(z)
            pyro.sample("x", normal(out.expand(*out.shape[:-1], 4), 0.3).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 4):
            pyro.sample("z", normal(x, 1e-3).to_event(1))

    x = 3 * torch.randn(4, 4)
    with torch.no_grad():
        truth = ELBO()(model, guide, x)
        for objective in (IWAE(3), ELBO(3)):
            with pytest.warns(UserWarning, match="one after the other"):
                estimate = objective(model, guide, x)
            assert abs(estimate - truth) < 20


def test_noise_of_the_models_own_is_no_reason_to_loop(recwarn):
    drop = nn.Dropout(0.5)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(drop(z + 3)), obs=x)

    IWAE(3)(model, local_guide, X)
    assert not [w for w in recwarn if "one after the other" in str(w.message)]


def test_guide_messengers_run_with_particles(recwarn):
    guide = autoguide.AutoNormalMessenger(local_model)
    assert log_weights(local_model, guide, X, num_particles=3).shape == (3, 4)
    assert not [w for w in recwarn if "one after the other" in str(w.message)]


# ---- what an objective remembers of a pair


def test_a_guide_at_the_address_of_an_old_one_is_not_taken_for_it():
    objective = IWAE(2)

    def flat_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(0.5 * x))

    def nested_model(x):
        with pyro.plate("data", len(x)), pyro.plate("rows", 2, dim=-2):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(z), obs=x)

    def nested_guide(x):
        with pyro.plate("data", len(x)), pyro.plate("rows", 2, dim=-2):
            pyro.sample("z", normal(0.5 * x))

    def model(x):
        return kind(x)

    reused = 0
    for _ in range(20):
        kind = local_model
        guide = lambda x: flat_guide(x)  # noqa: E731
        objective(model, guide, X)
        address = id(guide)
        del guide
        kind = nested_model
        guide = lambda x: nested_guide(x)  # noqa: E731
        if id(guide) == address:
            reused += 1
            assert torch.isfinite(objective(model, guide, X))
            assert objective._layouts(model, guide, (X,), 2).max_plate_nesting == 2
    assert reused, "no address was used again: this test says nothing"


def test_a_later_batch_with_other_sites_is_checked_too():
    def model(x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Bernoulli(0.4).expand([len(x)]), obs=y)
            z = pyro.sample("z", normal(y))
            pyro.sample("x", normal(z), obs=x)

    def guide(x, y=None):
        slope = pyro.param("slope", torch.tensor(0.4))
        with pyro.plate("data", len(x)):
            if y is None:
                pyro.sample("y", dist.Bernoulli(logits=slope * x))
            pyro.sample("z", normal(slope * x))

    objective = IWAE(2)
    objective(model, guide, X, torch.ones(4))
    with pytest.raises(InvalidInput, match="not reparameterised in site 'y'"):
        objective(model, guide, X)
    objective = ELBO()
    objective(model, lambda x, y=None: guide(x, X), X, torch.ones(4))
    blind = lambda x, y=None: guide(x, X)  # noqa: E731
    objective(model, blind, X, torch.ones(4))
    with (
        pytest.warns(UserWarning, match="in model but not guide"),
        pytest.raises(InvalidInput, match="latent variable without a guide in site 'y'"),
    ):
        objective(model, blind, X)


def test_a_guide_that_is_unfrozen_later_is_checked_too():
    slope = torch.tensor(0.4)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", normal(slope * x).has_rsample_(False))

    objective = IWAE(2)
    objective(local_model, guide, X)
    slope.requires_grad_(True)
    with pytest.raises(InvalidInput, match="not reparameterised in site 'z'"):
        objective(local_model, guide, X)


def test_inspection_leaves_batch_norm_alone():
    norm = nn.BatchNorm1d(1)

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(norm(x[:, None])[:, 0].mean()), obs=x)

    IWAE(2)(model, lambda x: None, X)
    assert norm.num_batches_tracked == 1  # by the run that counts
    assert torch.allclose(norm.running_mean, 0.1 * X.mean())


def test_lazy_modules_are_made_by_the_inspection():
    lazy = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())

    def model(x):
        loc = lazy(x[:, None])
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(loc[:, 0]), obs=x)

    assert torch.isfinite(ELBO()(model, lambda x: None, X))


# ---- what is no bound, or not the one that was asked for


def delta_beside_a_density():
    guide = autoguide.AutoGuideList(two_globals)
    guide.append(autoguide.AutoDelta(poutine.block(two_globals, expose=["a"])))
    guide.append(autoguide.AutoMultivariateNormal(poutine.block(two_globals, expose=["b"])))
    return guide


@pytest.mark.parametrize(
    ("make", "site"),
    [(delta_beside_a_density, "a"), (lambda: autoguide.AutoLaplaceApproximation(two_globals), "a")],
    ids=["AutoGuideList", "AutoLaplaceApproximation"],
)
def test_map_beside_auxiliary_sites_is_found(make, site):
    with pytest.raises(InvalidInput, match=f"Delta.*site '{site}'.*MAP is not a bound"):
        ELBO()(two_globals, make(), X)


def test_a_discrete_auxiliary_site_gets_its_whole_gradient():
    """Against the exact gradient, in 200 batches of 200 particles: 4.9 standard errors, false alarm 1e-6."""

    def guide(x):
        logit = pyro.param("logit", torch.tensor(1.3))
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", dist.Bernoulli(logits=logit).expand([len(x)]), infer={"is_auxiliary": True})
            pyro.sample("z", normal(a))

    objective, gradients = ELBO(200), []
    for _ in range(200):
        loss = objective(local_model, guide, X)
        gradients.append(torch.autograd.grad(loss, pyro.param("logit").unconstrained())[0])
    found = torch.stack(gradients)
    logit = torch.tensor(1.3, requires_grad=True)

    def given(a):  # E[log p(x, z) - log q(z | a)] for z ~ N(a, 1)
        return -0.5 * a**2 - 0.5 * math.log(2 * math.pi) - 0.5 * ((X - a) ** 2 + 1)

    q = logit.sigmoid()
    exact = -(q * (given(1.0) - q.log()) + (1 - q) * (given(0.0) - (1 - q).log())).sum()
    (exact_gradient,) = torch.autograd.grad(exact, logit)
    assert abs(found.mean() - exact_gradient) < 4.9 * found.std() / math.sqrt(200)
    assert abs(exact_gradient) > 10 * found.std() / math.sqrt(200), "too noisy to say anything"


@pytest.mark.parametrize(
    "family", [autoguide.AutoMultivariateNormal, autoguide.AutoLowRankMultivariateNormal]
)
def test_analytic_divergence_refuses_auxiliary_sites(family):
    with pytest.raises(InvalidInput, match="no latent variable of the model.*latent.*monte_carlo"):
        ELBO(kl="analytic")(two_globals, family(two_globals), X)


@pytest.mark.parametrize(
    ("handler", "refusal"),
    [
        (lambda f: poutine.scale(f, 0.1), "different scales or masks.*site 'z'.*monte_carlo"),
        (
            lambda f: poutine.mask(f, mask=torch.tensor([True, False, True, True])),
            "masked in the model and not in the guide.*site 'z'",
        ),
    ],
    ids=["scale", "mask"],
)
def test_analytic_divergence_refuses_what_differs_in_model_and_guide(handler, refusal):
    with pytest.raises(InvalidInput, match=refusal):
        ELBO(kl="analytic")(handler(local_model), local_guide, X)
    assert torch.isfinite(ELBO(kl="analytic")(handler(local_model), handler(local_guide), X))


def test_the_adapter_keeps_waiting_gradients_when_it_fails():
    PyroELBO(infer.Trace_ELBO())(local_model, local_guide, X).backward()
    slope = pyro.param("slope").unconstrained()
    waiting = slope.grad.clone()

    def broken(x):
        local_guide(x)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        PyroELBO(infer.Trace_ELBO())(local_model, broken, X)
    assert torch.equal(slope.grad, waiting)


SOME, ALL = torch.tensor([True, False, True, False]), torch.ones(4, dtype=torch.bool)


@pytest.mark.parametrize(("of_model", "of_guide"), [(SOME, True), (True, SOME), (SOME, ALL), (SOME, ~SOME)])
def test_a_latent_is_masked_in_model_and_guide_alike(of_model, of_guide):
    """What log q counts and log p does not is no bound."""

    def model(x):
        with pyro.plate("data", 4):
            with poutine.mask(mask=of_model):
                z = pyro.sample("z", normal(0.0))
            pyro.sample("x", normal(z), obs=x)

    def guide(x, mask=of_guide):
        with pyro.plate("data", 4), poutine.mask(mask=mask):
            pyro.sample("z", normal(x, 0.1))

    with pytest.raises(
        InvalidInput, match="masked in the model and not in the guide.*in site 'z': [24] of 4"
    ):
        ELBO()(model, guide, X)
    assert torch.isfinite(ELBO()(model, lambda x: guide(x, of_model), X))


def test_missing_values_with_the_same_mask_in_both():
    """log w has the observed part and what stands for the rest, as ``obs_mask`` splits them."""
    seen = torch.tensor([True, False, True, False])

    def model(x):
        with pyro.plate("data", 4):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=seen)

    def guide(x):
        with pyro.plate("data", 4), poutine.mask(mask=~seen):
            pyro.sample("x_unobserved", dist.Normal(torch.zeros(()), 1.0))

    x = torch.randn(4)
    expected = torch.where(seen, dist.Normal(0.0, 1.0).log_prob(x), torch.zeros(4))
    torch.testing.assert_close(log_weights(model, guide, x)[0], expected)

    def forgetful(x):
        with pyro.plate("data", 4):
            pyro.sample("x_unobserved", dist.Normal(torch.zeros(()), 1.0))

    with pytest.raises(InvalidInput, match="site 'x_unobserved': 2 of 4.*complement"):
        log_weights(model, forgetful, x)
