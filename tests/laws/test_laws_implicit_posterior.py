"""Laws of the implicit importance-weighted posterior q_EW, on a one-dimensional pair where sums do as integrals.

Statistical laws bound a standard score by 5 (false alarm 6e-7 each).
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ImplicitPosterior

DRAWS = 40_000
X = torch.tensor([0.7, -1.1], dtype=torch.float64)
GRID = torch.linspace(-9, 9, 2001, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z**2 / 2, 0.6), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.3 * x, 1.3))


def looped(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        assert z.shape == x.shape  # takes no dimension of particles
        pyro.sample("x", dist.Normal(z**2 / 2, 0.6), obs=x)


def log_densities(z):
    """log p(x, z) and log q(z | x), written out: (..., batch)."""
    log_p = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z**2 / 2, 0.6).log_prob(X)
    return log_p, dist.Normal(0.3 * X, 1.3).log_prob(z)


def density_by_quadrature():
    """q_EW on the grid for two particles, the other one integrated out: (grid, batch)."""
    z = GRID[:, None]
    (log_p, log_q), step = log_densities(z), GRID[1] - GRID[0]
    w = log_p - log_q
    pairs = torch.logaddexp(w[:, None], w[None]) - math.log(2)  # (grid, other, batch)
    return (log_p[:, None] - pairs + log_q[None]).exp().sum(1) * step


def law_the_density_is_the_integral(q_ew):
    exact = density_by_quadrature()
    assert torch.allclose(exact.sum(0) * (GRID[1] - GRID[0]), torch.ones(2), atol=1e-6)
    few = GRID[700:1301:50, None].expand(-1, 2)
    estimates = torch.stack(
        [q_ew(model, guide, 2).log_prob({"z": few}, num_draws=500).exp() for _ in range(40)]
    )
    score = (estimates.mean(0) - exact[700:1301:50]) / (estimates.std(0) / math.sqrt(40))
    # 40 means of 500 draws: the t-distribution with 39 degrees of freedom is beyond 7 with probability 2e-8.
    assert score.abs().max() < 7


def law_draws_have_its_moments(q_ew):
    z = q_ew(model, guide, 2).sample(DRAWS)["z"]
    exact, step = density_by_quadrature(), GRID[1] - GRID[0]
    for power in (1, 2, 4):
        mean = (GRID[:, None] ** power * exact).sum(0) * step
        sample = z**power
        assert ((sample.mean(0) - mean) / (sample.std(0) / math.sqrt(DRAWS))).abs().max() < 5


def law_one_particle_is_the_guide(q_ew):
    q = q_ew(model, guide, 1)
    z = q.sample(DRAWS)["z"]
    assert ((z.mean(0) - 0.3 * X) / (1.3 / math.sqrt(DRAWS))).abs().max() < 5
    assert torch.allclose(q.log_prob({"z": z[:9]}), log_densities(z[:9])[1])


def law_its_bound_is_at_least_the_importance_weighted_one(q_ew):
    exact, step = density_by_quadrature(), GRID[1] - GRID[0]
    log_p, log_q = log_densities(GRID[:, None])
    elbo = (exact * (log_p - exact.clamp(min=1e-300).log())).sum(0) * step
    w, q = log_p - log_q, log_q.exp()
    pair = torch.logaddexp(w[:, None], w[None]) - math.log(2)
    iwae = (q[:, None] * q[None] * pair).sum((0, 1)) * step**2
    evidence = (log_p.exp().sum(0) * step).log()
    assert ((iwae < elbo) & (elbo < evidence)).all()
    z = q_ew(model, guide, 2).sample(4000)
    log_ratio = log_densities(z["z"])[0] - q_ew(model, guide, 2).log_prob(z, num_draws=2000)
    # The estimate of log q_EW is too low by about its variance / 2, here below 1e-3.
    assert ((log_ratio.mean(0) - elbo).abs() < 5 * log_ratio.std(0) / math.sqrt(4000) + 2e-3).all()


def law_many_particles_give_the_posterior(q_ew):
    z = q_ew(model, guide, 500).sample(4000)["z"]
    log_p, _ = log_densities(GRID[:, None])
    posterior = log_p.softmax(0)
    mean = (GRID[:, None] ** 2 * posterior).sum(0)
    # A draw of 500 is biased by about 1 / 500 of the spread.
    assert ((z**2).mean(0) - mean).abs().max() < 5 * (z**2).std() / math.sqrt(4000) + 0.01


def law_a_pair_that_is_looped_gives_the_same(q_ew):
    with pytest.warns(UserWarning, match="one after the other"):
        q = q_ew(looped, guide, 2)
    z = torch.randn(3, 2)
    reference = torch.stack([q.log_prob({"z": z}, num_draws=100).exp() for _ in range(20)])
    other = torch.stack([q_ew(model, guide, 2).log_prob({"z": z}, num_draws=100).exp() for _ in range(20)])
    spread = (reference.var(0) / 20 + other.var(0) / 20).sqrt()
    assert (
        (reference.mean(0) - other.mean(0)) / spread
    ).abs().max() < 8  # t with about 38 degrees of freedom
    assert q.sample(3)["z"].shape == (3, 2)


def truth(model, guide, num_particles):
    return ImplicitPosterior(model, guide, X, num_particles=num_particles)


class Unweighted(ImplicitPosterior):
    def _particles(self, most):
        log_w, values = super()._particles(most)
        return torch.zeros_like(log_w), values


class Inverted(ImplicitPosterior):
    def _particles(self, most):
        log_w, values = super()._particles(most)
        return -log_w, values


class OneTooMany(ImplicitPosterior):
    def _particles(self, most):
        log_w, values = super()._particles(most)
        return torch.cat([log_w, log_w[:, -1:]], 1), {
            n: torch.cat([v, v[:, -1:]], 1) for n, v in values.items()
        }


def mutant(kind):
    return lambda model, guide, num_particles: kind(model, guide, X, num_particles=num_particles)


LAWS = {
    law_the_density_is_the_integral: [Unweighted, Inverted, OneTooMany],
    law_draws_have_its_moments: [Unweighted, Inverted],
    law_its_bound_is_at_least_the_importance_weighted_one: [Unweighted, Inverted],
    law_many_particles_give_the_posterior: [Unweighted, Inverted],
    law_one_particle_is_the_guide: [],
    law_a_pair_that_is_looped_gives_the_same: [],
}
MUTANTS = [(law, kind) for law, kinds in LAWS.items() for kind in kinds]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_holds(law):
    law(truth)


@pytest.mark.parametrize(("law", "kind"), MUTANTS, ids=lambda part: part.__name__)
def test_law_catches_mutant(law, kind):
    with pytest.raises(AssertionError):
        law(mutant(kind))


def test_bad_input_is_one_line():
    with pytest.raises(InvalidInput, match="num_particles"):
        truth(model, guide, 0)
    q = truth(model, guide, 2)
    with pytest.raises(InvalidInput, match="num_particles"):
        q.sample(0)
    with pytest.raises(InvalidInput, match="draws of z"):
        q.log_prob({"y": torch.zeros(3, 2)})
