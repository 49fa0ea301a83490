"""Grey levels as cells of a real variable, and the distributions within cells that a guide needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.flow import FlowDistribution
from pyro_dgm.distributions.grid import GridDistribution
from pyro_dgm.distributions.latents import StandardLogistic
from pyro_dgm.distributions.transforms import Bijection
from pyro_dgm.distributions.transforms.bijection import sum_event
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import check_event, positive_sizes


class Quantized(GridDistribution):
    r"""The grey level of a real number: :math:`k = \lfloor L v \rfloor` for certain, on the grid x = k/(L-1).

    Numbers outside [0, 1) have the darkest or the brightest level.

    Args:
        v: real numbers.
        levels: number L of grey levels, at least 2.
        validate_args: check values; Pyro's global setting if None.

    Raises:
        InvalidInput: fewer than two levels.
        ValueError: with validation, a value off the grid.

    Example:
        >>> p = Quantized(torch.tensor([0.1, 0.3, 1.2]), levels=4)
        >>> p.sample() * 3, p.log_prob(torch.tensor([0.0, 0.0, 1.0]))
        (tensor([0., 1., 3.]), tensor([0., -inf, 0.]))

    Reference: Flow++ (Ho, Chen, Srinivas, Duan, Abbeel, 2019), section 3.1.
    """

    arg_constraints = {"v": torch.distributions.constraints.real}  # noqa: RUF012

    def __init__(self, v: Tensor, *, levels: int = 256, validate_args: bool | None = None) -> None:
        self.v = v
        super().__init__(levels, v.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero where v lies in the cell of the level, and minus infinity elsewhere."""
        if self._validate_args:
            self._validate_sample(value)
        k = (value * (self.levels - 1)).round()
        low, high = k / self.levels, (k + 1) / self.levels
        inside = ((self.v >= low) | (k <= 0)) & ((self.v < high) | (k >= self.levels - 1))
        return torch.where(inside, 0.0, -math.inf).to(self.v.dtype)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Grey levels, (*sample_shape, *batch_shape)."""
        return self.mean.expand(self._extended_shape(sample_shape))

    @property
    def mean(self) -> Tensor:
        """The levels themselves."""
        k = (self.v * self.levels).floor()
        # By the ends of cells as the density has them, which the product may have been rounded over.
        k = k + (self.v >= (k + 1) / self.levels).to(k.dtype) - (self.v < k / self.levels).to(k.dtype)
        return k.clamp(0, self.levels - 1) / (self.levels - 1)


class IntoCells(Bijection):
    r"""The map :math:`v = (k + \sigma(e)) / L` of the line into the cell of a grey level, which is the context.

    Args:
        event_shape: shape of one datum, and of one context x = k/(L-1).
        levels: number L of grey levels.

    Raises:
        InvalidInput: a size below one, or fewer than two levels.

    Example:
        >>> cells = IntoCells((2,), levels=4)
        >>> cells.forward_and_log_det(torch.zeros(2), torch.tensor([0.0, 1.0]))[0]
        tensor([0.1250, 0.8750])
    """

    def __init__(self, event_shape: Sequence[int], *, levels: int) -> None:
        super().__init__(event_shape, context_shape=event_shape)
        if levels < 2:
            raise InvalidInput(
                "too few grey levels", where="levels", value=levels, expected="an integer >= 2"
            )
        self.levels = levels

    def _cells(self, context: Tensor | None) -> Tensor:
        assert context is not None
        return (context * (self.levels - 1)).round()

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        k = self._cells(context)
        v = (k + x.sigmoid()) / self.levels
        low, high = k / self.levels, (k + 1) / self.levels
        # Rounding may not move v to the next cell, where the model gives this level no probability.
        v = torch.minimum(torch.maximum(v, low), torch.nextafter(high, low))
        return v, self._log_det(x)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        k = self._cells(context)
        x = (y * self.levels - k).logit(eps=torch.finfo(y.dtype).eps)
        inside = (
            ((y >= k / self.levels) & (y < (k + 1) / self.levels)).flatten(-len(self.event_shape)).all(-1)
        )
        return x, torch.where(inside, -self._log_det(x), -math.inf)  # no density in other cells

    def _log_det(self, x: Tensor) -> Tensor:
        log_slopes = nn.functional.logsigmoid(x) + nn.functional.logsigmoid(-x) - math.log(self.levels)
        return sum_event(log_slopes, self.event_shape)


class Dequantization(nn.Module):
    r"""The conditional :math:`v = (k + \sigma(e)) / L` given grey levels x = k/(L-1), with :math:`e \sim q(e \mid x)`.

    Without a base e is logistic, and v uniform in its cell: uniform dequantisation. With one that learns, such as
    :class:`NormalMaps`, the dequantisation is variational.

    Args:
        data_shape: shape of one datum.
        levels: number L of grey levels.
        base: piece whose call with x returns a distribution of e, of event shape ``data_shape``.

    Raises:
        InvalidInput: a size below one, or fewer than two levels.

    Example:
        >>> q = Dequantization((1, 8, 8), levels=17)(torch.zeros(5, 1, 8, 8))
        >>> v = q.rsample()
        >>> v.shape, bool((v < 1 / 17).all()), torch.allclose(q.log_prob(v), torch.tensor(64 * math.log(17)))
        (torch.Size([5, 1, 8, 8]), True, True)

    Reference: Flow++ (Ho, Chen, Srinivas, Duan, Abbeel, 2019), section 3.1.
    """

    def __init__(self, data_shape: Sequence[int], *, levels: int, base: nn.Module | None = None) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        self.bijection = IntoCells(self.data_shape, levels=levels)
        self.uniform = StandardLogistic(self.data_shape) if base is None else None
        self.base = base

    def forward(self, x: Tensor) -> FlowDistribution:
        """The distribution of v given ``x``, (..., *data_shape), of event shape ``data_shape``."""
        check_event(x, self.data_shape, "Dequantization")
        if self.uniform is not None:
            return FlowDistribution(self.uniform(), self.bijection, x)
        assert self.base is not None
        return FlowDistribution(self.base(x), self.bijection, x)
