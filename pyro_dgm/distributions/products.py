"""Products of normal densities: a prior merged with what the data say, weighted by precision."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.errors import InvalidInput


def merged_normal(p: Any, shift: Tensor, precision: Tensor) -> Independent:
    r"""Normalised product of a diagonal normal density and :math:`\exp(\eta z - \tau z^2 / 2)`.

    Precisions add, and locs count with their precisions:

    .. math:: \sigma^{-2} = \sigma_p^{-2} + \tau, \qquad \mu = \sigma^2 (\sigma_p^{-2} \mu_p + \eta)

    The factor is that of a normal with loc :math:`\eta / \tau` and variance :math:`1 / \tau`, but may also be flat,
    :math:`\tau = 0`. Written without inverses, so that a small scale is not inverted in float32.

    Args:
        p: ``Normal(loc, scale).to_event(n)``.
        shift: :math:`\eta`, in inverse units of z; of a shape that broadcasts with that of z.
        precision: :math:`\tau \geq 0`, in inverse squared units of z; the same.

    Example:
        >>> unit = Normal(torch.zeros(3), 1.0).to_event(1)
        >>> merged_normal(unit, torch.ones(5, 3), torch.ones(5, 3)).mean[0]
        tensor([0.5000, 0.5000, 0.5000])

    Reference:
        Sonderby, Raiko, Maaloe, Sonderby and Winther, "Ladder variational autoencoders", 2016, equations 13 to 15.
    """
    loc, scale = p.base_dist.loc, p.base_dist.scale
    variance = scale.square()
    ratio = 1 + variance * precision  # of the new precision to the old one
    loc = loc + variance * (shift - precision * loc) / ratio
    return Normal(loc, scale / ratio.sqrt()).to_event(len(p.event_shape))


class MergedNormal(nn.Module):
    r"""The posterior piece :math:`q(z \mid d, p) \propto p(z)\, \hat q(z \mid d)`, of a diagonal normal prior p.

    One linear head gives q-hat by its natural parameters, :math:`\hat q \propto \exp(\eta z - \tau z^2 / 2)` with
    :math:`\tau = \mathrm{softplus}(\cdot)`: then q can move away from p while q-hat is nearly flat. With q-hat by its
    loc and scale the loc would count with a precision near zero, its gradient with it, and a layer that has once
    collapsed would stay so. The scale of q is never above that of p.

    Args:
        in_features: size of the features d.
        latent_dim: number of latent dimensions, at least 1.
        initial_bias: of the head's raw precisions; by default q-hat starts with a precision of about 0.13.

    Raises:
        InvalidInput: a latent dimension below one.

    Example:
        >>> prior = Normal(torch.zeros(50, 1, 8), 1.0).to_event(1)
        >>> q = MergedNormal(32, 8)(prior, torch.zeros(20, 32))
        >>> q.batch_shape, q.event_shape, bool((q.stddev < 1).all())
        (torch.Size([50, 20]), torch.Size([8]), True)

    Reference:
        Sonderby, Raiko, Maaloe, Sonderby and Winther, "Ladder variational autoencoders", 2016.
        Johnson, Duvenaud, Wiltschko, Datta and Adams, "Composing graphical models with neural networks for structured
        representations and fast inference", 2016 (recognition networks that give natural parameters).
    """

    def __init__(self, in_features: int, latent_dim: int, *, initial_bias: float = -2.0) -> None:
        super().__init__()
        if latent_dim < 1:
            raise InvalidInput("bad size", where="latent_dim", value=latent_dim, expected="an integer >= 1")
        self.head = nn.Linear(in_features, 2 * latent_dim)
        with torch.no_grad():
            self.head.bias[latent_dim:].fill_(initial_bias)

    def forward(self, p: Any, d: Tensor) -> Independent:
        """The distribution of z for prior ``p`` and features ``d``, (..., in_features)."""
        shift, raw = at_least_float32(self.head(d)).chunk(2, dim=-1)  # each (..., latent_dim)
        return merged_normal(p, shift, positive(raw, 0.0))
