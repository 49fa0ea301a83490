"""The variational autoencoder with several stochastic layers and a bottom-up guide."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_dgm.distributions import BernoulliObservation, DiagonalNormal, StandardNormal
from pyro_dgm.models.chaining import layer_sizes, require_chain, require_lengths
from pyro_dgm.models.defaults import mean_or_draw, mlp_decoder
from pyro_dgm.nets import MLP, FlattenEvent
from pyro_dgm.program import Program


class HierarchicalVAE(Program):
    r"""Variational autoencoder with L stochastic layers, each a Markov step from the next, and a bottom-up guide.

    .. math:: p(x, z_1 \dots z_L) = p(z_L) \prod_{l=1}^{L-1} p(z_l \mid z_{l+1})\; p(x \mid z_1), \qquad
              q(z_1 \dots z_L \mid x) = q(z_1 \mid x) \prod_{l=1}^{L-1} q(z_{l+1} \mid z_l)

    The model draws zL first and the guide z1 first, so ``ELBO(kl="analytic")`` refuses the pair; bounds by draws
    (``ELBO()``, ``IWAE``) are what it is for. The upper layers of a deep one tend to collapse: see
    :class:`~pyro_dgm.models.LadderVAE`, whose guide goes the model's way.

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        latent_dims: numbers of latent dimensions of z1 .. zL, from the data up.
        hidden: widths of the hidden layers between x and z1, between z1 and z2, and so on, of the default networks
            upwards; downwards in reverse. By default (200, 200), then (100, 100) between latents.
        activation: makes one activation layer of the default networks.
        posteriors: L pieces, q(z1 | x), then q(z_{l+1} | z_l): modules from a tensor to a distribution.
        conditionals: L - 1 pieces p(z_l | z_{l+1}).
        prior: piece p(zL); a standard normal by default.
        decoder: network from z1 (..., latent_dims[0]) to the observation's (..., num_params, *data_shape).
        observation: piece p(x | params); Bernoulli pixels by default.

    Raises:
        InvalidInput: no layers, a size below 1, lists of another length, or pieces that do not fit one another,
            by name.

    Example:
        >>> import torch
        >>> vae = HierarchicalVAE((1, 8, 8), (6, 4), hidden=((32,), (16,)))
        >>> vae.sample(3).shape, vae.encode(torch.zeros(5, 1, 8, 8)).event_shape
        (torch.Size([3, 1, 8, 8]), torch.Size([6]))

    Reference:
        Rezende, Mohamed and Wierstra, "Stochastic backpropagation and approximate inference in deep generative
        models", 2014 (deep latent Gaussian models).
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016 (two stochastic layers).
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dims: Sequence[int],
        *,
        hidden: Sequence[Sequence[int]] | None = None,
        activation: Callable[[], nn.Module] = nn.Tanh,
        posteriors: Sequence[nn.Module] | None = None,
        conditionals: Sequence[nn.Module] | None = None,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        data_shape, dims = layer_sizes(data_shape, latent_dims)
        require_lengths(
            {
                "hidden": (hidden, len(dims)),
                "posteriors": (posteriors, len(dims)),
                "conditionals": (conditionals, len(dims) - 1),
            }
        )
        if hidden is None:
            hidden = [(200, 200), *[(100, 100)] * (len(dims) - 1)]
        between, upper = list(pairwise(dims)), hidden[1:]
        if posteriors is None:
            first = nn.Sequential(
                FlattenEvent(data_shape), _normal(math.prod(data_shape), hidden[0], dims[0], activation)
            )
            posteriors = [
                first,
                *(_normal(a, w, b, activation) for (a, b), w in zip(between, upper, strict=True)),
            ]
        if conditionals is None:
            conditionals = [
                _normal(b, w[::-1], a, activation) for (a, b), w in zip(between, upper, strict=True)
            ]
        self.posteriors, self.conditionals = nn.ModuleList(posteriors), nn.ModuleList(conditionals)
        self.prior = StandardNormal(dims[-1]) if prior is None else prior
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        if decoder is None:
            decoder = mlp_decoder(dims[0], hidden[0], self.observation, data_shape, activation)
        self.decoder = decoder
        require_chain(
            self, HierarchicalVAE, {"x": data_shape} | {f"z{i}": (dim,) for i, dim in enumerate(dims, 1)}
        )

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(zL) ... p(z1 | z2) p(x | z1); ``x`` (batch, *data_shape), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample(f"z{len(self.posteriors)}", self.prior())
            for layer in range(len(self.conditionals), 0, -1):
                z = pyro.sample(f"z{layer}", self.conditionals[layer - 1](z))
            return pyro.sample("x", self.observation(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z1 | x) q(z2 | z1) ... q(zL | z_{L-1})."""
        pyro.module(self.pyro_name, self)
        below = x
        with pyro.plate("data", len(x)):
            for layer, posterior in enumerate(self.posteriors, 1):
                below = pyro.sample(f"z{layer}", posterior(below))

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z1 | x), batch shape (batch,), event shape (latent_dims[0],)."""
        return self.posteriors[0](x)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z1) at the mean of q(z1 | x); same shape as ``x``."""
        return mean_or_draw(self.observation(self.decoder(mean_or_draw(self.encode(x)))))

    def sample(self, num: int, *, mean: bool = False) -> Tensor:
        """``num`` draws of x (num, *data_shape), or with ``mean`` the means of p(x | z1)."""
        z = self.prior().sample((num,))
        for conditional in reversed(self.conditionals):
            z = conditional(z).sample()
        observation = self.observation(self.decoder(z))
        return observation.mean if mean else observation.sample()


def _normal(
    in_features: int, hidden: Sequence[int], dim: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    """Diagonal normal whose parameters are a multilayer perceptron of the input."""
    if not hidden:
        return DiagonalNormal(in_features, dim)
    mlp = MLP(in_features, hidden[:-1], hidden[-1], activation=activation)
    return nn.Sequential(mlp, activation(), DiagonalNormal(hidden[-1], dim))
