"""Probabilistic principal component analysis: the VAE whose every quantity has a closed form."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.program import Program


class PPCA(Program):
    r"""Probabilistic principal component analysis, the linear-Gaussian VAE.

    .. math:: z \sim \mathcal N(0, I), \qquad x \mid z \sim \mathcal N(W z + \mu, \sigma^2 I)

    The exact log p(x) and the exact posterior are methods, which makes it the yardstick for every bound: with the
    exact posterior as guide (the default) each one-sample ELBO equals log p(x).

    Args:
        data_dim: number of data dimensions D, or a data shape with D elements.
        latent_dim: number of latent dimensions L.
        posterior: module that maps x (batch, D) to a distribution over z with event shape (L,); the exact
            posterior if None.

    Raises:
        InvalidInput: a dimension below 1.

    Example:
        >>> import torch
        >>> ppca = PPCA(data_dim=5, latent_dim=2)
        >>> x = ppca.model(n=7)
        >>> ppca.log_prob(x).shape, ppca.exact_posterior(x).event_shape
        (torch.Size([7]), torch.Size([2]))

    Reference:
        Tipping and Bishop, "Probabilistic principal component analysis", 1999.
    """

    def __init__(
        self, data_dim: int | tuple[int, ...], latent_dim: int, *, posterior: nn.Module | None = None
    ) -> None:
        super().__init__()
        data_dim = data_dim if isinstance(data_dim, int) else math.prod(data_dim)
        for name, value in (("data_dim", data_dim), ("latent_dim", latent_dim)):
            if value < 1:
                raise InvalidInput("no dimensions", where=name, value=value, expected="an integer >= 1")
        self.latent_dim = latent_dim
        self.loadings = nn.Parameter(torch.randn(data_dim, latent_dim) / math.sqrt(latent_dim))  # W
        self.mean = nn.Parameter(torch.zeros(data_dim))  # mu
        self.log_scale = nn.Parameter(torch.zeros(()))  # log sigma
        self.posterior = posterior

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(z) p(x | z); ``x`` (batch, D), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        zero = self.mean.new_zeros(self.latent_dim)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            mean = z @ self.loadings.T + self.mean
            return pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.exact_posterior(x) if self.posterior is None else self.posterior(x))

    def marginal(self) -> dist.MultivariateNormal:
        """Exact p(x), with covariance W W' + sigma^2 I; event shape (D,)."""
        noise = torch.eye(len(self.mean)).to(self.mean) * (2 * self.log_scale).exp()
        return dist.MultivariateNormal(self.mean, self.loadings @ self.loadings.T + noise)

    def log_prob(self, x: Tensor) -> Tensor:
        """Exact log p(x) in nats; ``x`` (batch, D) to (batch,)."""
        return self.marginal().log_prob(x)

    def exact_posterior(self, x: Tensor) -> dist.MultivariateNormal:
        """Exact p(z | x); ``x`` (batch, D) to batch shape (batch,), event shape (L,)."""
        variance = (2 * self.log_scale).exp()
        precision = torch.eye(self.latent_dim).to(self.mean) + self.loadings.T @ self.loadings / variance
        mean = torch.linalg.solve(precision, self.loadings.T @ (x - self.mean).mT / variance).mT
        return dist.MultivariateNormal(mean, precision_matrix=precision)
