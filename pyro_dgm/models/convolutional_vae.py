"""The convolutional and the residual variational autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions import BernoulliObservation
from pyro_dgm.models.defaults import params_shape
from pyro_dgm.models.vae import VAE
from pyro_dgm.nets import ConvDecoder, ConvEncoder
from pyro_dgm.shapes import positive_sizes


def conv_vae(
    data_shape: Sequence[int],
    latent_dim: int,
    *,
    channels: Sequence[int] = (32, 64),
    features: int = 256,
    num_blocks: int = 0,
    activation: Callable[[], nn.Module] = nn.ReLU,
    prior: nn.Module | None = None,
    observation: nn.Module | None = None,
) -> VAE:
    r"""Variational autoencoder whose encoder and decoder are convolutional.

    .. math:: z \sim p(z), \quad x \mid z \sim p(x \mid \mathrm{deconvolutions}(a(W z))); \qquad
              q(z \mid x) = q(z \mid a(V \, \mathrm{convolutions}(x)))

    The encoder halves the image once for each entry of ``channels`` and ends in a vector; the decoder is its mirror
    image: z, one hidden layer, transposed convolutions. With ``num_blocks`` above zero there are residual blocks at
    each resolution.

    Args:
        data_shape: shape of one image, (C, H, W).
        latent_dim: number of latent dimensions.
        channels: widths of the convolutions from the data inwards.
        features: width of the layers between the convolutions and z.
        num_blocks: residual blocks at each resolution.
        activation: makes one activation layer.
        prior: piece p(z); a standard normal by default.
        observation: piece p(x | params); Bernoulli pixels by default.

    Raises:
        InvalidInput: a size below one, data that are no images, or an observation that does not fit.

    Example:
        >>> import torch
        >>> vae = conv_vae((1, 28, 28), 16, channels=(4, 8), features=32, num_blocks=1)
        >>> vae.reconstruct(torch.zeros(3, 1, 28, 28)).shape
        torch.Size([3, 1, 28, 28])

    Reference:
        Salimans, Kingma and Welling, "Markov chain Monte Carlo and variational inference: bridging the gap", 2015
        (the convolutional VAE). Kingma et al., "Improving variational inference with inverse autoregressive flow",
        2016 (residual blocks).
    """
    positive_sizes((latent_dim,), "latent_dim")
    observation = BernoulliObservation(data_shape) if observation is None else observation
    out_shape = params_shape(observation, data_shape)
    encoder = ConvEncoder(
        data_shape, features, channels=channels, num_blocks=num_blocks, activation=activation
    )
    decoder = ConvDecoder(
        features,
        out_shape,
        channels=channels,
        num_blocks=num_blocks,
        activation=activation,
    )
    return VAE(
        data_shape,
        latent_dim,
        hidden=(features,),
        encoder=nn.Sequential(encoder, activation()),
        # The decoder's own linear layer has an activation after it and none before.
        decoder=nn.Sequential(nn.Linear(latent_dim, features), activation(), decoder),
        prior=prior,
        observation=observation,
    )
