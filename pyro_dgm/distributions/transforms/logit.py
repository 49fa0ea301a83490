"""The logistic function, for data in the unit interval."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.transforms.bijection import Bijection, sum_event
from pyro_dgm.errors import InvalidInput


class Sigmoid(Bijection):
    r"""The map :math:`y = (\sigma(x) - \alpha) / (1 - 2 \alpha)`, elementwise; its inverse is the logit of the papers.

    With alpha above zero the ends of [0, 1] are inside the support, and :math:`x = \mathrm{logit}(\alpha + (1 - 2
    \alpha) y)` is finite for all data there.

    Args:
        event_shape: shape of one datum.
        alpha: how far the support goes beyond [0, 1] at each end, as a share of its length; 0 to below 1/2.

    Raises:
        InvalidInput: a share outside [0, 1/2).

    Example:
        >>> Sigmoid((2,)).inverse_and_log_det(torch.tensor([0.5, 1.0]))[0]
        tensor([ 0.0000, 13.8155])

    Reference: Density estimation using Real NVP (Dinh, Sohl-Dickstein, Bengio, 2017), section 4.1.
    """

    def __init__(self, event_shape: Sequence[int], *, alpha: float = 1e-6) -> None:
        super().__init__(event_shape)
        if not 0 <= alpha < 0.5:
            raise InvalidInput("bad share", where="alpha", value=alpha, expected="0 to below 0.5")
        self.alpha = alpha

    @property
    def codomain(self) -> constraints.Constraint:
        beyond = self.alpha / (1 - 2 * self.alpha)
        return constraints.interval(-beyond, 1 + beyond)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y = (x.sigmoid() - self.alpha) / (1 - 2 * self.alpha)
        log_slope = torch.nn.functional.logsigmoid(x) + torch.nn.functional.logsigmoid(-x)
        return y, sum_event(log_slope - math.log1p(-2 * self.alpha), self.event_shape)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * y
        log_p, log_rest = p.log(), (self.alpha + (1 - 2 * self.alpha) * (1 - y)).log()
        log_slope = math.log1p(-2 * self.alpha) - log_p - log_rest
        return log_p - log_rest, sum_event(log_slope, self.event_shape)
