r"""Families with a closed inverse distribution function that torch and Pyro lack, reparameterised by it.

A draw is z = F^{-1}(u; theta) with u ~ Uniform(0, 1), so that dz/dtheta is the derivative at a fixed level u:

    dz/dtheta = -(dF/dtheta)(z) / p(z).

Exponential, Cauchy, Logistic, Pareto, Weibull, Gumbel, Laplace, Normal, Student's t, Gamma (which with a whole
concentration is the Erlang distribution), Beta, Dirichlet, chi-squared and F are in ``pyro.distributions``.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all


class InverseCDF(TorchDistribution):
    """A univariate distribution that is drawn by its inverse distribution function; abstract.

    Args:
        validate_args: check parameters and values; Pyro's global setting if None.
        parameters: by name, as in ``arg_constraints``.
    """

    has_rsample = True

    def __init__(self, validate_args: bool | None, **parameters: Tensor | float) -> None:
        values = broadcast_all(*parameters.values())
        for name, value in zip(parameters, values, strict=True):
            setattr(self, name, value)
        super().__init__(values[0].shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same with a larger batch shape."""
        new = self._get_checked_instance(type(self), _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        TorchDistribution.__init__(new, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws with gradients, (*sample_shape, *batch_shape)."""
        like: Tensor = getattr(self, next(iter(self.arg_constraints)))
        u = torch.rand(self._extended_shape(sample_shape), dtype=like.dtype, device=like.device)
        return self.icdf(u.clamp(min=torch.finfo(like.dtype).eps))  # torch.rand may give 0, and never 1

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self._log_density(value)

    @abstractmethod
    def _log_density(self, value: Tensor) -> Tensor: ...


class Rayleigh(InverseCDF):
    """The Rayleigh distribution, the length of a centred bivariate normal vector: F(z) = 1 - exp(-z^2 / 2 scale^2).

    Args:
        scale: positive; the standard deviation of either component.
        validate_args: check parameters and values; Pyro's global setting if None.

    Example:
        >>> rayleigh = Rayleigh(torch.tensor(2.0))
        >>> rayleigh.cdf(rayleigh.icdf(torch.tensor(0.3)))
        tensor(0.3000)
    """

    arg_constraints = {"scale": constraints.positive}  # noqa: RUF012
    support = constraints.positive
    scale: Tensor

    def __init__(self, scale: Tensor | float, *, validate_args: bool | None = None) -> None:
        super().__init__(validate_args, scale=scale)

    def _log_density(self, value: Tensor) -> Tensor:
        return value.log() - 2 * self.scale.log() - 0.5 * (value / self.scale).square()

    def cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-0.5 * (value / self.scale).square())

    def icdf(self, value: Tensor) -> Tensor:
        return self.scale * (-2 * torch.log1p(-value)).sqrt()

    @property
    def mean(self) -> Tensor:
        return self.scale * math.sqrt(math.pi / 2)

    @property
    def variance(self) -> Tensor:
        return self.scale.square() * (2 - math.pi / 2)


class Gompertz(InverseCDF):
    """The Gompertz distribution of lifetimes, whose hazard grows as exp(rate z): F(z) = 1 - exp(-c (e^{rate z} - 1)).

    Args:
        concentration: c, positive.
        rate: positive, in units of 1 / z.
        validate_args: check parameters and values; Pyro's global setting if None.

    Example:
        >>> Gompertz(torch.tensor(1.0), torch.tensor(2.0)).mean  # e E_1(1) / 2
        tensor(0.2982)
    """

    arg_constraints = {"concentration": constraints.positive, "rate": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative
    concentration: Tensor
    rate: Tensor

    def __init__(
        self, concentration: Tensor | float, rate: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(validate_args, concentration=concentration, rate=rate)

    def _log_density(self, value: Tensor) -> Tensor:
        scaled = self.rate * value
        return self.concentration.log() + self.rate.log() + scaled - self.concentration * torch.expm1(scaled)

    def cdf(self, value: Tensor) -> Tensor:
        return -torch.expm1(-self.concentration * torch.expm1(self.rate * value))

    def icdf(self, value: Tensor) -> Tensor:
        return torch.log1p(-torch.log1p(-value) / self.concentration) / self.rate

    @property
    def mean(self) -> Tensor:
        return _scaled_exponential_integral(self.concentration) / self.rate


class Reciprocal(InverseCDF):
    """The reciprocal or log-uniform distribution, p(z) = 1 / (log_ratio z) on low < z < low exp(log_ratio).

    Args:
        low: the smallest value, positive.
        log_ratio: the logarithm of largest over smallest value, positive.
        validate_args: check parameters and values; Pyro's global setting if None.

    Example:
        >>> Reciprocal(torch.tensor(1.0), torch.tensor(100.0).log()).icdf(torch.tensor(0.5))
        tensor(10.)
    """

    arg_constraints = {"low": constraints.positive, "log_ratio": constraints.positive}  # noqa: RUF012
    low: Tensor
    log_ratio: Tensor

    def __init__(
        self, low: Tensor | float, log_ratio: Tensor | float, *, validate_args: bool | None = None
    ) -> None:
        super().__init__(validate_args, low=low, log_ratio=log_ratio)

    @constraints.dependent_property(is_discrete=False, event_dim=0)
    def support(self) -> constraints.Constraint:
        """The interval from low to low exp(log_ratio)."""
        return constraints.interval(self.low, self.low * self.log_ratio.exp())

    def _log_density(self, value: Tensor) -> Tensor:
        inside = (value >= self.low) & (value <= self.low * self.log_ratio.exp())
        return torch.where(inside, -value.log() - self.log_ratio.log(), -math.inf)

    def cdf(self, value: Tensor) -> Tensor:
        return ((value / self.low).log() / self.log_ratio).clamp(0, 1)

    def icdf(self, value: Tensor) -> Tensor:
        return self.low * (value * self.log_ratio).exp()

    @property
    def mean(self) -> Tensor:
        return self.low * torch.expm1(self.log_ratio) / self.log_ratio

    @property
    def variance(self) -> Tensor:
        second = self.low.square() * torch.expm1(2 * self.log_ratio) / (2 * self.log_ratio)
        return second - self.mean.square()


def _scaled_exponential_integral(x: Tensor) -> Tensor:
    """e^x E_1(x) for x > 0: the power series up to 1, the continued fraction beyond."""
    small, large = x.clamp(max=1.0), x.clamp(min=1.0)
    series, term = -(small.log() + 0.5772156649015329), torch.ones_like(x)  # Euler's constant
    for k in range(1, 25):
        term = -term * small / k
        series = series - term / k
    fraction = torch.zeros_like(x)
    for k in range(100, 0, -1):
        fraction = k * k / (large + 2 * k + 1 - fraction)
    return torch.where(x < 1, small.exp() * series, 1 / (large + 1 - fraction))
