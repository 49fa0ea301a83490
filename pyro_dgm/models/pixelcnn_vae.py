"""PixelVAE: a variational autoencoder whose decoder draws an image pixel by pixel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.gated_pixel_cnn import GatedPixelCNN
from pyro_dgm.models.vae import VAE
from pyro_dgm.nets import ConvDecoder, ConvEncoder
from pyro_dgm.shapes import positive_sizes


def pixel_vae(
    data_shape: Sequence[int],
    latent_dim: int,
    *,
    channels: Sequence[int] = (32, 64),
    features: int = 256,
    num_blocks: int = 0,
    activation: Callable[[], nn.Module] = nn.ReLU,
    upsample: bool = True,
    maps: int = 32,
    num_layers: int = 2,
    kernel_size: int = 5,
    layer_kernel_size: int = 3,
    prior: nn.Module | None = None,
    observation: nn.Module | None = None,
    autoregressive: nn.Module | None = None,
) -> VAE:
    r"""Variational autoencoder with an autoregressive decoder.

    .. math:: z \sim p(z), \quad p(x \mid z) = \prod_i p(x_i \mid x_{<i}, c(z)); \qquad
              q(z \mid x) = q(z \mid a(V \, \mathrm{convolutions}(x)))

    The context c(z) conditions each layer of a PixelCNN: feature maps of the image's size, deconvolved from z, or,
    without upsampling, z itself, which each layer maps linearly to what it adds everywhere. The networks of q(z | x)
    and c(z) are those of :func:`~pyro_dgm.models.conv_vae`.

    A decoder that sees enough of the image needs no z, and the plain bound then leaves z out: q(z | x) becomes p(z).
    Against that there are two means. The decoder's view: with L layers and kernels of the sizes k and l it reaches
    k//2 + (L-1) (l//2) rows up (one at least), and as many columns to the left and, in the rows above, to the right;
    k//2 alone with ``layer_kernel_size=1``. And the objective's: ``ELBO(beta=Linear(steps))`` anneals the divergence,
    ``ELBO(free_bits=...)`` leaves some of it free.

    Args:
        data_shape: shape of one image, (C, H, W).
        latent_dim: number of latent dimensions.
        channels: widths of the convolutions from the data inwards.
        features: width of the layers between the convolutions and z.
        num_blocks: residual blocks at each resolution.
        activation: makes one activation layer.
        upsample: whether the context is maps, deconvolved from z; else it is z.
        maps: feature maps of the context, and of each of the two stacks of the gated PixelCNN.
        num_layers: layers of the gated PixelCNN.
        kernel_size: odd size of its first convolutions.
        layer_kernel_size: odd size of those of the other layers.
        prior: piece p(z); a standard normal by default.
        observation: piece p(x_i | params) of the gated PixelCNN; Bernoulli pixels by default.
        autoregressive: piece p(x | c) in place of the gated PixelCNN and all that is said of it, with a
            ``context_shape``: (F, H, W), or (F,) for a context without upsampling, which is z where F is
            ``latent_dim`` and a linear map of it elsewhere. ``PixelCNN`` and ``PixelRNN`` are such pieces.

    Raises:
        InvalidInput: a size below one, a kernel of an even size, data that are no images, pieces that do not fit, an
            autoregressive piece that does not say which context it takes, or one with an observation beside it.

    Example:
        >>> import torch
        >>> vae = pixel_vae((1, 8, 8), 4, channels=(4, 8), features=32, maps=8)
        >>> vae.observation(vae.decoder(torch.zeros(5, 4))).log_prob(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5])
        >>> vae.sample(3).shape
        torch.Size([3, 1, 8, 8])

    Reference:
        Gulrajani, Kumar, Ahmed, Ali Taiga, Visin, Vazquez and Courville, "PixelVAE: a latent variable model for
        natural images", 2017.
    """
    positive_sizes((latent_dim, maps), "latent_dim or maps")
    pixel_cnn = partial(
        GatedPixelCNN,
        data_shape,
        channels=maps,
        num_layers=num_layers,
        kernel_size=kernel_size,
        layer_kernel_size=layer_kernel_size,
        observation=observation,
        context_shape=(maps, *tuple(data_shape)[-2:]) if upsample else (latent_dim,),
    )
    autoregressive = either(autoregressive, observation, pixel_cnn)
    context_shape = context_shape_of(autoregressive, "autoregressive")
    body: dict[str, Any] = {"channels": channels, "num_blocks": num_blocks, "activation": activation}
    encoder = ConvEncoder(data_shape, features, **body)
    decoder: nn.Module
    if len(context_shape) == 3:
        deconvolutions = ConvDecoder(features, context_shape, **body)
        decoder = nn.Sequential(nn.Linear(latent_dim, features), activation(), deconvolutions)
    elif context_shape == (latent_dim,):
        decoder = nn.Identity()
    else:
        decoder = nn.Linear(latent_dim, context_shape[0])
    return VAE(
        data_shape,
        latent_dim,
        hidden=(features,),
        encoder=nn.Sequential(encoder, activation()),
        decoder=decoder,
        prior=prior,
        observation=autoregressive,
    )


def either(
    autoregressive: nn.Module | None, observation: nn.Module | None, default: Callable[[], nn.Module]
) -> nn.Module:
    """The piece p(x | c) that is given, or the default one.

    Raises:
        InvalidInput: where there is an observation beside the one given, which would not be used.
    """
    if autoregressive is None:
        return default()
    if observation is not None:
        raise InvalidInput(
            "two pieces for x",
            where="observation, autoregressive",
            value=f"{type(observation).__name__}, {type(autoregressive).__name__}",
            expected="one of them",
            cure="the observation as an argument of the autoregressive piece",
        )
    return autoregressive


def context_shape_of(piece: Any, where: str) -> tuple[int, ...]:
    """Shape of the context that an autoregressive piece takes, (features,) or (features, H, W).

    Raises:
        InvalidInput: a piece that does not say, or one that takes none.
    """
    shape = tuple(getattr(piece, "context_shape", ()))
    if len(shape) not in (1, 3):
        raise InvalidInput(
            "a piece that does not say which context it takes",
            where=where,
            value=f"{type(piece).__name__} with context_shape {shape}",
            expected="a module with context_shape (features,) or (features, H, W), whose call returns p(x | c)",
            cure="GatedPixelCNN(data_shape, context_shape=(32, H, W)), or a VAE with a decoder of your own",
        )
    return shape
