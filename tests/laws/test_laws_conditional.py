"""Laws of conditional models on a linear-Gaussian one, whose log p(x | y) and p(z | x, y) are known; float64.

    z | y ~ N(M c, diag(s(c))^2),   x | z, y ~ N(W z + A c + b, sigma^2 I),   c = context(y)

With the exact posterior as guide, each one-sample bound equals log p(x | y) to 1e-10. A mutant ignores y at one place.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal
from pyro_dgm.models import CVAE
from pyro_dgm.nets import OneHot
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, log_weights

D, L, K, C, B = 5, 2, 3, 3, 8


class Noise(nn.Module):
    """x ~ N(params, sigma^2 I)."""

    num_params = 1

    def __init__(self):
        super().__init__()
        self.register_buffer("sigma", torch.tensor(0.7))

    def forward(self, params):
        return dist.Normal(params.squeeze(-2), self.sigma).to_event(1)


class Affine(nn.Module):
    """[z, c] to W z + A c + b; a mutant has no c."""

    def __init__(self, sees=1.0):
        super().__init__()
        self.loadings = nn.Parameter(torch.randn(D, L))
        self.shifts = nn.Parameter(torch.randn(D, C))
        self.bias = nn.Parameter(torch.randn(D))
        self.sees = sees

    def forward(self, joined):
        z, c = joined.split([L, C], dim=-1)
        return (z @ self.loadings.T + self.sees * c @ self.shifts.T + self.bias).unsqueeze(-2)


class Exact(nn.Module):
    """p(z | x, y) from [x, c] by completing the square; a mutant sees no c, or not in the prior."""

    def __init__(self, decoder, prior, sigma, *, sees=1.0, sees_prior=1.0):
        super().__init__()
        self.parts = {
            "decoder": decoder,
            "prior": prior,
            "sigma": sigma,
        }  # no submodules: they are the model's
        self.sees, self.sees_prior = sees, sees_prior

    def forward(self, joined):
        x, c = joined.split([D, C], dim=-1)
        c = self.sees * c
        decoder, p, variance = (
            self.parts["decoder"],
            self.parts["prior"](self.sees_prior * c),
            self.parts["sigma"] ** 2,
        )
        precision = torch.diag_embed(1 / p.variance) + decoder.loadings.T @ decoder.loadings / variance
        residual = x - c @ decoder.shifts.T - decoder.bias
        linear = p.mean / p.variance + residual @ decoder.loadings / variance
        mean = torch.linalg.solve(precision, linear.unsqueeze(-1)).squeeze(-1)
        return dist.MultivariateNormal(mean, precision_matrix=precision)


def made(context, sizes, *, decoder=1.0, **sees):
    """A program with its exact posterior, and the closed form of log p(x | y)."""
    prior, affine, noise = DiagonalNormal(C, L).double(), Affine(decoder).double(), Noise().double()
    nn.init.normal_(prior.head.weight)
    cvae = CVAE(
        (D,),
        latent_dim=L,
        **sizes,
        context=context,
        context_features=C,
        encoder=nn.Identity(),
        decoder=affine,
        prior=prior,
        posterior=Exact(affine, prior, noise.sigma, **sees),
        observation=noise,
    ).double()

    def log_prob(x, y):
        c = context(y)
        p = prior(c)
        mean = p.mean @ affine.loadings.T + c @ affine.shifts.T + affine.bias
        scaled = affine.loadings * p.stddev.unsqueeze(-2)
        covariance = scaled @ scaled.mT + noise.sigma**2 * torch.eye(D, dtype=torch.float64)
        return dist.MultivariateNormal(mean, covariance).log_prob(x)

    return cvae, log_prob


def of_labels(**mutation):
    program = made(OneHot(K).double(), {"num_classes": K}, **mutation)
    return *program, torch.randint(0, K, (B,))


def of_vectors(**mutation):
    network = nn.Sequential(nn.Linear(4, C), nn.Tanh()).double()
    program = made(network, {"num_classes": None, "context_shape": (4,)}, **mutation)
    return *program, torch.randn(B, 4, dtype=torch.float64)


BOUNDS = {
    "weights": lambda p, x, y: log_weights(p.model, p.guide, x, y, num_particles=3).sum(-1),
    "ELBO": lambda p, x, y: -ELBO()(p.model, p.guide, x, y),
    "IWAE": lambda p, x, y: -IWAE(4)(p.model, p.guide, x, y),
    "Pyro": lambda p, x, y: -PyroELBO(pyro.infer.Trace_ELBO())(p.model, p.guide, x, y),
}
KINDS = {"labels": of_labels, "vectors": of_vectors}
MUTANTS = {
    "guide ignores y": {"sees": 0.0},
    "guide ignores the prior's y": {"sees_prior": 0.0},
    "decoder ignores y": {"decoder": 0.0},
}


def law_exact_posterior_has_no_variance(make, bound, **mutation):
    """One sample, or the mean weight of several, is log p(x | y), for data from the model and from elsewhere."""
    for seed in range(2):
        torch.manual_seed(seed)
        program, log_prob, y = make(**mutation)
        with torch.no_grad():
            for x in (torch.randn(B, D, dtype=torch.float64), program.model(y=y)):
                assert (bound(program, x, y) - log_prob(x, y).sum()).abs().max() < 1e-10


@pytest.mark.parametrize("bound", BOUNDS.values(), ids=BOUNDS)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_law_holds(make, bound):
    law_exact_posterior_has_no_variance(make, bound)


@pytest.mark.parametrize("mutation", MUTANTS.values(), ids=MUTANTS)
@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_law_catches_mutant(make, mutation):
    with pytest.raises(AssertionError):
        law_exact_posterior_has_no_variance(make, BOUNDS["ELBO"], **mutation)
