"""Laws of the grey-level distributions: normalised, exact, sampled as stated, finite at extremes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from decimal import Decimal, getcontext

import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_dgm.distributions import DiscretizedLogistic, GridBetaBinomial, GridDistribution, UnitGrid
from pyro_dgm.errors import InvalidInput

getcontext().prec = 150  # 1 - F is 1e-120 at the far edge
FALSE_ALARM = 1e-6


def logistic(levels: int, *shape: int) -> DiscretizedLogistic:
    """Locations inside and far outside the data, scales from a quarter of a bin to a hundred times the data."""
    loc = torch.empty(shape, dtype=torch.float64).uniform_(-5, 6)
    log10_scale = torch.empty(shape, dtype=torch.float64).uniform_(-3, 2)
    return DiscretizedLogistic(loc, 10**log10_scale, levels=levels)


def beta_binomial(levels: int, *shape: int) -> GridBetaBinomial:
    log10 = torch.empty(2, *shape, dtype=torch.float64).uniform_(-4, 3)
    return GridBetaBinomial(*(10**log10), levels=levels)


FAMILIES: dict[str, Callable[..., GridDistribution]] = {"logistic": logistic, "beta-binomial": beta_binomial}
each_family = pytest.mark.parametrize("family", FAMILIES)
# Eps times the size of the largest term in the exponent: log-gammas of 1e3 are of order 1e4.
SUM_TOLERANCE = {"logistic": 1e-12, "beta-binomial": 1e-10}


def pmf_table(p: GridDistribution) -> Tensor:
    """The probabilities of all levels, (levels, *batch_shape)."""
    return p.log_prob(p.enumerate_support()).exp()


@each_family
@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_probabilities_sum_to_one(family: str, levels: int) -> None:
    total = pmf_table(FAMILIES[family](levels, 500)).sum(0)
    assert (total - 1).abs().max() < SUM_TOLERANCE[family]


def without_tails(p: DiscretizedLogistic, value: Tensor) -> Tensor:
    """Mutant: the edge levels are ordinary bins."""
    half = 0.5 / (p.levels - 1)
    lower, upper = (torch.sigmoid((value + side - p.loc) / p.scale) for side in (-half, half))
    return upper - lower


def half_a_bin_off(p: DiscretizedLogistic, value: Tensor) -> Tensor:
    """Mutant: bins reach from their level upwards, as if grey levels were rounded down."""
    lower = torch.sigmoid((value - p.loc) / p.scale)
    upper = torch.sigmoid((value + 1 / (p.levels - 1) - p.loc) / p.scale)
    return torch.where(value == 1, 1 - lower, upper - lower)


@pytest.mark.parametrize("mutant", [without_tails, half_a_bin_off])
def test_the_sum_catches_a_planted_mutant(mutant: Callable[..., Tensor]) -> None:
    p = DiscretizedLogistic(*torch.tensor([[0.5], [0.2]], dtype=torch.float64), levels=17)
    assert (mutant(p, p.enumerate_support()).sum(0) - 1).abs() > 1e-3


def exact_log_pmf(loc: float, scale: float, k: int, levels: int) -> float:
    """The difference of logistic distribution functions with 150 digits."""

    def cdf(t: Decimal) -> Decimal:
        return 1 / (1 + (-t / Decimal(scale)).exp())

    half = Decimal(1) / 2
    lower = cdf((k - half) / (levels - 1) - Decimal(loc)) if k > 0 else Decimal(0)
    upper = cdf((k + half) / (levels - 1) - Decimal(loc)) if k < levels - 1 else Decimal(1)
    return float((upper - lower).ln())


@pytest.mark.parametrize("scale", [0.01, 0.1, 1.0, 100.0])
@pytest.mark.parametrize("loc", [-0.2, 0.0, 0.37, 1.3])
def test_logistic_log_prob_is_the_difference_of_distribution_functions(loc: float, scale: float) -> None:
    p = DiscretizedLogistic(*torch.tensor([loc, scale], dtype=torch.float64), levels=17)
    exact = torch.tensor([exact_log_pmf(loc, scale, k, 17) for k in range(17)], dtype=torch.float64)
    torch.testing.assert_close(p.log_prob(p.enumerate_support()), exact, rtol=1e-12, atol=1e-13)


def test_the_plain_difference_which_the_closed_form_replaces_fails_in_the_tail() -> None:
    p = DiscretizedLogistic(*torch.tensor([0.0, 0.01], dtype=torch.float64), levels=17)
    edges = (torch.arange(18, dtype=torch.float64) - 0.5) / 16
    plain = torch.sigmoid((edges - p.loc) / p.scale).diff().log()
    assert plain[1:-1].isinf().any() and p.log_prob(p.enumerate_support()).isfinite().all()


def test_float32_log_prob_is_close_to_float64() -> None:
    # The first keeps the rounding of (x - loc) / scale, at most 5e3 here; the second computes in float64.
    for make, rtol, atol in ((logistic, 1e-4, 2e-3), (beta_binomial, 2e-7, 1e-6)):
        p = make(256, 500)
        parameters = [getattr(p, name).float() for name in p.arg_constraints]
        single = type(p)(*parameters, levels=256)
        double = type(p)(*(parameter.double() for parameter in parameters), levels=256)
        x = double.sample()
        torch.testing.assert_close(
            single.log_prob(x.float()).double(), double.log_prob(x), rtol=rtol, atol=atol
        )


def test_beta_binomial_agrees_with_pyro() -> None:
    p = beta_binomial(17, 200)
    pyros = dist.BetaBinomial(p.concentration1, p.concentration0, 16.0)
    x = p.enumerate_support()
    torch.testing.assert_close(p.log_prob(x), pyros.log_prob((x * 16).round()), rtol=0, atol=1e-10)
    torch.testing.assert_close(p.mean, pyros.mean / 16)


@each_family
def test_the_mean_is_that_of_the_table(family: str) -> None:
    p = FAMILIES[family](17, 100)
    torch.testing.assert_close(p.mean, (pmf_table(p) * p.enumerate_support()).sum(0), rtol=0, atol=1e-10)


def chi_square(counts: Tensor, expected: Tensor) -> tuple[float, float]:
    """Pearson's statistic over cells of at least ten expected counts (the rest pooled), and its critical value."""
    large = expected >= 10
    observed = torch.cat([counts[large], counts[~large].sum().reshape(1)])
    wanted = torch.cat([expected[large], expected[~large].sum().reshape(1)])
    if wanted[-1] < 10:  # too little for a cell of its own: add it to the largest
        cell = int(wanted[:-1].argmax())
        observed[cell] += observed[-1]
        wanted[cell] += wanted[-1]
        observed, wanted = observed[:-1], wanted[:-1]
    statistic = ((observed - wanted) ** 2 / wanted).sum().item()
    return statistic, float(chi2.isf(FALSE_ALARM / len(SAMPLED), len(wanted) - 1))


