"""Pieces for latent variables: modules whose call returns a distribution of z."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions import Independent, Logistic, Normal
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import positive_sizes


class _Standard(nn.Module):
    """A distribution with locations zero and scales one, which are buffers outside the state; abstract."""

    loc: Tensor
    scale: Tensor

    def __init__(self, latent_dim: int | Sequence[int]) -> None:
        super().__init__()
        shape = positive_sizes((latent_dim,) if isinstance(latent_dim, int) else latent_dim, "latent_dim")
        self.register_buffer("loc", torch.zeros(shape), persistent=False)
        self.register_buffer("scale", torch.ones(shape), persistent=False)

    @abstractmethod
    def forward(self) -> Independent:
        """The distribution, of event shape (latent_dim,)."""


class StandardNormal(_Standard):
    """The prior z ~ Normal(0, I), without parameters.

    Its constants are buffers, so that the distribution follows ``.double()`` and ``.to(device)``; they
    are not part of the state.

    Args:
        latent_dim: number of latent dimensions, at least 1, or the shape of z where it is no vector.

    Raises:
        InvalidInput: a latent dimension below one.

    Example:
        >>> StandardNormal(8).double()().sample((5,)).dtype
        torch.float64
    """

    def forward(self) -> Independent:
        """The distribution, of event shape (latent_dim,)."""
        return Normal(at_least_float32(self.loc), at_least_float32(self.scale)).to_event(self.loc.dim())


class StandardLogistic(_Standard):
    """The prior z_i ~ Logistic(0, 1), independent over i, without parameters.

    Args:
        latent_dim: number of latent dimensions, at least 1, or the shape of z where it is no vector.

    Raises:
        InvalidInput: a latent dimension below one.

    Example:
        >>> StandardLogistic(8)().sample((5,)).shape
        torch.Size([5, 8])

    Reference: NICE: non-linear independent components estimation (Dinh, Krueger, Bengio, 2015), section 3.4.
    """

    def forward(self) -> Independent:
        """The distribution, of event shape (latent_dim,)."""
        return Logistic(at_least_float32(self.loc), at_least_float32(self.scale)).to_event(self.loc.dim())


class DiagonalNormal(nn.Module):
    """The conditional z | h ~ Normal(loc(h), diag(scale(h))^2) with one linear head.

    loc and raw are the two halves of W h + b, and scale = scale_floor + softplus(raw).

    Args:
        in_features: size of the context h.
        latent_dim: number of latent dimensions, at least 1.
        scale_floor: the smallest scale, in units of z; it keeps log q finite when a posterior collapses
            to a point.

    Raises:
        InvalidInput: a latent dimension below one, or a floor that is not positive.

    Example:
        >>> posterior = DiagonalNormal(32, 8)
        >>> q = posterior(torch.zeros(50, 20, 32))  # (particles, batch, features)
        >>> q.batch_shape, q.event_shape
        (torch.Size([50, 20]), torch.Size([8]))

    Reference: Auto-Encoding Variational Bayes (Kingma, Welling, 2014).
    """

    def __init__(self, in_features: int, latent_dim: int, *, scale_floor: float = 1e-4) -> None:
        super().__init__()
        _check_latent_dim(latent_dim)
        if not scale_floor > 0:
            raise InvalidInput("bad floor", where="scale_floor", value=scale_floor, expected="a number > 0")
        self.scale_floor = scale_floor
        self.head = nn.Linear(in_features, 2 * latent_dim)

    def forward(self, h: Tensor) -> Independent:
        """The distribution of z given ``h``, (..., in_features), of event shape (latent_dim,)."""
        loc, raw = at_least_float32(self.head(h)).chunk(2, dim=-1)  # each (..., latent_dim)
        return Normal(loc, positive(raw, self.scale_floor)).to_event(1)


def _check_latent_dim(latent_dim: int) -> None:
    if latent_dim < 1:
        raise InvalidInput("bad size", where="latent_dim", value=latent_dim, expected="an integer >= 1")
