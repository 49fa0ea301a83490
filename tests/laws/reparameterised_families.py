"""Families of reparameterised distributions with random parameters and moments in closed form."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import scipy.special
import torch
from torch import Tensor

from pyro_dgm.distributions import Gompertz, Rayleigh, Reciprocal, Triangular, UniformInterval

EULER = 0.5772156649015329
digamma = torch.special.digamma
same = lambda z: z  # noqa: E731
square = torch.square
log = torch.log


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        make: distribution of parameters given by name.
        ranges: from where each parameter is drawn; a shape as third entry for a vector.
        moments: function f of a draw, and E f(z) as a function of the parameters.
        levels: names of the parameters by which the ``cdf`` can be differentiated.
        has_icdf: whether there is an inverse distribution function.
    """

    make: Callable[..., Any]
    ranges: Mapping[str, tuple[Any, ...]]
    moments: tuple[tuple[Callable[[Tensor], Tensor], Callable[..., Tensor]], ...]
    levels: tuple[str, ...] = ()
    has_icdf: bool = True

    def parameters(self, seed: int) -> dict[str, Tensor]:
        """Random parameters, float64."""
        generator = torch.Generator().manual_seed(seed)
        drawn = {}
        for name, (low, high, *shape) in self.ranges.items():
            uniform = torch.rand(shape[0] if shape else (), generator=generator, dtype=torch.float64)
            drawn[name] = low + (high - low) * uniform
        return drawn


class ScaledExponentialIntegral(torch.autograd.Function):
    """g(c) = e^c E_1(c) by scipy; g' = g - 1 / c."""

    @staticmethod
    def forward(ctx, c):
        ctx.save_for_backward(c)
        return torch.as_tensor(scipy.special.exp1(c.numpy())) * c.exp()

    @staticmethod
    def backward(ctx, gradient):
        (c,) = ctx.saved_tensors
        return gradient * (torch.as_tensor(scipy.special.exp1(c.numpy())) * c.exp() - 1 / c)


LOC, SCALE, SHAPE = (-1.0, 1.0), (0.5, 2.0), (1.5, 4.0)
location = {"loc": LOC, "scale": SCALE}
both = ("loc", "scale")


def location_scale(make: Callable[..., Any], mean: float, variance: float) -> Family:
    """z = loc + scale e, with the mean and the variance of e."""
    second = lambda loc, scale: (loc + mean * scale) ** 2 + variance * scale**2  # noqa: E731
    return Family(make, location, ((same, lambda loc, scale: loc + mean * scale), (square, second)), both)


def mvn(loc: Tensor, factor: Tensor) -> Any:
    """An elliptical family: z = loc + A e."""
    return dist.MultivariateNormal(loc, scale_tril=torch.tril(factor))


def covariance_plus(loc: Tensor, factor: Tensor) -> Tensor:
    return (torch.tril(factor)[0] * torch.tril(factor)[1]).sum() + loc[0] * loc[1]


