"""Our reparameterised families beside their laws, and the guide of any family: edges, types, what it refuses."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import (
    Amortized,
    Gompertz,
    Rayleigh,
    Reciprocal,
    Triangular,
    UniformInterval,
)
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import VAE
from pyro_dgm.objectives import ELBO, IWAE, log_weights
from tests.laws.reparameterised_families import FAMILIES

OURS = {name: FAMILIES[name] for name in ("Rayleigh", "Gompertz", "Reciprocal", "Triangular", "Uniform")}
ours = pytest.mark.parametrize("family", OURS.values(), ids=OURS)
SHAPE = (1, 4, 4)


# ---- the families


@ours
def test_mean_and_variance_are_those_of_the_quantiles(family):
    """By the midpoint rule over 400,000 levels, to 1e-4 of the scale: the tails have little of either."""
    fn = family.make(**family.parameters(1))
    u = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    z = fn.icdf(u)
    assert (z.mean() - fn.mean).abs() < 1e-4
    if family is not OURS["Gompertz"]:  # its variance has no short form
        assert (z.var(correction=0) - fn.variance).abs() < 1e-3


@ours
def test_expand_keeps_parameters_and_validation(family):
    fn = family.make(**family.parameters(1))
    wide = fn.expand((3, 2))
    z = wide.rsample((5,))
    assert z.shape == wide.log_prob(z).shape == (5, 3, 2)
    assert torch.equal(wide.log_prob(z), fn.log_prob(z))
    with pytest.raises(ValueError, match="within the support"):
        wide.log_prob(torch.full((3, 2), float("nan"), dtype=torch.float64))
    with pytest.raises(ValueError, match="invalid values"):
        family.make(**{name: value * float("nan") for name, value in family.parameters(1).items()})


@ours
def test_float32_draws_stay_inside_even_at_the_ends_of_the_generator(family, monkeypatch):
    parameters = {name: value.float().requires_grad_() for name, value in family.parameters(2).items()}
    fn = family.make(**parameters)
    for u in (0.0, 2.0**-24, 0.5, 1 - 2.0**-24):
        monkeypatch.setattr(torch, "rand", lambda *args, u=u, **kwargs: torch.full(*args, u, **kwargs))
        z = fn.rsample((1,))
        log_prob = fn.log_prob(z).sum()  # validation is on
        assert z.dtype == torch.float32 and torch.isfinite(log_prob)
        gradients = torch.autograd.grad(log_prob, list(parameters.values()), allow_unused=True)
        assert all(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)


def test_no_density_outside_an_interval_and_none_is_nan():
    z = torch.tensor([-5.0, 0.0, 50.0]).requires_grad_()
    with pyro.validation_enabled(False):
        for fn in (UniformInterval(1.0, 2.0), Triangular(1.0, 2.0, 0.3), Reciprocal(1.0, 2.0)):
            assert (fn.log_prob(z.detach()) == -math.inf).all() or isinstance(fn, Reciprocal)
            assert torch.equal(fn.cdf(torch.tensor([0.5, 50.0])), torch.tensor([0.0, 1.0]))
    (gradient,) = torch.autograd.grad(Triangular(-9.0, 99.0, 0.3).log_prob(z).sum(), z)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("peak", [0.0, 1.0])
def test_a_triangle_may_have_its_mode_at_an_end(peak):
    loc, peak = torch.tensor(1.0, requires_grad=True), torch.tensor(peak, requires_grad=True)
    fn = Triangular(loc, 2.0, peak)
    z = fn.rsample((1000,))
    u = torch.linspace(0.01, 0.99, 50)
    assert torch.isfinite(fn.log_prob(z)).all() and (fn.cdf(fn.icdf(u)) - u).abs().max() < 1e-5
    z.sum().backward()
    assert torch.isfinite(loc.grad) and torch.isfinite(peak.grad)


def test_rayleigh_is_a_weibull_and_a_uniform_is_a_uniform():
    scale = torch.tensor(1.7, dtype=torch.float64)
    z = torch.linspace(0.1, 5, 50, dtype=torch.float64)
    weibull = dist.Weibull(scale * math.sqrt(2), torch.tensor(2.0, dtype=torch.float64))
    assert (Rayleigh(scale).log_prob(z) - weibull.log_prob(z)).abs().max() < 1e-12
    z = z[:-1]  # torch leaves the upper end out
    assert torch.allclose(UniformInterval(0.0, 5.0).log_prob(z), dist.Uniform(0.0, 5.0).log_prob(z))
    assert torch.allclose(Gompertz(1.0, 1.0).mean, torch.tensor(0.59634736))  # Gompertz's constant


# ---- the guide of any family

AMORTISED = [
    *(dist.Exponential, dist.Cauchy, dist.Logistic, dist.Pareto, dist.Weibull, dist.Gumbel, dist.Laplace),
    *(dist.StudentT, dist.Normal, dist.LogNormal, dist.Gamma, dist.Dirichlet, dist.Beta, dist.Chi2),
    *(dist.FisherSnedecor, torch.distributions.Normal),
    *(Rayleigh, Gompertz, Reciprocal, Triangular, UniformInterval),
]


@pytest.mark.parametrize("family", AMORTISED, ids=lambda family: family.__name__)
def test_any_reparameterised_family_is_a_posterior(family):
    """Under the standard normal prior, whose support holds that of every family; copies and float64 too."""
    vae = VAE(SHAPE, 3, hidden=(8,), posterior=Amortized(family, 8, 3))
    vae = copy.deepcopy(vae).double()
    x = (torch.rand(5, *SHAPE) < 0.5).double()
    for objective in (ELBO(), IWAE(3)):
        vae.zero_grad()
        objective(vae.model, vae.guide, x).backward()
        for name, value in vae.named_parameters():
            assert value.grad.abs().sum() > 0 and torch.isfinite(value.grad).all(), name
    with torch.no_grad():
        assert log_weights(vae.model, vae.guide, x, num_particles=4).shape == (4, 5)
    assert vae.posterior(torch.zeros(2, 5, 8).double()).batch_shape == (2, 5)


def test_it_equals_the_family_with_softplus_and_floors():
    piece = Amortized(dist.Weibull, 4, 2, scale_floor=0.01, floor=0.3).double()
    h = torch.randn(7, 4, dtype=torch.float64)
    scale, concentration = nn.functional.softplus(piece.head(h)).unflatten(-1, (2, 2)).unbind(-2)
    expected = dist.Weibull(scale + 0.01, concentration + 0.3).to_event(1)
    z = expected.sample()
    assert torch.equal(piece(h).log_prob(z), expected.log_prob(z))


def test_scales_neither_vanish_nor_explode():
    for family in (dist.Normal, dist.Weibull, dist.Gamma, dist.Pareto, dist.Beta, Triangular):
        piece = Amortized(family, 1, 2)
        nn.init.constant_(piece.head.weight, 1.0)
        for size in (-1e3, 1e3):
            q = piece(torch.tensor([size]))
            for name in family.arg_constraints:
                value = getattr(q.base_dist, name)
                assert torch.isfinite(value).all() and (name in ("loc", "peak") or (value >= 1e-4).all())
                assert (value.abs() <= 1.1e3).all()


def test_fixed_arguments_are_numbers_that_follow_the_type():
    erlang = Amortized(dist.Gamma, 4, 2, fixed={"concentration": 3}).double()
    assert erlang.head.out_features == 2
    q = erlang(torch.zeros(4, dtype=torch.float64))
    assert torch.equal(q.base_dist.concentration, torch.full((2,), 3.0, dtype=torch.float64))
    assert q.rsample().dtype == torch.float64
    assert erlang.state_dict().keys() == {"fixed_concentration", "head.weight", "head.bias"}
    relaxed = Amortized(dist.RelaxedBernoulli, 4, 2, fixed={"temperature": 0.5})
    assert relaxed(torch.zeros(4)).event_shape == (2,)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (dist.Bernoulli, "not reparameterised in Amortized: Bernoulli; expected a family with rsample"),
        (dist.Poisson, "not reparameterised in Amortized: Poisson"),
        (dist.VonMises, "not reparameterised in Amortized: VonMises"),
        (dist.Uniform, "Uniform: parameters that depend on each other.*try UniformInterval"),
        (dist.MultivariateNormal, "MultivariateNormal: parameter covariance_matrix.*piece of your own"),
        (dist.LowRankMultivariateNormal, "LowRankMultivariateNormal: ValueError.*piece of your own"),
        (dist.LogisticNormal, r"LogisticNormal: event shape \(4,\)"),
        (dist.RelaxedBernoulli, "RelaxedBernoulli: TypeError.*temperature.*fixed="),
        (dist.ImproperUniform, "ImproperUniform: no parameters"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_families_are_refused_in_one_line_when_it_is_made(family, expected):
    with pytest.raises(InvalidInput, match=expected) as caught:
        Amortized(family, 5, 3)
    assert "\n" not in str(caught.value) and "; try " in str(caught.value)


@pytest.mark.parametrize("argument", [{"latent_dim": 0}, {"scale_floor": 0.0}, {"floor": -1.0}])
def test_refused_arguments(argument):
    with pytest.raises(InvalidInput, match=f"in {next(iter(argument))}: "):
        Amortized(dist.Normal, 5, **({"latent_dim": 3} | argument))


class GammaPrior(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("ones", torch.ones(2))

    def forward(self):
        return dist.Gamma(2 * self.ones, self.ones).to_event(1)


def test_a_posterior_on_the_support_of_its_prior_trains_and_another_is_refused_in_one_line():
    x = (torch.rand(5, *SHAPE) < 0.5).float()
    positive = VAE(SHAPE, 2, hidden=(8,), prior=GammaPrior(), posterior=Amortized(dist.Weibull, 8, 2))
    ELBO()(positive.model, positive.guide, x).backward()
    real = VAE(SHAPE, 2, hidden=(8,), prior=GammaPrior(), posterior=Amortized(dist.Normal, 8, 2))
    for objective in (ELBO(), IWAE(5), log_weights):
        with pytest.raises(
            InvalidInput, match="value outside the support in site 'z'; expected values in"
        ) as caught:
            objective(real.model, real.guide, x)
        assert "\n" not in str(caught.value) and "within that of its prior" in str(caught.value)


def test_a_smaller_support_bounds_the_integral_over_it_alone():
    """z ~ N(0, 1), x | z ~ N(z, 1), q on z > 0: the mean weight is p(x) P(z > 0 | x).

    100,000 weights, 4.9 standard errors: a false-alarm rate of 1e-6 for each datum.
    """

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Gamma(torch.full_like(x, 1.5), torch.ones_like(x)))

    x = torch.tensor([-1.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        w = log_weights(model, guide, x, num_particles=100_000).exp()
    marginal = dist.Normal(0.0, math.sqrt(2)).log_prob(x).exp()
    inside = dist.Normal(x / 2, math.sqrt(0.5)).cdf(torch.zeros_like(x))
    error = w.std(0) / math.sqrt(len(w))
    assert ((w.mean(0) - marginal * (1 - inside)).abs() < 4.9 * error).all()
    assert (marginal - w.mean(0) > 4.9 * error).all()
