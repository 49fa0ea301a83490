"""Laws of reparameterised families in float64 at random parameters, each with the mutants that it must catch.

The families are those that Kingma and Welling (2014, section 2.4) name: a tractable inverse distribution function,
location and scale, composition. Statistical laws draw 100,000 samples for each family and compare with 4.9 standard
errors, a false-alarm rate of 1e-6 for each number that is compared.
"""

import math

import pytest
import scipy.integrate
import torch

from tests.laws.reparameterised_families import FAMILIES

N, Z_LIMIT = 100_000, 4.9


def leaves(family, seed, num):
    """One copy of each parameter for each draw, so that gradients come apart by draws."""
    return {
        name: value.expand(num, *value.shape).clone().requires_grad_()
        for name, value in family.parameters(seed).items()
    }


def gradients(value, wanted):
    """d value_i / d parameter_i for each draw, by name; zero where there is no path."""
    names = list(wanted)
    anchor = sum(0 * wanted[name].sum() for name in names)  # where nothing else has a path
    found = torch.autograd.grad(value.sum() + anchor, [wanted[name] for name in names])
    return dict(zip(names, found, strict=True))


def drawn(family, parameters, detached):
    given = {name: value.detach() if name == detached else value for name, value in parameters.items()}
    return family.make(**given).rsample()


# ---- what a mutant does to a draw: its value is the same, its path is not

PATHS = {
    "the path": lambda z: z,
    "wrong sign": lambda z: 2 * z.detach() - z,
    "wrong scale": lambda z: 2 * z - z.detach(),
}


def law_gradients_of_moments(family, *, path="the path", detached=None):
    """Mean of d f(z) / d theta over draws is d E f(z) / d theta, and the mean of f(z) is E f(z): closed forms."""
    torch.manual_seed(0)
    exact_at = {name: value.requires_grad_() for name, value in family.parameters(0).items()}
    for f, expectation in family.moments:
        parameters = leaves(family, 0, N)
        value = f(PATHS[path](drawn(family, parameters, detached)))
        exact = expectation(**exact_at)
        truth = torch.autograd.grad(exact, list(exact_at.values()), allow_unused=True, materialize_grads=True)
        pairs = [(value.detach(), exact.detach())]
        pairs += list(zip(gradients(value, parameters).values(), truth, strict=True))
        for found, wanted in pairs:
            error = found.std(0) / math.sqrt(N)
            # The mean over many equal numbers is known to rounding only.
            assert ((found.mean(0) - wanted).abs() <= Z_LIMIT * error + 1e-9).all()


def law_path_keeps_the_level(family, *, path="the path", detached=None):
    """dz / dtheta = -(dF / dtheta)(z) / p(z) for each of 500 draws, to 1e-8: the level F(z; theta) does not move."""
    torch.manual_seed(0)
    parameters = leaves(family, 0, 500)
    z = PATHS[path](drawn(family, parameters, detached))
    moved = gradients(z, parameters)
    density = family.make(**parameters).log_prob(z.detach()).exp().detach()
    levels = {name: parameters[name] for name in family.levels}
    for name, slope in gradients(family.make(**parameters).cdf(z.detach()), levels).items():
        implied = -slope / density
        assert ((moved[name] - implied).abs() <= 1e-8 * (1 + implied.abs())).all()


def law_icdf_inverts_cdf(family, *, level=lambda u: u):
    """icdf(cdf(z)) = z to 1e-10 at 500 draws, and cdf(icdf(u)) = u from 0.001 to 0.999."""
    torch.manual_seed(0)
    fn = family.make(**family.parameters(0))
    z = fn.sample((500,))
    assert ((fn.icdf(level(fn.cdf(z))) - z).abs() <= 1e-10 * (1 + z.abs())).all()
    u = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    assert (fn.cdf(fn.icdf(level(u))) - u).abs().max() < 1e-10


def law_density_integrates_to_one(family, *, log_factor=0.0):
    """The integral of exp(log_prob) over the support is 1 to 1e-7, by adaptive quadrature, at three parameters."""
    for seed in range(3):
        fn = family.make(**family.parameters(seed))
        low = getattr(fn.support, "lower_bound", -math.inf)
        high = getattr(fn.support, "upper_bound", math.inf)
        middle = float(fn.sample())  # a break, so that the bulk is found wherever it is

        def density(z, fn=fn):
            return math.exp(fn.log_prob(torch.tensor(z, dtype=torch.float64)).item() + log_factor)

        parts = [(float(low), middle), (middle, float(high))]
        total = sum(scipy.integrate.quad(density, *ends, limit=200, epsabs=1e-10)[0] for ends in parts)
        assert abs(total - 1) < 1e-7


every = pytest.mark.parametrize("name", FAMILIES)
with_levels = pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.levels])
with_icdf = pytest.mark.parametrize("name", [n for n, family in FAMILIES.items() if family.has_icdf])
univariate = pytest.mark.parametrize("name", [n for n in FAMILIES if n not in ("elliptical", "Dirichlet")])
wrong = pytest.mark.parametrize("path", ["wrong sign", "wrong scale"])


@every
def test_gradients_of_moments(name):
    law_gradients_of_moments(FAMILIES[name])


@wrong
@every
def test_gradients_of_moments_catch_a_wrong_path(name, path):
    with pytest.raises(AssertionError):
        law_gradients_of_moments(FAMILIES[name], path=path)


@pytest.mark.parametrize(
    ("name", "parameter"), [(name, p) for name, family in FAMILIES.items() for p in family.ranges]
)
def test_gradients_of_moments_catch_a_detached_parameter(name, parameter):
    with pytest.raises(AssertionError):
        law_gradients_of_moments(FAMILIES[name], detached=parameter)


@with_levels
def test_the_path_keeps_the_level(name):
    law_path_keeps_the_level(FAMILIES[name])


@wrong
@with_levels
def test_the_level_catches_a_wrong_path(name, path):
    with pytest.raises(AssertionError):
        law_path_keeps_the_level(FAMILIES[name], path=path)


@with_levels
def test_the_level_catches_a_detached_parameter(name):
    for parameter in FAMILIES[name].levels:
        with pytest.raises(AssertionError):
            law_path_keeps_the_level(FAMILIES[name], detached=parameter)


@with_icdf
def test_the_inverse_inverts(name):
    law_icdf_inverts_cdf(FAMILIES[name])


@with_icdf
@pytest.mark.parametrize("level", [lambda u: 1 - u, lambda u: u**1.01], ids=["complement", "power"])
def test_the_inverse_catches_a_wrong_level(name, level):
    with pytest.raises(AssertionError):
        law_icdf_inverts_cdf(FAMILIES[name], level=level)


@univariate
def test_the_density_integrates_to_one(name):
    law_density_integrates_to_one(FAMILIES[name])


@univariate
def test_the_integral_catches_a_factor(name):
    with pytest.raises(AssertionError):
        law_density_integrates_to_one(FAMILIES[name], log_factor=1e-5)
