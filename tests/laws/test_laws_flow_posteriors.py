"""A trained flow posterior never reports a bound above log p(x), which probabilistic PCA knows exactly.

The mean of 100,000 draws of log p(x, z) - log q(z | x) is at most log p(x) plus four of its standard errors: a false
alarm in 3e4 runs of one posterior that is exact, none of one that is not. Pyro's Sylvester map, trained in the same
way, must fail, since its log-determinant is another map's.
"""

import pyro
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import (
    DiagonalNormal,
    FlowPosterior,
    iaf_posterior,
    planar_posterior,
    sylvester_posterior,
)
from pyro_dgm.distributions.transforms import Chain, Planar
from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, log_weights
from tests.laws.test_laws_transforms import PyroSylvester

FEATURES, LATENT, DRAWS = 5, 3, 100_000
POSTERIORS = {
    "planar": lambda: planar_posterior(FEATURES, LATENT, num_layers=4),
    **{
        f"sylvester_{kind}": lambda kind=kind: sylvester_posterior(FEATURES, LATENT, num_layers=2, kind=kind)
        for kind in ("orthogonal", "householder", "triangular")
    },
    "iaf": lambda: iaf_posterior(FEATURES, LATENT, num_layers=2, hidden=(16,)),
}


class Trained(nn.Module):
    """The model of a fixed PPCA and a guide of any posterior, which sees the data themselves."""

    def __init__(self, posterior, *, steps):
        super().__init__()
        torch.manual_seed(0)
        self.ppca = PPCA(data_dim=FEATURES, latent_dim=LATENT).double()
        self.posterior = posterior.double()
        self.x = self.ppca.model(n=8).detach()
        optimizer = torch.optim.Adam(self.posterior.parameters(), 5e-3)
        bound = ELBO(num_particles=10)
        for _ in range(steps):
            optimizer.zero_grad()
            bound(self.ppca.model, self.guide, self.x).backward()
            optimizer.step()

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    def excess(self):
        """The greatest bound of a datum over its log p(x), in standard errors."""
        with torch.no_grad():
            weights = log_weights(self.ppca.model, self.guide, self.x, num_particles=DRAWS)
            error = weights.std(0) / DRAWS**0.5
            return ((weights.mean(0) - self.ppca.log_prob(self.x)) / error).max().item()

    def gap(self):
        """The mean of log p(x) less the bound, in nats."""
        with torch.no_grad():
            weights = log_weights(self.ppca.model, self.guide, self.x, num_particles=1000)
            return (self.ppca.log_prob(self.x) - weights.mean(0)).mean().item()


@pytest.mark.parametrize("name", POSTERIORS)
def test_no_bound_of_a_trained_flow_posterior_is_above_the_likelihood(name):
    torch.manual_seed(0)
    trained = Trained(POSTERIORS[name](), steps=300)
    for part in trained.posterior.bijection.parts:
        if isinstance(part, Planar):
            assert part._parts(trained.x)[3].min().item() >= -1  # w.u, of every datum
    assert trained.excess() < 4
    assert trained.gap() < 0.7  # a diagonal normal posterior that is as good as can be leaves more


def test_pyros_sylvester_reports_more_than_there_is():
    torch.manual_seed(0)
    maps = [PyroSylvester(LATENT, context_features=FEATURES) for _ in range(2)]
    trained = Trained(FlowPosterior(DiagonalNormal(FEATURES, LATENT), Chain(maps)), steps=300)
    assert trained.excess() > 100
    assert trained.gap() < -1