SAMPLED: dict[str, GridDistribution] = {
    "logistic, inside": DiscretizedLogistic(torch.tensor(0.4), torch.tensor(0.08), levels=17),
    "logistic, at the edge": DiscretizedLogistic(torch.tensor(1.0), torch.tensor(0.3), levels=17),
    "logistic, outside": DiscretizedLogistic(torch.tensor(-0.3), torch.tensor(0.2), levels=17),
    "logistic, binary": DiscretizedLogistic(torch.tensor(0.2), torch.tensor(0.5), levels=2),
    "beta-binomial": GridBetaBinomial(torch.tensor(2.0), torch.tensor(3.0), levels=17),
    "beta-binomial, U": GridBetaBinomial(torch.tensor(0.3), torch.tensor(0.1), levels=17),
    "beta-binomial, tiny": GridBetaBinomial(torch.tensor(2e-3), torch.tensor(1e-3), levels=17),
}


def frequencies(x: Tensor, levels: int) -> Tensor:
    return torch.bincount((x * (levels - 1)).round().long(), minlength=levels).double()


@pytest.mark.parametrize("name", SAMPLED)
def test_draws_have_the_stated_frequencies(name: str) -> None:
    """Chi-square on 100,000 draws; false alarms at 1e-6 over all cases; a shift of mass of 0.02 is detected."""
    p, num = SAMPLED[name], 100_000
    x = p.sample((num,))
    assert UnitGrid(p.levels).check(x).all()
    statistic, critical = chi_square(frequencies(x, p.levels), num * pmf_table(p).double())
    assert statistic < critical


def test_the_chi_square_catches_draws_rounded_down() -> None:
    p, num = SAMPLED["logistic, inside"], 100_000
    noise = torch.logit(torch.rand(num))
    mutant = ((p.loc + p.scale * noise) * 16).floor().clamp(0, 16) / 16
    statistic, critical = chi_square(frequencies(mutant, 17), num * pmf_table(p).double())
    assert statistic > critical


def test_the_chi_square_catches_torchs_own_draws_at_tiny_concentrations() -> None:
    p, num = SAMPLED["beta-binomial, tiny"], 100_000
    pyros = dist.BetaBinomial(p.concentration1, p.concentration0, 16.0)
    statistic, critical = chi_square(frequencies(pyros.sample((num,)) / 16, 17), num * pmf_table(p).double())
    assert statistic > critical


