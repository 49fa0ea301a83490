"""Monotone rational-quadratic splines, computed without a difference of large numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.transforms.univariate import Univariate, bounded, positive_number
from pyro_dgm.errors import InvalidInput


class RationalQuadratic(Univariate):
    r"""A monotone rational-quadratic spline on [-bound, bound], and the identity outside.

    With the place :math:`\xi` of x and :math:`\eta` of y within a bin of width w, height h, chord s = h / w and slopes
    :math:`d_0, d_1` at its ends,

    .. math:: \eta = \frac{s \xi^2 + d_0 \xi (1 - \xi)}{v}, \quad
              \frac{dy}{dx} = \frac{s^2 (d_1 \xi^2 + 2 s \xi (1 - \xi) + d_0 (1 - \xi)^2)}{v^2}, \quad
              v = s (\xi^2 + (1 - \xi)^2) + (d_0 + d_1) \xi (1 - \xi).

    The usual inverse solves a quadratic equation whose discriminant may come out negative in float32. It is

    .. math:: r^2 = t^2 + 4 s^2 \eta (1 - \eta), \quad t = d_0 (1 - \eta) - d_1 \eta,

    a sum of squares, and :math:`\xi = 2 s \eta / (2 s \eta + u)` with :math:`u = t + r` is a quotient of positive
    numbers, where u is :math:`4 s^2 \eta (1 - \eta) / (r - t)` for negative t.

    Args:
        num_bins: number K of bins; there are 3K - 1 parameters: K widths, K heights and K - 1 slopes.
        bound: where the spline ends.
        max_log_slope: bound on the logarithms of the slopes at knots, and of the ratios of two bins' widths or heights.

    Raises:
        InvalidInput: no bins, or a bound that is not positive.

    Example:
        >>> spline = RationalQuadratic(num_bins=4)
        >>> x, params = torch.linspace(-4, 4, 5), torch.randn(5, spline.num_params)
        >>> y, log_slope = spline.forward_and_log_slope(x, params)
        >>> torch.allclose(spline.inverse_and_log_slope(y, params)[0], x, atol=1e-4)
        True

    Reference: Neural spline flows (Durkan, Bekasov, Murray, Papamakarios, 2019).
    """

    def __init__(self, num_bins: int = 8, *, bound: float = 3.0, max_log_slope: float = 6.0) -> None:
        if num_bins < 1:
            raise InvalidInput("no bins", where="num_bins", value=num_bins, expected="an integer >= 1")
        super().__init__(3 * num_bins - 1)
        self.num_bins, self.bound = num_bins, positive_number(bound, "bound")
        self.max_log_slope = positive_number(max_log_slope, "max_log_slope")

    def forward_and_log_slope(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs() < self.bound
        x_0, w, y_0, h, d_0, d_1 = self._bin(x, params, of_y=False)
        xi = ((x - x_0) / w).clamp(0, 1)
        rest, s = 1 - xi, h / w
        v = s * (xi * xi + rest * rest) + (d_0 + d_1) * xi * rest
        y = y_0 + h * (s * xi * xi + d_0 * xi * rest) / v
        log_slope = _log_slope(xi, rest, s, d_0, d_1, v)
        return torch.where(inside, y, x), torch.where(inside, log_slope, 0.0)

    def inverse_and_log_slope(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        inside = y.abs() < self.bound
        x_0, w, y_0, h, d_0, d_1 = self._bin(y, params, of_y=True)
        eta = ((y - y_0) / h).clamp(0, 1)
        s = h / w
        t, q = d_0 * (1 - eta) - d_1 * eta, 4 * s * s * eta * (1 - eta)
        r = (t * t + q).clamp(min=torch.finfo(t.dtype).tiny).sqrt()
        u = torch.where(t >= 0, t + r, q / (r - t).clamp(min=torch.finfo(t.dtype).tiny))
        total = 2 * s * eta + u
        xi, rest = 2 * s * eta / total, u / total
        v = s * (xi * xi + rest * rest) + (d_0 + d_1) * xi * rest
        log_slope = _log_slope(xi, rest, s, d_0, d_1, v)
        return torch.where(inside, x_0 + w * xi, y), torch.where(inside, -log_slope, 0.0)

    def _bin(self, value: Tensor, params: Tensor, *, of_y: bool) -> tuple[Tensor, ...]:
        """Start and width, start and height, and slopes at both ends of the bin that each value lies in."""
        sizes, slopes = params.split([2 * self.num_bins, self.num_bins - 1], -1)
        # Exponentials of bounded numbers need no maximum taken away first, as softmax does, slowly for a few bins.
        ends_of = bounded(sizes.unflatten(-1, (2, -1)), 0.5 * self.max_log_slope).exp().cumsum(-1)
        inner = (2 * self.bound) * ends_of[..., :-1] / ends_of[..., -1:] - self.bound
        knots = nn.functional.pad(inner, (1, 1), value=self.bound)  # (..., 2, K + 1)
        knots = torch.cat([-knots[..., :1], knots[..., 1:]], -1)
        k = (value.unsqueeze(-1) >= inner[..., int(of_y), :]).sum(-1, keepdim=True)
        raw = nn.functional.pad(slopes, (1, 1))  # slopes are one at the ends
        both = k.unsqueeze(-2).expand(*k.shape[:-1], 2, 1)
        x_0, y_0 = knots.gather(-1, both).squeeze(-1).unbind(-1)
        x_1, y_1 = knots.gather(-1, both + 1).squeeze(-1).unbind(-1)
        ends = raw.gather(-1, torch.cat([k, k + 1], -1))
        d_0, d_1 = bounded(ends, self.max_log_slope).exp().unbind(-1)
        return x_0, x_1 - x_0, y_0, y_1 - y_0, d_0, d_1


def _log_slope(xi: Tensor, rest: Tensor, s: Tensor, d_0: Tensor, d_1: Tensor, v: Tensor) -> Tensor:
    return 2 * s.log() + (d_1 * xi * xi + 2 * s * xi * rest + d_0 * rest * rest).log() - 2 * v.log()
