"""The variational autoencoder with a mixture of normals for a prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.distributions import MixturePrior
from pyro_dgm.models.vae import VAE


def gmvae(
    data_shape: Sequence[int],
    latent_dim: int,
    *,
    num_components: int = 10,
    hidden: Sequence[int] = (200, 200),
    activation: Callable[[], nn.Module] = nn.ReLU,
    observation: nn.Module | None = None,
    scale_floor: float = 1e-2,
) -> VAE:
    r"""A :class:`~pyro_dgm.models.VAE` with a :class:`~pyro_dgm.distributions.MixturePrior`.

    .. math:: k \sim \pi, \quad z \mid k \sim \mathcal N(\mu_k, \mathrm{diag}(s_k^2)), \quad
              x \mid z \sim p(x \mid \mathrm{decoder}(z)); \qquad q(z \mid x)

    The component k is summed out of the prior, so that z is the only latent variable and there is no q(k | x) to
    learn: given z, the component does not depend on x, and p(k | z) are the mixture's responsibilities. KL(q || p)
    has no closed form; the Monte Carlo bound estimates it from the same draws of z.

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        latent_dim: number of latent dimensions.
        num_components: number of components of the prior, the clusters.
        hidden: widths of the hidden layers of the encoder; the decoder has them in reverse.
        activation: makes one activation layer.
        observation: piece p(x | params); Bernoulli pixels by default.
        scale_floor: the smallest scale of a component, in units of z.

    Raises:
        InvalidInput: a size below one, no hidden layer, or a floor outside (0, 1).

    Example:
        >>> import torch
        >>> vae = gmvae((1, 8, 8), 4, num_components=3, hidden=(32,))
        >>> x = vae.sample(5)
        >>> clusters = vae.prior().responsibilities(vae.encode(x).mean).probs  # p(k | z) at the mean of q(z | x)
        >>> clusters.shape
        torch.Size([5, 3])

    Reference:
        Jiang et al., "Variational deep embedding: an unsupervised and generative approach to clustering", 2017 (this
        factorisation). Dilokthanakul et al., "Deep unsupervised clustering with Gaussian mixture variational
        autoencoders", 2016 (the name; another factorisation).
    """
    prior = MixturePrior(latent_dim, num_components, scale_floor=scale_floor)
    return VAE(
        data_shape, latent_dim, hidden=hidden, activation=activation, prior=prior, observation=observation
    )
