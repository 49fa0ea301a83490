"""Objectives on all kinds of Pyro pairs: equality with Pyro's own, what weights mean, and what is refused."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer, poutine
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

from pyro_dgm.distributions import Energy
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, log_weights

X = torch.tensor([0.3, -1.2, 2.0, 0.7])


# ---- pairs: each a (model, guide) of one argument


def normal(loc, scale=1.0):
    return dist.Normal(torch.as_tensor(loc, dtype=torch.float32), scale)


def local_model(x):
    weight = pyro.param("weight", torch.tensor(0.8))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", normal(0.0))
        pyro.sample("x", normal(weight * z), obs=x)


def local_guide(x):
    slope, scale = pyro.param("slope", torch.tensor(0.4)), pyro.param("scale", torch.tensor(0.7))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x, scale))


def half_model(x):
    weight = pyro.param("weight", torch.tensor(0.8))
    with pyro.plate("data", len(x), subsample=torch.tensor([0, 2])) as index:
        z = pyro.sample("z", normal(0.0))
        pyro.sample("x", normal(weight * z), obs=x[index])


def half_guide(x):
    slope = pyro.param("slope", torch.tensor(0.4))
    with pyro.plate("data", len(x), subsample=torch.tensor([0, 2])) as index:
        pyro.sample("z", normal(slope * x[index]))


def discrete_model(x):
    shift = pyro.param("shift", torch.tensor(1.5))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(0.4))
        z = pyro.sample("z", normal(shift * y))
        pyro.sample("x", normal(z), obs=x)


def discrete_guide(x):
    logit, slope = pyro.param("logit", torch.tensor(0.3)), pyro.param("slope", torch.tensor(0.4))
    with pyro.plate("data", len(x)):
        y = pyro.sample("y", dist.Bernoulli(logits=logit * x))
        pyro.sample("z", normal(slope * x + y))


def nested_model(x):
    loc = pyro.sample("loc", normal(0.0))
    with pyro.plate("groups", 2, dim=-2):
        group = pyro.sample("group", normal(loc))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", normal(group), obs=x)


def nested_guide(x):
    a, b = pyro.param("a", torch.tensor(0.1)), pyro.param("b", torch.tensor([[0.2], [0.3]]))
    pyro.sample("loc", normal(a))
    with pyro.plate("groups", 2, dim=-2):
        pyro.sample("group", normal(b))


PAIRS = {
    "local": (local_model, local_guide),
    "subsampled": (half_model, half_guide),
    "discrete and continuous": (discrete_model, discrete_guide),
    "nested and global": (nested_model, nested_guide),
    "masked": tuple(
        poutine.mask(f, mask=torch.tensor([True, False, True, True])) for f in (local_model, local_guide)
    ),
    "scaled": tuple(poutine.scale(f, 3.0) for f in (local_model, local_guide)),
}
pairs = pytest.mark.parametrize("name", PAIRS)


def value_and_gradients(objective, model, guide):
    pyro.set_rng_seed(0)
    with poutine.trace(param_only=True) as capture:
        loss = objective(model, guide, X)
    leaves = {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), {
        name: torch.zeros_like(leaf) if gradient is None else gradient
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }


def assert_same(ours, theirs):
    assert torch.allclose(ours[0].float(), theirs[0].float(), rtol=1e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in ours[1].items():
        assert torch.allclose(gradient, theirs[1][name], rtol=1e-5, atol=1e-6), name
        assert gradient.abs().sum() > 0, f"{name}: an equality of zeros says nothing"


@pairs
@pytest.mark.parametrize("num_particles", [1, 5])
def test_elbo_equals_trace_elbo(name, num_particles):
    nesting = (
        2 if name == "nested and global" else 1
    )  # given, so that Pyro spends no random numbers on a guess
    pyros = infer.Trace_ELBO(num_particles, nesting, vectorize_particles=True)
    theirs = value_and_gradients(pyros.differentiable_loss, *PAIRS[name])
    assert_same(value_and_gradients(ELBO(num_particles), *PAIRS[name]), theirs)


@pytest.mark.parametrize("name", ["local", "subsampled", "nested and global", "masked", "scaled"])
def test_analytic_elbo_equals_trace_mean_field_elbo(name):
    theirs = value_and_gradients(infer.TraceMeanField_ELBO().differentiable_loss, *PAIRS[name])
    assert_same(value_and_gradients(ELBO(kl="analytic"), *PAIRS[name]), theirs)


PYROS = {
    "trace": infer.Trace_ELBO(),
    "graph": infer.TraceGraph_ELBO(),
    "mean field": infer.TraceMeanField_ELBO(),
    "enum": infer.TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False),
    "renyi": infer.RenyiELBO(num_particles=3),
}


@pytest.mark.parametrize("kind", PYROS)
def test_adapter_gives_the_gradients_of_svi(kind):
    elbo = PYROS[kind]

    def from_svi(model, guide, x):
        pyro.set_rng_seed(0)
        with poutine.trace(param_only=True) as capture:
            loss = elbo.loss_and_grads(model, guide, x)
        leaves = {name: site["value"].unconstrained() for name, site in capture.trace.nodes.items()}
        gradients = {name: leaf.grad.clone() for name, leaf in leaves.items()}
        infer.util.zero_grads(set(leaves.values()))
        return torch.as_tensor(loss), gradients

    theirs = from_svi(*PAIRS["local"], X)
    assert_same(value_and_gradients(PyroELBO(elbo), *PAIRS["local"]), theirs)
    with torch.no_grad():
        assert not PyroELBO(elbo)(*PAIRS["local"], X).requires_grad


def test_adapter_runs_reweighted_wake_sleep():
    loss = PyroELBO(infer.ReweightedWakeSleep(num_particles=3, vectorize_particles=False))(*PAIRS["local"], X)
    loss.backward()
    assert pyro.get_param_store().named_parameters()
    assert all(leaf.grad is not None for _, leaf in pyro.get_param_store().named_parameters())


def test_adapter_raises_where_pyro_warns_of_a_structured_guide():
    def model(x):
        with pyro.plate("data", len(x)):
            a = pyro.sample("a", normal(0.0))
            b = pyro.sample("b", normal(a))
            pyro.sample("x", normal(b), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", normal(x))
            pyro.sample("a", normal(b))

    with pytest.raises(InvalidInput, match="mean field.*Trace_ELBO"):
        PyroELBO(infer.TraceMeanField_ELBO())(model, guide, X)
    with pytest.raises(InvalidInput, match="order of sites.*monte_carlo"):
        ELBO(kl="analytic")(model, guide, X)
    assert torch.isfinite(ELBO()(model, guide, X))


# ---- what weights mean


def test_a_pair_that_cannot_be_vectorised_is_looped_with_one_warning():
    def flat(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            assert z.dim() == 1  # a network that knows no dimension of particles
            pyro.sample("x", normal(z), obs=x)

    objective = IWAE(num_particles=3)
    with pytest.warns(UserWarning, match="run one after the other") as caught:
        first = objective(flat, local_guide, X)
        objective(flat, local_guide, X)
    assert len([w for w in caught if "one after the other" in str(w.message)]) == 1
    assert torch.isfinite(first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert log_weights(flat, local_guide, X, num_particles=3).shape == (3, 4)


def test_looped_and_vectorised_weights_agree_in_distribution():
    """Means of 4,000 log-weights per datum differ by less than 4.9 standard errors (false alarm 1e-6 each)."""

    def flat(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            assert z.dim() == 1
            pyro.sample("x", normal(0.8 * z), obs=x)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        looped = log_weights(flat, local_guide, X, num_particles=1000)
        vectorised = log_weights(local_model, local_guide, X, num_particles=4000)
    error = (looped.var(0) / 1000 + vectorised.var(0) / 4000).sqrt()
    assert ((looped.mean(0) - vectorised.mean(0)).abs() < 4.9 * error).all()


def test_the_batch_is_the_outermost_plate_entered_first():
    """Auto-allocated plates: data gets dim -1, pixels -2; the weights still belong to the data."""
    x = torch.rand(5, 3).T  # pixels at -2, data at -1

    def model(x):
        with pyro.plate("data", x.shape[1]):
            z = pyro.sample("z", normal(0.0))
            with pyro.plate("pixels", x.shape[0]):
                pyro.sample("x", normal(z), obs=x)

    def guide(x):
        with pyro.plate("data", x.shape[1]):
            pyro.sample("z", normal(x.mean(0)))

    torch.manual_seed(0)
    log_w = log_weights(model, guide, x, num_particles=4)
    assert log_w.shape == (4, 5)
    torch.manual_seed(0)
    z = x.mean(0) + torch.randn(4, 1, 5)
    by_hand = (dist.Normal(z, 1.0).log_prob(x).sum(1, keepdim=True) + normal(0.0).log_prob(z))[:, 0]
    by_hand = by_hand - dist.Normal(x.mean(0), 1.0).log_prob(z)[:, 0]
    assert torch.allclose(log_w, by_hand, atol=1e-5)


def test_an_empty_guide_gives_log_p():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", normal(1.0), obs=x)

    log_w = log_weights(model, lambda x: None, X, num_particles=2)
    assert torch.allclose(log_w, normal(1.0).log_prob(X).expand(2, 4))
    assert torch.allclose(IWAE(3)(model, lambda x: None, X), -normal(1.0).log_prob(X).sum())


def test_joint_weights_of_global_latents():
    torch.manual_seed(0)
    with torch.no_grad():
        log_w = log_weights(nested_model, nested_guide, X, num_particles=4000, joint=True)
    assert log_w.shape == (4000,)
    # Exact: x_gi = loc + e_g + noise, so the 2 x 4 observations are jointly normal.
    same_group = torch.block_diag(*[torch.ones(4, 4)] * 2)
    exact = dist.MultivariateNormal(torch.zeros(8), torch.ones(8, 8) + same_group + torch.eye(8)).log_prob(
        X.repeat(2)
    )
    weights = (log_w - log_w.max()).exp()
    estimate = log_w.logsumexp(0) - math.log(4000)
    error = weights.std() / weights.mean() / math.sqrt(4000)
    assert (estimate - exact).abs() < 4.9 * error + 1e-3
    with pytest.raises(InvalidInput, match="outside the batch in site '(loc|group)'.*joint=True"):
        log_weights(nested_model, nested_guide, X, num_particles=2)
    with pytest.raises(InvalidInput, match=r"subsample in plate 'data': 2 of 4"):
        log_weights(half_model, half_guide, X, joint=True)


def global_model(x):
    loc = pyro.sample("loc", normal(0.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", normal(loc), obs=x)


def test_autoguides_with_auxiliary_sites_count_them():
    """AutoMultivariateNormal at the exact posterior N(sum x / 5, 1 / 5): each joint weight is log p(x)."""
    guide = AutoMultivariateNormal(global_model)
    guide(X)
    guide.scale = torch.full((1,), 1 / math.sqrt(5))
    with torch.no_grad():
        guide.loc.fill_(X.sum() / 5)
    exact = dist.MultivariateNormal(torch.zeros(4), torch.ones(4, 4) + torch.eye(4)).log_prob(X)
    with torch.no_grad():
        log_w = log_weights(global_model, guide, X, num_particles=6, joint=True)
    assert torch.allclose(log_w, exact.expand(6), atol=1e-4)
    guide = AutoNormal(global_model)
    guide(X)
    assert log_weights(global_model, guide, X, num_particles=3, joint=True).shape == (3,)


# ---- what is refused


def test_map_is_not_a_bound():
    guide = AutoDelta(global_model)
    with pytest.raises(InvalidInput, match=r"Delta.*site 'loc'.*MAP is not a bound"):
        log_weights(global_model, guide, X, joint=True)
    with pytest.raises(InvalidInput, match="Delta"):
        ELBO()(global_model, guide, X)


def test_missing_and_superfluous_sites_are_named():
    for objective in (ELBO(), ELBO(kl="analytic"), IWAE(2), log_weights):
        with pytest.raises(InvalidInput, match="latent variable without a guide in site 'z'"):
            objective(local_model, lambda x: None, X)

        def extra(x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", normal(0.0))
                pyro.sample("u", normal(0.0))

        with pytest.raises(InvalidInput, match="guide site that the model lacks in site 'u'.*is_auxiliary"):
            objective(local_model, extra, X)


def test_a_site_without_plate_is_named():
    def model(x):
        pyro.sample("x", normal(0.0).expand(x.shape).to_event(1), obs=x)

    with pytest.raises(InvalidInput, match=r"no plate.*'x'.*joint=True"):
        log_weights(model, lambda x: None, X)
    assert log_weights(model, lambda x: None, X, joint=True).shape == (1,)


def test_implicit_and_unnormalised_models_are_type_errors():
    def implicit(x):
        with pyro.plate("data", 4):
            pyro.sample("z", normal(0.0))

    with pytest.raises(TypeError, match="adversarial objective"):
        log_weights(implicit, local_guide, X)

    def unnormalised(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", Energy(lambda x: x.square(), ()).mask(True), obs=x)

    with pytest.raises(IncompatibleModel, match="contrastive objective"):
        log_weights(unnormalised, lambda x: None, X)


def test_iwae_refuses_a_site_whose_gradient_it_would_miss():
    with pytest.raises(InvalidInput, match="not reparameterised in site 'y'.*VIMCO"):
        IWAE(3)(discrete_model, discrete_guide, X)
    with torch.no_grad():
        assert log_weights(discrete_model, discrete_guide, X, num_particles=3).shape == (3, 4)
    with pytest.raises(InvalidInput, match=r"not reparameterised in site 'y'.*monte_carlo"):
        ELBO(kl="analytic")(discrete_model, discrete_guide, X)


def test_analytic_divergence_that_nobody_knows_is_refused():
    def flow_guide(x):
        with pyro.plate("data", len(x)):
            base = normal(torch.zeros(4))
            pyro.sample("z", dist.TransformedDistribution(base, [dist.transforms.TanhTransform()]))

    with pytest.raises(InvalidInput, match=r"no closed-form divergence in site 'z'.*monte_carlo"):
        ELBO(kl="analytic")(local_model, flow_guide, X)
    with pytest.raises(InvalidInput, match=r"no closed-form divergence in site 'z'.*Trace_ELBO"):
        PyroELBO(infer.TraceMeanField_ELBO())(local_model, flow_guide, X)
    assert torch.isfinite(ELBO()(local_model, flow_guide, X))


def test_adapter_refuses_a_latent_without_a_guide():
    with pytest.raises(InvalidInput, match=r"Found vars in model but not guide.*'z'.*add them to the guide"):
        PyroELBO(infer.Trace_ELBO())(local_model, lambda x: None, X)


@pytest.mark.parametrize("num_particles", [0, -3])
def test_no_particles(num_particles):
    for call in (ELBO, IWAE, lambda n: log_weights(local_model, local_guide, X, num_particles=n)):
        with pytest.raises(InvalidInput, match=f"no particles in num_particles: {num_particles}"):
            call(num_particles)
    with pytest.raises(InvalidInput, match=r"kl: 'closed'.*'monte_carlo' or 'analytic'"):
        ELBO(kl="closed")


def test_inspecting_a_pair_spends_no_random_numbers():
    objective = IWAE(4)
    pyro.set_rng_seed(0)
    first = objective(local_model, local_guide, X)  # inspects
    pyro.set_rng_seed(0)
    assert torch.equal(first, objective(local_model, local_guide, X))


def test_values_outside_the_support_are_one_line():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", normal(0.0))
            pyro.sample("x", dist.Bernoulli(logits=z), obs=x)

    for objective in (ELBO(), IWAE(2), log_weights):
        with pytest.raises(
            InvalidInput, match=r"^value outside the support in site 'x'; expected values in Bool.*$"
        ):
            objective(model, local_guide, X)


def test_a_prior_that_is_masked_out_has_no_closed_form():
    """Pyro's divergence of a plain from a masked distribution is zero; log q - log 1 is not."""

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InvalidInput, match="no closed-form divergence in site 'z'"):
        ELBO(kl="analytic")(model, lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), X)
