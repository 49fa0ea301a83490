"""Location-scale families on an interval, z = loc + scale t with t in [0, 1], by parameters that bound no others.

The ones on the whole line (Normal, Laplace, Logistic, Cauchy, Gumbel, Student's t) are in ``pyro.distributions``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.inverse_cdf import InverseCDF


class Triangular(InverseCDF):
    """The triangular distribution on loc < z < loc + scale, whose density peaks at loc + peak scale.

    Args:
        loc: the smallest value.
        scale: the width, positive.
        peak: where the mode lies between both ends, in [0, 1].
        validate_args: check parameters and values; Pyro's global setting if None.

    Example:
        >>> triangle = Triangular(torch.tensor(-1.0), torch.tensor(2.0), torch.tensor(0.5))
        >>> triangle.cdf(torch.tensor([-1.0, 0.0, 1.0]))
        tensor([0.0000, 0.5000, 1.0000])
    """

    arg_constraints = {  # noqa: RUF012
        "loc": constraints.real,
        "scale": constraints.positive,
        "peak": constraints.unit_interval,
    }
    loc: Tensor
    scale: Tensor
    peak: Tensor

    def __init__(
        self,
        loc: Tensor | float,
        scale: Tensor | float,
        peak: Tensor | float = 0.5,
        *,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(validate_args, loc=loc, scale=scale, peak=peak)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The interval from loc to loc + scale."""
        return constraints.interval(self.loc, self.loc + self.scale)

    def _log_density(self, value: Tensor) -> Tensor:
        t = (value - self.loc) / self.scale
        rising = t < self.peak
        height = torch.where(rising, t, 1 - t) / torch.where(rising, self.peak, 1 - self.peak)
        inside = (t >= 0) & (t <= 1) & (height > 0)
        log_height = torch.where(inside, height, 1.0).log()  # 1: a NaN there would reach the gradient
        return torch.where(inside, math.log(2) + log_height - self.scale.log(), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        t = ((value - self.loc) / self.scale).clamp(0, 1)
        rising = t < self.peak
        below = t.square() / torch.where(rising, self.peak, 1.0)
        return torch.where(rising, below, 1 - (1 - t).square() / torch.where(rising, 1.0, 1 - self.peak))

    def icdf(self, value: Tensor) -> Tensor:
        rising = value < self.peak
        below = torch.where(rising, value * self.peak, 1.0).sqrt()  # 1: the slope of a root at 0 is infinite
        above = 1 - torch.where(rising, 1.0, (1 - value) * (1 - self.peak)).sqrt()
        return self.loc + self.scale * torch.where(rising, below, above)

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale * (1 + self.peak) / 3

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (1 - self.peak + self.peak.square()) / 18


class UniformInterval(InverseCDF):
    """The uniform distribution on loc < z < loc + scale: ``Uniform`` by parameters that do not limit each other.

    Args:
        loc: the smallest value.
        scale: the width, positive.
        validate_args: check parameters and values; Pyro's global setting if None.

    Example:
        >>> UniformInterval(torch.tensor(1.0), torch.tensor(2.0)).mean
        tensor(2.)
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012
    loc: Tensor
    scale: Tensor

    def __init__(
        self, loc: Tensor | float, scale: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(validate_args, loc=loc, scale=scale)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The interval from loc to loc + scale."""
        return constraints.interval(self.loc, self.loc + self.scale)

    def _log_density(self, value: Tensor) -> Tensor:
        inside = (value >= self.loc) & (value <= self.loc + self.scale)
        return torch.where(inside, -self.scale.log(), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        return ((value - self.loc) / self.scale).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        return self.loc + self.scale * value

    @property
    def mean(self) -> Tensor:
        return self.loc + self.scale / 2

    @property
    def variance(self) -> Tensor:
        return self.scale.square() / 12
