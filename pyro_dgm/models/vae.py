"""The variational autoencoder, put together from pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import BernoulliObservation, DiagonalNormal, StandardNormal
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models.chaining import require_chain
from pyro_dgm.models.defaults import mean_or_draw, mlp_decoder, mlp_encoder, require_dimensions
from pyro_dgm.program import Program


class VAE(Program):
    r"""Variational autoencoder.

    .. math:: z \sim p(z), \quad x \mid z \sim p(x \mid \mathrm{decoder}(z)); \qquad
              q(z \mid x) = q(z \mid \mathrm{encoder}(x))

    Every part is a module and can be replaced. Networks map tensors to tensors: ``encoder`` (..., *data_shape) to
    (..., features), ``decoder`` (..., latent_dim) to (..., num_params, *data_shape). Pieces return distributions:
    ``prior()`` and ``posterior(features)`` over z, ``observation(params)`` over x. Defaults are a standard normal
    prior, a diagonal normal posterior, Bernoulli pixels and two multilayer perceptrons.

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        latent_dim: number of latent dimensions.
        hidden: widths of the hidden layers of the default encoder; the default decoder has them in reverse.
        activation: makes one activation layer of the default networks.
        encoder: network from data to features.
        decoder: network from z to the parameters of the observation.
        prior: piece p(z).
        posterior: piece q(z | features); needs ``encoder`` to give as many features as it takes.
        observation: piece p(x | params), with ``num_params`` parameters for each element of a datum.

    Raises:
        InvalidInput: a latent dimension or data shape below 1, no hidden layer and no encoder, or pieces that do not
            fit one another, by name.

    Example:
        >>> import torch
        >>> vae = VAE(data_shape=(1, 8, 8), latent_dim=4, hidden=(32,))
        >>> vae.sample(3).shape
        torch.Size([3, 1, 8, 8])
        >>> vae.encode(torch.zeros(5, 1, 8, 8)).mean.shape
        torch.Size([5, 4])

    Reference:
        Kingma and Welling, "Auto-encoding variational Bayes", 2014.
        Rezende, Mohamed and Wierstra, "Stochastic backpropagation and approximate inference in deep generative
        models", 2014.
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
        prior: nn.Module | None = None,
        posterior: nn.Module | None = None,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        data_shape = require_dimensions(data_shape, latent_dim)
        if not hidden and (encoder is None or posterior is None):
            raise InvalidInput("no layers", where="hidden", expected="a width, or an encoder and a posterior")
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        self.prior = StandardNormal(latent_dim) if prior is None else prior
        self.encoder = mlp_encoder(data_shape, hidden, activation) if encoder is None else encoder
        self.posterior = DiagonalNormal(hidden[-1], latent_dim) if posterior is None else posterior
        if decoder is None:
            decoder = mlp_decoder(latent_dim, hidden, self.observation, data_shape, activation)
        self.decoder = decoder
        require_chain(self, VAE, {"x": data_shape, "z": (latent_dim,)})

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(z) p(x | z); ``x`` (batch, *data_shape), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", self.prior())
            return pyro.sample("x", self.observation(self.decoder(z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z | x)."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x))

    def encode(self, x: Tensor) -> dist.TorchDistribution:
        """q(z | x), batch shape (batch,), event shape (latent_dim,)."""
        return self.posterior(self.encoder(x))

    def reconstruct(self, x: Tensor) -> Tensor:
        """Mean of p(x | z) at the mean of q(z | x), each a draw where it is not known. Same shape as ``x``.

        It is not known of a flow posterior, and of an autoregressive observation, whose draws differ from one another
        by what z does not say.
        """
        return mean_or_draw(self.observation(self.decoder(mean_or_draw(self.encode(x)))))

    def sample(self, num: int, *, mean: bool = False) -> Tensor:
        """``num`` draws of x (num, *data_shape), or with ``mean`` the means of p(x | z).

        Raises:
            IncompatibleModel: with ``mean``, an observation whose mean is not known, as an autoregressive one.
        """
        z = self.prior().sample((num,))
        observation = self.observation(self.decoder(z))
        if not mean:
            return observation.sample()
        try:
            return observation.mean
        except NotImplementedError:
            raise IncompatibleModel(
                "a mean that is not known",
                where="sample(mean=True)",
                value=type(observation).__name__,
                expected="an observation that has one",
                cure="mean=False",
            ) from None

    def impute(self, x: Tensor, observed: Tensor, *, num_steps: int = 50) -> Tensor:
        """``x`` with its missing elements drawn given the others, by a Markov chain through q(z | x) and p(x | z).

        Args:
            x: data (batch, *data_shape); missing elements may hold any finite value.
            observed: boolean mask of the same shape, true where an element is known.
            num_steps: number of steps of the chain.

        Reference:
            Rezende, Mohamed and Wierstra, 2014, appendix F.
        """
        if observed.shape != x.shape or observed.dtype != torch.bool:
            raise InvalidInput(
                "wrong mask",
                where="observed",
                value=f"{observed.dtype} {tuple(observed.shape)}",
                expected=f"torch.bool {tuple(x.shape)}",
            )
        filled = x
        for _ in range(num_steps):
            z = self.encode(filled).sample()
            filled = torch.where(observed, x, self.observation(self.decoder(z)).sample())
        return filled
