"""A chain of linear-Gaussian layers, its closed forms, and our programs put together from linear pieces.

    zL ~ N(b_L, S_L),   z_l | z_{l+1} ~ N(A_l z_{l+1} + b_l, S_l),   x = z_0 | z1 ~ N(A_0 z1 + b_0, S_0)

Sizes are random, so are all parameters; everything is float64.
"""

import pyro.distributions as dist
import torch
from torch import nn

from pyro_dgm.models import HierarchicalVAE, LadderVAE


def covariance(dim):
    root = 0.4 * torch.randn(dim, dim, dtype=torch.float64)
    return root @ root.T + torch.diag(torch.rand(dim, dtype=torch.float64) + 0.3)


def extended(mean, cov, slope, shift, noise):
    """Joint mean (..., n + m) and covariance of v, whose last entries are u, and slope u + shift + N(0, noise)."""
    size = slope.shape[1]
    cross = slope @ cov[-size:]
    corner = cross[:, -size:] @ slope.T + noise
    mean = torch.cat([mean, mean[..., -size:] @ slope.T + shift], -1)
    return mean, torch.cat([torch.cat([cov, cross.T], 1), torch.cat([cross, corner], 1)])


class Chain:
    """Random chain with L latents, and the exact conditionals of its posterior in both directions.

    ``stretch`` and ``shift`` perturb a guide: covariances times stretch, locs plus shift times noise of their own.
    """

    def __init__(self, num_layers, seed, *, dims=None, stretch=1.0, shift=0.0):
        torch.manual_seed(seed)
        self.dims = dims or [int(d) for d in torch.randint(2, 5, (num_layers + 1,))]  # x, z1 .. zL
        self.num_layers, self.stretch = num_layers, stretch
        double = {"dtype": torch.float64}
        self.slopes = [torch.randn(a, b, **double) for a, b in zip(self.dims, self.dims[1:], strict=False)]
        self.shifts = [torch.randn(d, **double) for d in self.dims]
        self.noises = [covariance(d) for d in self.dims]
        self.moved = [shift * torch.randn(d, **double) for d in self.dims]
        self.x = 2 * torch.randn(4, self.dims[0], **double)
        self.marginals = [(self.shifts[-1], self.noises[-1])]  # of zL, z_{L-1} .. z1, x
        for slope, b, noise in zip(self.slopes[::-1], self.shifts[-2::-1], self.noises[-2::-1], strict=True):
            loc, cov = self.marginals[-1]
            self.marginals.append((slope @ loc + b, slope @ cov @ slope.T + noise))
        self.marginals.reverse()
        self.messages = self._messages()

    def log_prob(self, x):
        """Closed-form log p(x), of the marginal covariance."""
        return dist.MultivariateNormal(*self.marginals[0]).log_prob(x)

    def _messages(self):
        """p(x | z_l) as exp(-z'J z/2 + (G x + c)'z + const): (J, G, c) for l = 1 .. L, by recursion from the data."""
        precision = torch.linalg.inv(self.noises[0])
        slope = self.slopes[0]
        found = [(slope.T @ precision @ slope, slope.T @ precision, -slope.T @ precision @ self.shifts[0])]
        for layer in range(1, self.num_layers):
            j, g, c = found[-1]
            slope, b, noise = self.slopes[layer], self.shifts[layer], self.noises[layer]
            gain = slope.T @ torch.linalg.inv(torch.eye(len(j)).double() + j @ noise)
            found.append((gain @ j @ slope, gain @ g, gain @ (c - j @ b)))
        return found

    def log_prob_by_recursion(self, x):
        """Log p(x) = log p(x, z) - log p(z | x) at random z, the posterior from the messages."""
        z, total = None, 0.0
        for layer in range(self.num_layers, 0, -1):
            slope, shift, noise = self.top_down(layer, exact=True)
            loc = shift(x) if z is None else z @ slope.T + shift(x)
            parent, z = z, torch.randn(len(x), self.dims[layer], dtype=torch.float64)
            total = total + self.prior(layer, parent).log_prob(z)
            total = total - dist.MultivariateNormal(loc, noise).log_prob(z)
        return total + self.prior(0, z).log_prob(x)

    def prior(self, layer, parent):
        loc = self.shifts[layer] if parent is None else parent @ self.slopes[layer].T + self.shifts[layer]
        return dist.MultivariateNormal(loc, self.noises[layer])

    def top_down(self, layer, *, exact=False):
        """q(z_l | z_{l+1}, x) = N(slope z_{l+1} + shift(x), noise); no slope at the top."""
        j, g, c = self.messages[layer - 1]
        prior = torch.linalg.inv(self.noises[layer])
        cov = torch.linalg.inv(prior + j)
        moved = 0.0 if exact else self.moved[layer]
        slope = cov @ prior @ self.slopes[layer] if layer < self.num_layers else None
        shift = lambda x: (x @ g.T + c + prior @ self.shifts[layer]) @ cov.T + moved  # noqa: E731
        return slope, shift, cov * (1.0 if exact else self.stretch)

    def bottom_up(self, layer):
        """q(z_l | z_{l-1}) = N(slope z_{l-1} + shift, noise), exact for l > 1 as for x: a chain seen from below."""
        (below, cov_below), (loc, cov) = self.marginals[layer - 1 : layer + 1]
        gain = cov @ self.slopes[layer - 1].T @ torch.linalg.inv(cov_below)
        noise = cov - gain @ self.slopes[layer - 1] @ cov
        return gain, loc - gain @ below + self.moved[layer], noise * self.stretch

    # ---- joint distributions of latents, for the divergences in closed form

    def joint_prior(self, lowest=1):
        """p(zL .. z_lowest), in this order."""
        mean, cov = self.shifts[-1], self.noises[-1]
        for layer in range(self.num_layers - 1, lowest - 1, -1):
            mean, cov = extended(mean, cov, self.slopes[layer], self.shifts[layer], self.noises[layer])
        return dist.MultivariateNormal(mean, cov)

    def joint_top_down(self, lowest=1, *, exact=False):
        """q(zL .. z_lowest | x), in this order; exact is p(zL .. z_lowest | x)."""
        _, shift, cov = self.top_down(self.num_layers, exact=exact)
        mean = shift(self.x)
        for layer in range(self.num_layers - 1, lowest - 1, -1):
            slope, shift, noise = self.top_down(layer, exact=exact)
            mean, cov = extended(mean, cov, slope, shift(self.x), noise)
        return dist.MultivariateNormal(mean, cov)

    def joint_bottom_up(self):
        """q(zL .. z1 | x) of the guide from below, in this order."""
        gain, shift, cov = self.bottom_up(1)
        mean = self.x @ gain.T + shift
        for layer in range(2, self.num_layers + 1):
            mean, cov = extended(mean, cov, *self.bottom_up(layer))
        blocks = torch.arange(len(cov)).split(self.dims[1:])
        order = torch.cat(blocks[::-1])
        return dist.MultivariateNormal(mean[:, order], cov[order][:, order])

    # ---- our programs

    def hierarchical(self, program=HierarchicalVAE):
        layers = range(1, self.num_layers + 1)
        posteriors = [LinearNormal(*self.bottom_up(layer)) for layer in layers]
        return program(self.dims[:1], self.dims[1:], posteriors=posteriors, **self._generative()).double()

    def ladder(self, program=LadderVAE):
        merged = [
            Merged(self.messages[layer - 1][0], self.moved[layer], self.stretch)
            for layer in range(1, self.num_layers + 1)
        ]
        return program(
            self.dims[:1],
            self.dims[1:],
            width=self.dims[-1],
            encoder=Messages([(g, c) for _, g, c in self.messages]),
            blocks=[TakeLatent() for _ in merged],
            posteriors=merged,
            **self._generative(),
        ).double()

    def _generative(self):
        inner = zip(self.slopes[1:], self.shifts[1:], self.noises[1:], strict=False)
        return {
            "conditionals": [LinearNormal(*parts) for parts in inner],
            "prior": Fixed(self.shifts[-1], self.noises[-1]),
            "decoder": Affine(self.slopes[0], self.shifts[0]),
            "observation": Noise(self.noises[0]),
        }


