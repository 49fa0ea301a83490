"""The variational autoencoder with several stochastic layers and a top-down guide that shares the model's path."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import (
    BernoulliObservation,
    DiagonalNormal,
    MergedNormal,
    StandardNormal,
)
from pyro_dgm.models.chaining import layer_sizes, require_chain, require_lengths
from pyro_dgm.models.defaults import params_shape
from pyro_dgm.nets import MLP, ResidualMLP, ResidualTower
from pyro_dgm.program import Program
from pyro_dgm.shapes import positive_sizes


class LadderVAE(Program):
    r"""Variational autoencoder with L stochastic layers, whose guide goes down the model's own deterministic path.

    .. math:: h_l = \mathrm{block}_l(h_{l+1}, z_l), \qquad
              p(x, z) = p(z_L) \prod_{l=1}^{L-1} p(z_l \mid h_{l+1})\; p(x \mid h_1), \qquad
              q(z_l \mid z_{l+1} \dots z_L, x) \propto p(z_l \mid h_{l+1})\, \hat q(z_l \mid d_l(x))

    The encoder gives features :math:`d_1 \dots d_L` of the data from the bottom up; the guide merges what they say of
    each latent with the model's conditional, weighted by precision. Sites come in one order, zL first, so
    ``ELBO(kl="analytic")`` has the divergence of each layer in closed form. Blocks are residual,
    :math:`h_l = h_{l+1} + f(h_{l+1}, z_l)`, with a branch that starts :math:`1/\sqrt{L}` as large as a single one
    would, and the conditionals' scales have a floor. By the skip path the data hear zL from the first step, however
    many layers there are below it. Since h carries all latents above, p and q are not Markov, other than in
    :class:`~pyro_dgm.models.HierarchicalVAE`. It does not by itself keep every layer in use: without annealing of the
    divergence, layers may collapse (``pyro_dgm.diagnostics.collapse`` shows which).

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        latent_dims: numbers of latent dimensions of z1 .. zL, from the data up.
        width: size of h and of the features d of the default networks.
        activation: makes one activation layer of the default networks.
        scale_floor: the smallest scale of the default conditionals, in units of z.
        encoder: network from data to a sequence of L features, from the data up.
        blocks: L networks from (h, z_l) to the next h; ResidualMLP by default.
        conditionals: L - 1 pieces p(z_l | h), from h to a distribution.
        posteriors: L pieces q(z_l | p, d_l), from a conditional (or the prior) and features to a distribution;
            MergedNormal by default, which needs normal p.
        prior: piece p(zL); a standard normal by default.
        decoder: network from h (..., width) to the observation's (..., num_params, *data_shape).
        observation: piece p(x | params); Bernoulli pixels by default.

    Raises:
        InvalidInput: no layers, a size below 1, lists of another length, or pieces that do not fit one another,
            by name.

    Example:
        >>> vae = LadderVAE((1, 8, 8), (8, 4, 2), width=32)
        >>> vae.sample(3).shape, vae.reconstruct(torch.zeros(5, 1, 8, 8)).shape
        (torch.Size([3, 1, 8, 8]), torch.Size([5, 1, 8, 8]))

    Reference:
        Sonderby, Raiko, Maaloe, Sonderby and Winther, "Ladder variational autoencoders", 2016.
        Kingma et al., "Improving variational inference with inverse autoregressive flow", 2016 (a deterministic
        path beside the latents).
        Child, "Very deep VAEs generalize autoregressive models and can outperform them on images", 2021.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dims: Sequence[int],
        *,
        width: int = 200,
        activation: Callable[[], nn.Module] = nn.ReLU,
        scale_floor: float = 1e-2,
        encoder: nn.Module | None = None,
        blocks: Sequence[nn.Module] | None = None,
        conditionals: Sequence[nn.Module] | None = None,
        posteriors: Sequence[nn.Module] | None = None,
        prior: nn.Module | None = None,
        decoder: nn.Module | None = None,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        data_shape, dims = layer_sizes(data_shape, latent_dims)
        positive_sizes((width,), "width")
        num = len(dims)
        require_lengths(
            {
                "blocks": (blocks, num),
                "conditionals": (conditionals, num - 1),
                "posteriors": (posteriors, num),
            }
        )
        if encoder is None:
            encoder = ResidualTower(data_shape, width, num, activation=activation)
        if blocks is None:
            gain = 1 / math.sqrt(num)
            blocks = [ResidualMLP(width, dim, gain=gain, activation=activation) for dim in dims]
        if conditionals is None:
            conditionals = [DiagonalNormal(width, dim, scale_floor=scale_floor) for dim in dims[:-1]]
        if posteriors is None:
            posteriors = [MergedNormal(width, dim) for dim in dims]
        self.encoder = encoder
        self.blocks, self.conditionals = nn.ModuleList(blocks), nn.ModuleList(conditionals)
        self.posteriors = nn.ModuleList(posteriors)
        self.prior = StandardNormal(dims[-1]) if prior is None else prior
        self.top = nn.Parameter(torch.zeros(width))  # h above the first latent
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        if decoder is None:
            out_shape = params_shape(self.observation, data_shape)
            decoder = nn.Sequential(activation(), MLP(width, (width,), out_shape, activation=activation))
        self.decoder = decoder
        require_chain(self, LadderVAE, {"x": data_shape} | {f"z{i}": (dim,) for i, dim in enumerate(dims, 1)})

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(zL) ... p(z1 | h2) p(x | h1); ``x`` (batch, *data_shape), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            h = self._top_down(pyro.sample)
            return pyro.sample("x", self.observation(self.decoder(h)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(zL | x) ... q(z1 | z2 .. zL, x)."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            self._top_down(pyro.sample, self.encoder(x))

    def _top_down(self, take: Callable[..., Tensor], features: Sequence[Tensor] | None = None) -> Tensor:
        """h1 from zL .. z1, each ``take(name, distribution)`` of the model or, given features, of the guide."""
        h, p = self.top, self.prior()
        for i in reversed(range(len(self.blocks))):
            if i < len(self.conditionals):
                p = self.conditionals[i](h)
            z = take(f"z{i + 1}", p if features is None else self.posteriors[i](p, features[i]))
            h = self.blocks[i](h, z)
        return h

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | h1) where each latent is the mean of its posterior given those above; shape of ``x``."""
        h = self._top_down(lambda name, q: q.mean, self.encoder(x))
        return self.observation(self.decoder(h)).mean

    def sample(self, num: int, *, mean: bool = False) -> Tensor:
        """``num`` draws of x (num, *data_shape), or with ``mean`` the means of p(x | h1)."""
        h = self._top_down(lambda name, p: p.expand((num,)).sample())
        observation = self.observation(self.decoder(h))
        return observation.mean if mean else observation.sample()