FAMILIES = {
    # ---- 1. a tractable inverse distribution function
    "Exponential": Family(
        dist.Exponential,
        {"rate": SCALE},
        ((same, lambda rate: 1 / rate), (log, lambda rate: -EULER - log(rate))),
        ("rate",),
    ),
    # Without moments: the real part of the characteristic function.
    "Cauchy": Family(
        dist.Cauchy, location, ((torch.cos, lambda loc, scale: torch.exp(-scale) * torch.cos(loc)),), both
    ),
    "Logistic": location_scale(dist.Logistic, 0.0, math.pi**2 / 3),
    "Rayleigh": Family(
        Rayleigh,
        {"scale": SCALE},
        ((same, lambda scale: scale * math.sqrt(math.pi / 2)), (square, lambda scale: 2 * scale**2)),
        ("scale",),
    ),
    "Pareto": Family(
        lambda scale, alpha: dist.Pareto(scale, alpha),
        {"scale": SCALE, "alpha": SHAPE},
        ((log, lambda scale, alpha: log(scale) + 1 / alpha),),
        ("scale", "alpha"),
    ),
    "Weibull": Family(
        lambda scale, concentration: dist.Weibull(scale, concentration),
        {"scale": SCALE, "concentration": SHAPE},
        (
            (same, lambda scale, concentration: scale * torch.exp(torch.lgamma(1 + 1 / concentration))),
            (log, lambda scale, concentration: log(scale) - EULER / concentration),
        ),
        ("scale", "concentration"),
    ),
    "Reciprocal": Family(
        Reciprocal,
        {"low": SCALE, "log_ratio": SCALE},
        (
            (log, lambda low, log_ratio: log(low) + log_ratio / 2),
            (same, lambda low, log_ratio: low * torch.expm1(log_ratio) / log_ratio),
        ),
        ("low", "log_ratio"),
    ),
    "Gompertz": Family(
        Gompertz,
        {"concentration": SCALE, "rate": SCALE},
        ((same, lambda concentration, rate: ScaledExponentialIntegral.apply(concentration) / rate),),
        ("concentration", "rate"),
    ),
    "Gumbel": location_scale(dist.Gumbel, EULER, math.pi**2 / 6),
    "Erlang": Family(
        lambda rate: dist.Gamma(torch.full_like(rate, 3.0), rate),
        {"rate": SCALE},
        ((same, lambda rate: 3 / rate), (square, lambda rate: 12 / rate**2)),
        ("rate",),
        has_icdf=False,
    ),
    # ---- 2. location and scale
    "Laplace": location_scale(dist.Laplace, 0.0, 2.0),
    "elliptical": Family(
        mvn,
        {"loc": (*LOC, (3,)), "factor": (0.5, 1.5, (3, 3))},
        (
            (lambda z: z[..., 0] * z[..., 1], covariance_plus),
            (lambda z: z[..., 2], lambda loc, factor: loc[2]),
        ),
        has_icdf=False,
    ),
    "StudentT": Family(
        dist.StudentT,
        {"df": (12.0, 20.0), "loc": LOC, "scale": SCALE},
        (
            (same, lambda df, loc, scale: loc),
            (square, lambda df, loc, scale: loc**2 + scale**2 * df / (df - 2)),
        ),
        has_icdf=False,
    ),
    "Uniform": location_scale(UniformInterval, 0.5, 1 / 12),
    "Triangular": Family(
        Triangular,
        {**location, "peak": (0.1, 0.9)},
        (
            (same, lambda loc, scale, peak: loc + scale * (1 + peak) / 3),
            (
                square,
                lambda loc, scale, peak: (
                    (loc + scale * (1 + peak) / 3) ** 2 + scale**2 * (1 - peak + peak**2) / 18
                ),
            ),
        ),
        ("loc", "scale", "peak"),
    ),
    "Normal": location_scale(dist.Normal, 0.0, 1.0),
    # ---- 3. composition
    "LogNormal": Family(
        dist.LogNormal,
        {"loc": LOC, "scale": (0.3, 0.8)},
        ((same, lambda loc, scale: torch.exp(loc + scale**2 / 2)), (log, lambda loc, scale: loc)),
        both,
    ),
    "Gamma": Family(
        dist.Gamma,
        {"concentration": SHAPE, "rate": SCALE},
        (
            (same, lambda concentration, rate: concentration / rate),
            (log, lambda concentration, rate: digamma(concentration) - log(rate)),
        ),
        ("rate",),
        has_icdf=False,
    ),
    "Dirichlet": Family(
        dist.Dirichlet,
        {"concentration": (*SHAPE, (3,))},
        (
            (
                lambda z: log(z[..., 0]),
                lambda concentration: digamma(concentration[0]) - digamma(concentration.sum()),
            ),
            (lambda z: z[..., 1], lambda concentration: concentration[1] / concentration.sum()),
        ),
        has_icdf=False,
    ),
    "Beta": Family(
        dist.Beta,
        {"concentration1": SHAPE, "concentration0": SHAPE},
        (
            (same, lambda concentration1, concentration0: concentration1 / (concentration1 + concentration0)),
            (
                log,
                lambda concentration1, concentration0: (
                    digamma(concentration1) - digamma(concentration1 + concentration0)
                ),
            ),
        ),
        has_icdf=False,
    ),
    "Chi2": Family(
        dist.Chi2,
        {"df": (3.0, 6.0)},
        ((same, lambda df: df), (log, lambda df: digamma(df / 2) + math.log(2))),
        has_icdf=False,
    ),
    "F": Family(
        dist.FisherSnedecor,
        {"df1": (3.0, 6.0), "df2": (6.0, 9.0)},
        (
            (
                log,
                lambda df1, df2: digamma(df1 / 2) - digamma(df2 / 2) + log(df2 / df1),
            ),
        ),
        has_icdf=False,
    ),
}