class Constants(nn.Module):
    """A module of constants, which follow ``double()``."""

    def __init__(self, **tensors):
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


class LinearNormal(Constants):
    def __init__(self, slope, shift, noise):
        super().__init__(slope=slope, shift=shift, noise=noise)

    def forward(self, v):
        return dist.MultivariateNormal(v @ self.slope.T + self.shift, self.noise)


class Fixed(Constants):
    def __init__(self, loc, cov):
        super().__init__(loc=loc, cov=cov)

    def forward(self):
        return dist.MultivariateNormal(self.loc, self.cov)


class Affine(Constants):
    def __init__(self, slope, shift):
        super().__init__(slope=slope, shift=shift)

    def forward(self, z):
        return (z @ self.slope.T + self.shift).unsqueeze(-2)


class Noise(Constants):
    num_params = 1

    def __init__(self, cov):
        super().__init__(cov=cov)

    def forward(self, params):
        return dist.MultivariateNormal(params.squeeze(-2), self.cov)


class TakeLatent(nn.Module):
    """The block of a Markov chain: what is above counts only through z."""

    def forward(self, h, z):
        return z


class Messages(nn.Module):
    """Features: linear term of each message."""

    def __init__(self, terms):
        super().__init__()
        self.terms = nn.ModuleList(Constants(g=g, c=c) for g, c in terms)

    def forward(self, x):
        return [x @ term.g.T + term.c for term in self.terms]


class Merged(Constants):
    """Product of a multivariate normal p and a message, moved and stretched."""

    def __init__(self, j, moved, stretch):
        super().__init__(j=j, moved=moved)
        self.stretch = stretch

    def forward(self, p, d):
        cov = torch.linalg.inv(p.precision_matrix + self.j)
        loc = (cov @ (p.precision_matrix @ p.mean.unsqueeze(-1) + d.unsqueeze(-1))).squeeze(-1)
        return dist.MultivariateNormal(loc + self.moved, cov * self.stretch)
