"""Distributions of grey levels: the grid 0, 1/(levels-1), ..., 1 and what they all share."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.errors import InvalidInput


class UnitGrid(constraints.Constraint):
    """The grid k/(levels-1), k = 0 ... levels-1, as a constraint.

    A value passes within a hundredth of a grid step, which float32 rounding stays below up to 16 bits.

    Args:
        levels: number of grid points, at least 2.

    Example:
        >>> UnitGrid(256).check(torch.tensor([0.0, 17 / 255, 0.5, 2.0, float("nan")]))
        tensor([ True,  True, False, False, False])
    """

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        near = (steps - steps.round()).abs() <= 0.01
        return near & (steps > -0.5) & (steps < self.levels - 0.5)

    def __repr__(self) -> str:
        return f"UnitGrid(levels={self.levels}): multiples of 1/{self.levels - 1} from 0 to 1"


class GridDistribution(TorchDistribution):
    """A distribution on the grid k/(levels-1), k = 0 ... levels-1; abstract.

    A subclass sets its parameters (named by ``arg_constraints``, already broadcast) as attributes, calls
    this constructor, and defines ``log_prob``, ``sample`` and ``mean``.

    Args:
        levels: number of grid points, at least 2.
        batch_shape: the shape of the parameters.
        validate_args: check parameters and values; Pyro's global setting if None.

    Raises:
        InvalidInput: fewer than two levels.
    """

    has_rsample = False
    has_enumerate_support = True

    def __init__(self, levels: int, batch_shape: torch.Size, *, validate_args: bool | None = None) -> None:
        if levels < 2:
            raise InvalidInput(
                "too few grey levels", where="levels", value=levels, expected="an integer >= 2"
            )
        self.levels = levels
        super().__init__(batch_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> UnitGrid:
        """The grid."""
        return UnitGrid(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape, sharing memory."""
        new = self._get_checked_instance(type(self), _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        GridDistribution.__init__(new, self.levels, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The grid along a new first dimension, (levels, *batch_shape) or (levels, 1, ..., 1)."""
        like = getattr(self, next(iter(self.arg_constraints)))
        grid = torch.arange(self.levels, dtype=like.dtype, device=like.device) / (self.levels - 1)
        grid = grid.reshape(-1, *(1,) * len(self.batch_shape))
        return grid.expand(-1, *self.batch_shape) if expand else grid