@each_family
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_finite_everywhere(family: str, dtype: torch.dtype) -> None:
    p = FAMILIES[family](256, 500)
    extremes = {"logistic": ([-50, 0, 1, 50], [1e-3, 1e2]), "beta-binomial": ([1e-4, 1, 1e6], [1e-4, 1, 1e6])}
    corners = torch.cartesian_prod(*(torch.tensor(axis, dtype=torch.float64) for axis in extremes[family])).T
    drawn = torch.stack([getattr(p, name) for name in p.arg_constraints])
    parameters = torch.cat([drawn, corners], 1).to(dtype).requires_grad_()
    q = type(p)(*parameters, levels=256)
    log_p = q.log_prob(q.enumerate_support())
    (gradient,) = torch.autograd.grad(log_p.sum(), parameters)
    assert log_p.isfinite().all() and gradient.isfinite().all() and (log_p <= 1e-3).all()


@each_family
def test_the_gradient_is_the_derivative(family: str) -> None:
    moderate = {"logistic": [[0.3, 1.2], [0.1, 0.7]], "beta-binomial": [[0.3, 4.0], [2.0, 0.5]]}[family]
    parameters = [torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in moderate]
    kind = type(FAMILIES[family](5, 1))
    x = kind(*parameters, levels=5).enumerate_support()
    assert torch.autograd.gradcheck(lambda *args: kind(*args, levels=5).log_prob(x), parameters)


@each_family
def test_a_batch_gives_what_a_loop_gives(family: str) -> None:
    p = FAMILIES[family](17, 3, 4)
    x = p.sample((5,))
    names = list(p.arg_constraints)
    looped = torch.stack(
        [
            type(p)(*(getattr(p, name)[i, j] for name in names), levels=17).log_prob(x[:, i, j])
            for i in range(3)
            for j in range(4)
        ],
        dim=-1,
    )
    torch.testing.assert_close(p.log_prob(x), looped.reshape(5, 3, 4), rtol=0, atol=1e-12)


@each_family
def test_it_expands_and_copies(family: str) -> None:
    p = FAMILIES[family](17, 4)
    larger = p.expand((2, 3, 4))
    assert type(larger) is type(p) and larger.batch_shape == (2, 3, 4) and larger.levels == 17
    assert larger.sample().shape == (2, 3, 4) and larger.mean.shape == (2, 3, 4)
    assert larger.enumerate_support().shape == (17, 2, 3, 4)
    assert larger.enumerate_support(expand=False).shape == (17, 1, 1, 1)
    x = p.sample((3,))
    assert torch.equal(larger.log_prob(x)[1], p.log_prob(x))
    assert torch.equal(copy.deepcopy(p).log_prob(x), p.log_prob(x))
    with pytest.raises(ValueError, match="UnitGrid"):
        larger.log_prob(torch.full((4,), 0.51, dtype=torch.float64))


@each_family
def test_pyro_enumerates_it(family: str) -> None:
    """The enumerated evidence of a grey latent equals its sum by hand."""
    p = FAMILIES[family](5)
    y = torch.tensor(0.3, dtype=torch.float64)

    def model() -> None:
        z = pyro.sample("z", p, infer={"enumerate": "parallel"})
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    loss = pyro.infer.TraceEnum_ELBO(max_plate_nesting=0).loss(model, lambda: None)
    z = p.enumerate_support()
    by_hand = torch.logsumexp(p.log_prob(z) + dist.Normal(z, 1.0).log_prob(y), 0)
    assert loss == pytest.approx(-by_hand.item(), abs=1e-10)


@pytest.mark.parametrize("levels", [2, 17, 256, 65536])
def test_every_grid_point_passes_the_check_in_float32(levels: int) -> None:
    grid = torch.arange(levels, dtype=torch.float32) / (levels - 1)
    check = UnitGrid(levels).check
    assert check(grid).all()
    assert not check(grid[:-1] + 0.3 / (levels - 1)).any()
    assert not check(
        torch.tensor([-1 / (levels - 1), 1 + 1 / (levels - 1), float("nan"), float("inf")])
    ).any()


@each_family
def test_bad_arguments_are_refused(family: str) -> None:
    kind = type(FAMILIES[family](5, 1))
    one = torch.tensor(1.0)
    with pytest.raises(InvalidInput, match="levels"):
        kind(one, one, levels=1)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="constraint"):
            kind(one, torch.tensor(bad), levels=5)
    kind(one, torch.tensor(-1.0), levels=5, validate_args=False)
    p = kind(one, one, levels=5)
    for bad in (0.3, 255.0, -0.25, float("nan")):
        with pytest.raises(ValueError, match="support"):
            p.log_prob(torch.tensor(bad))


def test_the_log_width_is_needed() -> None:
    """Mutant: without its last term the closed form no longer agrees with the differences."""
    p = DiscretizedLogistic(*torch.tensor([0.4, 0.1], dtype=torch.float64), levels=17)
    x = p.enumerate_support()[1:-1]
    above = logsigmoid((p.loc - (x - 1 / 32)) / p.scale)
    below = logsigmoid(((x + 1 / 32) - p.loc) / p.scale)
    assert ((above + below) - p.log_prob(x)).abs().min() > 0.1
