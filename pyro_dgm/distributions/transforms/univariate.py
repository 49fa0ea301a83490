"""Increasing maps of single elements, whose parameters a network gives: what couplings and autoregressions apply."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput


class Univariate(nn.Module):
    """An increasing map of the line with ``num_params`` parameters, near the identity if they are zero; abstract.

    Args:
        num_params: number of parameters of one element.
    """

    def __init__(self, num_params: int) -> None:
        super().__init__()
        self.num_params = num_params

    @abstractmethod
    def forward_and_log_slope(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """y and log dy/dx, both (...), of ``x`` (...) with parameters ``params`` (..., num_params)."""

    @abstractmethod
    def inverse_and_log_slope(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        """x and log dx/dy, both (...), of ``y`` (...) with parameters ``params`` (..., num_params)."""


class Shift(Univariate):
    """y = x + b.

    Example:
        >>> import torch
        >>> Shift().forward_and_log_slope(torch.ones(3), torch.full((3, 1), 2.0))[0]
        tensor([3., 3., 3.])

    Reference: NICE: non-linear independent components estimation (Dinh, Krueger, Bengio, 2015).
    """

    def __init__(self) -> None:
        super().__init__(1)

    def forward_and_log_slope(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        b = params.squeeze(-1)
        return x + b, b.new_zeros(()).expand_as(b)

    def inverse_and_log_slope(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        b = params.squeeze(-1)
        return y - b, b.new_zeros(()).expand_as(b)


class Affine(Univariate):
    r"""y = e^s x + b with :math:`s = s' / (1 + |s'| / m)`: slopes lie between e^{-m} and e^m.

    Without a bound one bad output of the network overflows, and what it maps to cannot be brought back.

    Args:
        max_log_slope: m, above zero.

    Raises:
        InvalidInput: a bound that is not positive.

    Example:
        >>> import torch
        >>> y, log_slope = Affine().forward_and_log_slope(torch.ones(3), torch.zeros(3, 2))
        >>> y, log_slope
        (tensor([1., 1., 1.]), tensor([0., 0., 0.]))

    Reference: Density estimation using Real NVP (Dinh, Sohl-Dickstein, Bengio, 2017).
    """

    def __init__(self, max_log_slope: float = 5.0) -> None:
        super().__init__(2)
        self.max_log_slope = positive_number(max_log_slope, "max_log_slope")

    def forward_and_log_slope(self, x: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        s, b = self._parts(params)
        return x * s.exp() + b, s

    def inverse_and_log_slope(self, y: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
        s, b = self._parts(params)
        return (y - b) * (-s).exp(), -s

    def _parts(self, params: Tensor) -> tuple[Tensor, Tensor]:
        raw, b = params.unbind(-1)
        return bounded(raw, self.max_log_slope), b


def bounded(raw: Tensor, bound: float) -> Tensor:
    """Numbers in (-bound, bound) that are near ``raw`` where that is small: raw / (1 + |raw| / bound)."""
    return raw / (1 + (raw / bound).abs())


def positive_number(value: float, where: str) -> float:
    """The value of the argument ``where``, or an error unless it is above zero."""
    if not value > 0:
        raise InvalidInput("bad bound", where=where, value=value, expected="a number > 0")
    return value
