"""Flow posteriors: guides whose simple distribution is warped by invertible maps that see the data too."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pyro_dgm.distributions.flow import FlowDistribution
from pyro_dgm.distributions.latents import DiagonalNormal
from pyro_dgm.distributions.transforms import (
    Bijection,
    Chain,
    MaskedAutoregressive,
    Permutation,
    Planar,
    Sylvester,
)
from pyro_dgm.distributions.transforms.sylvester import Kind
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import count_in_a_row


class FlowPosterior(nn.Module):
    r"""The conditional :math:`z = f(e; h)` with :math:`e \sim q_0(e \mid h)`, by a map f of closed log-determinant.

    .. math:: \log q(z \mid h) = \log q_0(e \mid h) - \log |\det \partial f(e; h) / \partial e|

    A draw and its density take one pass of f, no inverse. Where the maps take a context, it is h.

    Args:
        base: piece q_0, whose call with h returns a distribution of event shape ``bijection.event_shape``.
        bijection: the map f, without a context, or with h for one.

    Raises:
        InvalidInput: a map whose values are no vectors of the size that it takes.

    Example:
        >>> import torch
        >>> posterior = FlowPosterior(DiagonalNormal(32, 8), Chain([Planar(8, context_features=32), Planar(8)]))
        >>> q = posterior(torch.zeros(50, 20, 32))  # (particles, batch, features)
        >>> z = q.rsample()
        >>> z.shape, q.log_prob(z).shape
        (torch.Size([50, 20, 8]), torch.Size([50, 20]))

    Reference: Variational inference with normalizing flows (Rezende, Mohamed, 2015).
    """

    def __init__(self, base: nn.Module, bijection: Bijection) -> None:
        super().__init__()
        if bijection.out_shape != bijection.event_shape:
            raise InvalidInput(
                "a map between latents of other shapes",
                where="bijection",
                value=f"{bijection.event_shape} to {bijection.out_shape}",
                expected="one shape",
            )
        self.base, self.bijection = base, bijection

    def forward(self, h: Tensor) -> FlowDistribution:
        """The distribution of z given ``h``, (..., in_features), of event shape (latent_dim,)."""
        return FlowDistribution(self.base(h), self.bijection, h if self.bijection.context_shape else None)


def planar_posterior(in_features: int, latent_dim: int, *, num_layers: int = 10) -> FlowPosterior:
    """A diagonal normal posterior and planar maps whose parameters are linear in the features.

    Args:
        in_features: size of the context h.
        latent_dim: number of latent dimensions.
        num_layers: number of maps.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> import torch
        >>> planar_posterior(32, 8)(torch.zeros(5, 32)).rsample().shape
        torch.Size([5, 8])

    Reference: Variational inference with normalizing flows (Rezende, Mohamed, 2015).
    """
    number = count_in_a_row(num_layers, "num_layers")
    maps = [Planar(latent_dim, context_features=in_features) for _ in range(number)]
    return FlowPosterior(DiagonalNormal(in_features, latent_dim), Chain(maps))


def sylvester_posterior(
    in_features: int,
    latent_dim: int,
    *,
    num_layers: int = 4,
    kind: Kind = "orthogonal",
    columns: int | None = None,
    reflections: int = 8,
) -> FlowPosterior:
    """A diagonal normal posterior and Sylvester maps whose parameters are linear in the features.

    Args:
        in_features: size of the context h.
        latent_dim: number of latent dimensions.
        num_layers: number of maps.
        kind: of the orthogonal factor: see :class:`~pyro_dgm.distributions.transforms.Sylvester`.
        columns: number of its columns; ``latent_dim`` by default.
        reflections: number of reflections with "householder".

    Raises:
        InvalidInput: a size below one, more columns than latent dimensions, or an unknown kind.

    Example:
        >>> import torch
        >>> sylvester_posterior(32, 8, columns=4)(torch.zeros(5, 32)).rsample().shape
        torch.Size([5, 8])

    Reference: Sylvester normalizing flows for variational inference (van den Berg, Hasenclever, Tomczak, Welling,
        2018).
    """
    maps = [
        Sylvester(
            latent_dim,
            columns,
            kind=kind,
            reflections=reflections,
            flip=bool(layer % 2),
            context_features=in_features,
        )
        for layer in range(count_in_a_row(num_layers, "num_layers"))
    ]
    return FlowPosterior(DiagonalNormal(in_features, latent_dim), Chain(maps))


def iaf_posterior(
    in_features: int,
    latent_dim: int,
    *,
    num_layers: int = 4,
    hidden: Sequence[int] = (320,),
    activation: Callable[[], nn.Module] = nn.ELU,
) -> FlowPosterior:
    """A diagonal normal posterior and inverse autoregressive maps that see the features, the order turned after each.

    Args:
        in_features: size of the context h.
        latent_dim: number of latent dimensions.
        num_layers: number of maps.
        hidden: widths of the hidden layers of each network.
        activation: makes one elementwise activation layer.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> import torch
        >>> iaf_posterior(32, 8)(torch.zeros(5, 32)).rsample().shape
        torch.Size([5, 8])

    Reference: Improved variational inference with inverse autoregressive flow (Kingma, Salimans, Jozefowicz, Chen,
        Sutskever, Welling, 2016).
    """
    maps: list[Bijection] = []
    for layer in range(count_in_a_row(num_layers, "num_layers")):
        if layer:
            maps.append(Permutation(range(latent_dim)[::-1]))
        maps.append(
            MaskedAutoregressive(
                (latent_dim,), hidden=hidden, activation=activation, context_features=in_features
            )
        )
    return FlowPosterior(DiagonalNormal(in_features, latent_dim), Chain(maps))
