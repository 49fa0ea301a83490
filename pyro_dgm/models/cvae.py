"""The conditional variational autoencoder, put together from pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import BernoulliObservation, DiagonalNormal, StandardNormal
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.chaining import require_chain
from pyro_dgm.models.defaults import mean_or_draw, mlp_decoder, mlp_encoder, require_dimensions
from pyro_dgm.models.given import check_given, given_for
from pyro_dgm.nets import OneHot
from pyro_dgm.program import Program


class CVAE(Program):
    r"""Conditional variational autoencoder.

    .. math:: z \sim p(z \mid c), \quad x \mid z, y \sim p(x \mid \mathrm{decoder}(z, c)); \qquad
              q(z \mid x, y) = q(z \mid \mathrm{encoder}(x), c), \qquad c = \mathrm{context}(y)

    y is conditioned on and not modelled: a bound is one on log p(x | y), and so is a likelihood. Batches are (x, y),
    as those of data sets with ``labels=True``. Where y is a label (``num_classes``), ``model(n=64)`` without y first
    draws labels, each class with the same probability, at a site ``y``; any other y has to be given.

    Networks map tensors to tensors: ``context`` y (..., *context_shape) to features c (..., context_features),
    ``encoder`` x (..., *data_shape) to features h (..., features), ``decoder`` [z, c] (..., latent_dim +
    context_features) to (..., num_params, *data_shape). Pieces return distributions: ``prior(c)`` and
    ``posterior([h, c])`` over z, ``observation(params)`` over x. Defaults are unit vectors of labels, a standard
    normal prior, a diagonal normal posterior after a hidden layer in which h and c meet, Bernoulli pixels and
    multilayer perceptrons. ``prior=DiagonalNormal(context_features, latent_dim)`` learns p(z | y).

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        num_classes: number of classes; None if y is no label.
        latent_dim: number of latent dimensions.
        hidden: widths of the hidden layers of the default encoder; the default decoder has them in reverse.
        activation: makes one activation layer of the default networks.
        context: network from y to features; unit vectors of labels by default.
        context_shape: shape of one y, () for a label; (1, 8, 8), for example, for an image to complete.
        context_features: number of features that ``context`` gives.
        encoder: network from data to features; the default posterior takes ``hidden[-1]`` of them.
        decoder: network from z and features of y to the parameters of the observation.
        prior: piece p(z | c); called with c.
        posterior: piece q(z | h, c).
        observation: piece p(x | params), with ``num_params`` parameters for each element of a datum.

    Raises:
        InvalidInput: no dimensions, no hidden layer and no encoder; no context where y is no label; or, when it is
            called, a y that is no label, or of another shape or number than x.
        IncompatibleModel: when it is called without a y that it needs.

    Example:
        >>> import torch
        >>> cvae = CVAE((1, 8, 8), 10, 4, hidden=(32,))
        >>> cvae.sample(3, y=7).shape  # three sevens
        torch.Size([3, 1, 8, 8])
        >>> from pyro_dgm.nets import FlattenEvent
        >>> half = CVAE((1, 4, 8), None, 4, hidden=(32,), context_shape=(1, 4, 8), context_features=16,
        ...             context=nn.Sequential(FlattenEvent((1, 4, 8)), nn.Linear(32, 16)))
        >>> half.encode(torch.zeros(5, 1, 4, 8), y=torch.ones(5, 1, 4, 8)).mean.shape  # lower halves given upper ones
        torch.Size([5, 4])

    Reference:
        Sohn, Lee and Yan, "Learning structured output representation using deep conditional generative models", 2015
        (where x is called y and y is called x).
        Kingma, Rezende, Mohamed and Welling, "Semi-supervised learning with deep generative models", 2014.
    """

    uniform: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        num_classes: int | None,
        latent_dim: int,
        *,
        hidden: Sequence[int] = (200, 200),
        activation: Callable[[], nn.Module] = nn.ReLU,
        context: nn.Module | None = None,
        context_shape: Sequence[int] = (),
        context_features: int | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        prior: nn.Module | None = None,
        posterior: nn.Module | None = None,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__()
        data_shape = require_dimensions(data_shape, latent_dim)
        if not hidden and (encoder is None or posterior is None or decoder is None):
            raise InvalidInput(
                "no layers", where="hidden", expected="a width, or an encoder, a posterior and a decoder"
            )
        if context is None:
            if num_classes is None:
                raise InvalidInput(
                    "nothing to make features of y",
                    where="context",
                    expected="num_classes, or a network",
                    cure="labels: true in the data; for a y that is no label context=, context_shape= and "
                    "context_features=",
                )
            context, context_features = OneHot(num_classes), num_classes
        if context_features is None:
            raise InvalidInput(
                "unknown size", where="context_features", expected="the number of features that context gives"
            )
        self.num_classes = num_classes
        self.context_shape = tuple(context_shape)
        self.register_buffer("uniform", torch.zeros(num_classes or 0), persistent=False)  # logits of p(y)
        self.context = context
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        self.prior = _Constant(StandardNormal(latent_dim)) if prior is None else prior
        self.encoder = mlp_encoder(data_shape, hidden, activation) if encoder is None else encoder
        if posterior is None:
            joint = nn.Linear(hidden[-1] + context_features, hidden[-1])
            posterior = nn.Sequential(joint, activation(), DiagonalNormal(hidden[-1], latent_dim))
        self.posterior = posterior
        if decoder is None:
            decoder = mlp_decoder(
                latent_dim + context_features, hidden, self.observation, data_shape, activation
            )
        self.decoder = decoder
        y = torch.zeros(
            2, *self.context_shape, dtype=torch.int64 if num_classes else torch.get_default_dtype()
        )
        require_chain(self, CVAE, {"x": data_shape, "z": (latent_dim,)}, y)

    def model(self, x: Tensor | None = None, y: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(z | y) p(x | z, y); ``x`` (batch, *data_shape), or draws: one for each ``y``, or ``n`` of any class."""
        pyro.module(self.pyro_name, self)
        self._check(x, y)
        with pyro.plate("data", n if y is None else len(y)):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=self.uniform))
            c = self.context(y)
            z = pyro.sample("z", self.prior(c))
            return pyro.sample("x", self.observation(self.decoder(_join(z, c))), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x, y)."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.encode(x, y))

    def initialize(self, x: Tensor, y: Tensor | None = None, *rest: Any) -> None:
        """Checks every y, and starts the observation at the mean of the data."""
        self._check(x, y, values=True)
        super().initialize(x)

    def encode(self, x: Tensor, y: Tensor | None) -> dist.TorchDistribution:
        """q(z | x, y), batch shape (batch,), event shape (latent_dim,)."""
        self._check(x, y)
        return self.posterior(_join(self.encoder(x), self.context(y)))

    def reconstruct(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean of p(x | z, y) at the mean of q(z | x, y); same shape as ``x``."""
        z = mean_or_draw(self.encode(x, y))
        return mean_or_draw(self.observation(self.decoder(_join(z, self.context(y)))))

    def sample(self, num: int, *, y: Tensor | int | None = None, mean: bool = False) -> Tensor:
        """``num`` draws of x given y.

        Args:
            num: number of draws.
            y: one for all draws, (*context_shape), or one for each, (num, *context_shape); drawn if it is a label.
            mean: whether to return the means of p(x | z, y) in place of draws.
        """
        if y is None:
            self._check(None, None)
        y = given_for(num, y, uniform=self.uniform, shape=self.context_shape)
        self._check(None, y, values=True)
        c = self.context(y)
        z = self.prior(c).expand((num,)).sample()
        observation = self.observation(self.decoder(_join(z, c)))
        return observation.mean if mean else observation.sample()

    def _check(self, x: Tensor | None, y: Tensor | None, *, values: bool | None = None) -> None:
        shape, owner = self.context_shape, type(self).__name__
        check_given(x, y, num_classes=self.num_classes, shape=shape, owner=owner, values=values)


class _Constant(nn.Module):
    """A prior that is the same for every context."""

    def __init__(self, prior: nn.Module) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, c: Tensor) -> dist.TorchDistribution:
        return self.prior()


def _join(*parts: Tensor) -> Tensor:
    """Features side by side, with all leading dimensions of any of them."""
    leading = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], dim=-1)
