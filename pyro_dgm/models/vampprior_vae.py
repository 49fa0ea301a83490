"""The variational autoencoder whose prior is the mixture of its own posteriors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from pyro_dgm.distributions import BernoulliObservation, DiagonalNormal, VampPrior
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.defaults import params_shape
from pyro_dgm.models.vae import VAE
from pyro_dgm.nets import FlattenEvent, GatedLinear, GatedMLP
from pyro_dgm.shapes import positive_sizes


def vamp_vae(
    data_shape: Sequence[int],
    latent_dim: int,
    *,
    hidden: Sequence[int] = (300, 300),
    num_components: int = 500,
    init_mean: float = 0.05,
    init_std: float = 0.01,
    learn_weights: bool = False,
    observation: nn.Module | None = None,
) -> VAE:
    r"""A :class:`~pyro_dgm.models.VAE` with a :class:`~pyro_dgm.distributions.VampPrior` and gated layers.

    .. math:: z \sim \frac1K \sum_k q(z \mid u_k), \quad x \mid z \sim p(x \mid \mathrm{decoder}(z))

    The prior holds the same encoder and posterior as the VAE, so each parameter is trained once and saved under both
    names. KL(q || p) has no closed form: train with the Monte Carlo bound.

    Args:
        data_shape: shape of one datum in [0, 1], (channels, height, width) for images.
        latent_dim: number of latent dimensions.
        hidden: widths of the encoder's gated layers; the decoder has them in reverse.
        num_components: number K of pseudo-inputs u.
        init_mean: mean of the first pseudo-inputs.
        init_std: standard deviation of the first pseudo-inputs.
        learn_weights: whether the mixture's weights are learned; else they are 1 / K.
        observation: piece p(x | params); Bernoulli pixels by default.

    Raises:
        InvalidInput: a size below one, no hidden layer, a start outside its range, or an observation that does not fit.

    Example:
        >>> import torch
        >>> vae = vamp_vae((1, 8, 8), 4, hidden=(32,), num_components=10)
        >>> vae.sample(3).shape, vae.prior.pseudo_inputs.shape
        (torch.Size([3, 1, 8, 8]), torch.Size([10, 1, 8, 8]))
        >>> vae.prior.encoder is vae.encoder
        True

    Reference:
        Tomczak and Welling, "VAE with a VampPrior", 2018.
    """
    data_shape, hidden = positive_sizes(data_shape, "data_shape"), positive_sizes(hidden, "hidden")
    if not hidden:
        raise InvalidInput("no layers", where="hidden", value=list(hidden), expected="at least one width")
    widths = (math.prod(data_shape), *hidden)
    layers = [GatedLinear(fan_in, fan_out) for fan_in, fan_out in pairwise(widths)]
    encoder = nn.Sequential(FlattenEvent(data_shape), *layers)
    posterior = DiagonalNormal(hidden[-1], latent_dim)
    observation = BernoulliObservation(data_shape) if observation is None else observation
    out_shape = params_shape(observation, data_shape)
    return VAE(
        data_shape,
        latent_dim,
        hidden=hidden,
        encoder=encoder,
        posterior=posterior,
        prior=VampPrior(
            encoder,
            posterior,
            data_shape=data_shape,
            num_components=num_components,
            init_mean=init_mean,
            init_std=init_std,
            learn_weights=learn_weights,
        ),
        decoder=GatedMLP(latent_dim, hidden[::-1], out_shape),
        observation=observation,
    )
