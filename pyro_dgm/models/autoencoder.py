"""The autoencoder: the baseline that is no generative model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor, nn

from pyro_dgm.distributions import BernoulliObservation
from pyro_dgm.distributions.flat import Flat
from pyro_dgm.models.chaining import require_chain
from pyro_dgm.models.defaults import mlp_decoder, require_dimensions
from pyro_dgm.nets import MLP, FlattenEvent
from pyro_dgm.program import Program


class Autoencoder(Program):
    r"""Autoencoder, the reconstruction baseline.

    .. math:: \max_{\mathrm{encoder},\, \mathrm{decoder}} \; \log p(x \mid \mathrm{decoder}(z)),
              \qquad z = \mathrm{encoder}(x)

    It is no generative model. There is no p(z): nothing says which codes are those of data, so samples cannot be
    drawn. Its "log-likelihood" is log p(x | z(x)), in which z(x) has seen x: no normalised density over x, and none
    can be read off it. As a Pyro program, z has the flat, improper prior and the guide is a point (Delta) at
    encoder(x); under a flat prior that is maximum a posteriori, and not a bound on any log p(x). Likelihoods, weights
    and bounds (``log_likelihood``, ``log_weights``, ``ELBO``, ``IWAE``) therefore refuse it. Train it with
    ``PyroELBO(pyro.infer.Trace_ELBO())``, or with Pyro's own ``SVI``: the loss is then the reconstruction error
    -log p(x | z(x)), in nats.

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        latent_dim: number of dimensions of a code.
        hidden: widths of the hidden layers of the default encoder; the default decoder has them in reverse.
        activation: makes one activation layer of the default networks.
        encoder: network from data (..., *data_shape) to codes (..., latent_dim).
        decoder: network from codes to the parameters of the observation, (..., num_params, *data_shape).
        observation: piece p(x | params), with ``num_params`` parameters for each element of a datum; Bernoulli pixels
            by default.

    Raises:
        InvalidInput: a latent dimension or data shape below 1, or pieces that do not fit one another, by name.
        IncompatibleModel: when it is asked for samples.

    Example:
        >>> import pyro, torch
        >>> from pyro_dgm.objectives import PyroELBO
        >>> autoencoder = Autoencoder((1, 8, 8), 4, hidden=(32,))
        >>> x = torch.ones(5, 1, 8, 8)
        >>> loss = PyroELBO(pyro.infer.Trace_ELBO())(autoencoder.model, autoencoder.guide, x)
        >>> z = autoencoder.encode(x)
        >>> error = -autoencoder.observation(autoencoder.decoder(z)).log_prob(x).sum()
        >>> z.shape, torch.allclose(loss.float(), error)
        (torch.Size([5, 4]), True)

    Reference:
        Rumelhart, Hinton and Williams, "Learning internal representations by error propagation", 1986.
        Hinton and Salakhutdinov, "Reducing the dimensionality of data with neural networks", 2006.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: Callable[[], nn.Module] = nn.ReLU,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        data_shape = require_dimensions(data_shape, latent_dim)
        self.prior = Flat((latent_dim,))
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        if encoder is None:
            mlp = MLP(math.prod(data_shape), hidden, latent_dim, activation=activation)
            encoder = nn.Sequential(FlattenEvent(data_shape), mlp)
        self.encoder = encoder
        if decoder is None:
            decoder = mlp_decoder(latent_dim, hidden, self.observation, data_shape, activation)
        self.decoder = decoder
        require_chain(self, Autoencoder, {"x": data_shape, "z": (latent_dim,)})

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """A flat prior and p(x | z); ``x`` (batch, *data_shape). Without x it raises: there is no p(z)."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", self.prior)
            return pyro.sample("x", self.observation(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """The code z(x), as a point."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(self.encode(x), event_dim=1))

    def encode(self, x: Tensor) -> Tensor:
        """Codes z(x), (batch, latent_dim)."""
        return self.encoder(x)

    def decode(self, z: Tensor) -> Tensor:
        """Mean of p(x | z); ``z`` (..., latent_dim) to (..., *data_shape)."""
        return self.observation(self.decoder(z)).mean

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z(x)); same shape as ``x``."""
        return self.decode(self.encode(x))
