"""The logistic distribution rounded to grey levels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all
from torch.nn.functional import logsigmoid

from pyro_dgm.distributions.grid import GridDistribution


class DiscretizedLogistic(GridDistribution):
    r"""A logistic variable rounded to the nearest grey level, on the grid x = k/(levels-1).

    With the half width h = 1/(2(levels-1)) of a bin and F the logistic cumulative distribution function,

        P(x) = F(x + h) - F(x - h),   F(t) = sigmoid((t - loc) / scale),

    where the bins of the darkest and the brightest level reach to -infinity and +infinity, so that P sums
    to one whatever the parameters. In log space the difference has the closed form

        log P(x) = log sigmoid(b) + log sigmoid(-a) + log(1 - exp(-(b - a))),   a, b = (x -+ h - loc) / scale,

    in which b - a = 2h/scale is formed without cancellation: nothing needs to be clamped.

    Args:
        loc: centre, in units of the data (black 0, white 1); any real number.
        scale: scale of the logistic, in units of the data; positive.
        levels: number of grey levels, at least 2.
        validate_args: check parameters and values; Pyro's global setting if None.

    Raises:
        InvalidInput: fewer than two levels.
        ValueError: with validation, a scale that is not positive, or a value off the grid.

    Example:
        >>> pmf = DiscretizedLogistic(torch.tensor(-3.0), torch.tensor(0.01), levels=5)
        >>> pmf.log_prob(pmf.enumerate_support()).exp()
        tensor([1., 0., 0., 0., 0.])

    Reference: PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans, Karpathy, Chen, Kingma, 2017).
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(
        self, loc: Tensor, scale: Tensor, *, levels: int = 256, validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(levels, self.loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of grey levels; values are rounded to the grid."""
        if self._validate_args:
            self._validate_sample(value)
        steps = self.levels - 1
        k = (value * steps).round()
        below = (k + 0.5) / steps - self.loc  # signed distance of loc from the bin's upper edge
        above = self.loc - (k - 0.5) / steps
        darkest, brightest = k <= 0, k >= steps
        log_below = torch.where(brightest, 0.0, logsigmoid(below / self.scale))
        log_above = torch.where(darkest, 0.0, logsigmoid(above / self.scale))
        log_width = torch.log(-torch.expm1(-1 / (steps * self.scale)))
        return log_below + log_above + torch.where(darkest | brightest, 0.0, log_width)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Grey levels, (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            uniform = torch.rand(
                self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device
            )
            steps = self.levels - 1
            # A draw of exactly 0 is -infinity here and becomes the darkest level: no clamp is needed.
            logistic = self.loc + self.scale * torch.logit(uniform)
            return (logistic * steps).round().clamp(0, steps) / steps

    @property
    def mean(self) -> Tensor:
        """The exact mean of the rounded variable, as the sum over k >= 1 of P(level >= k), / (levels-1).

        It costs levels - 1 sigmoids for each element, and memory for two.
        """
        steps = self.levels - 1
        total = torch.zeros_like(self.loc)
        for k in range(1, self.levels):
            total = total + torch.sigmoid((self.loc - (k - 0.5) / steps) / self.scale)
        return total / steps
