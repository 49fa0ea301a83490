"""Roots of increasing functions, element by element: inverses that have no closed form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 100  # by far more than are needed: each halves the bracket or is a step of Newton's method


def increasing_root(function: Callable[[Tensor], tuple[Tensor, Tensor]], low: Tensor, high: Tensor) -> Tensor:
    """Where an increasing function is zero, by Newton's method kept in a bracket, to the last digits.

    Gradients of first order are those of the implicit function: dr/dtheta = -(df/dtheta) / (df/dr).

    Args:
        function: from r (...) to the values and the positive slopes at r, both (...).
        low: where the function is at most zero.
        high: where it is at least zero.

    Example:
        >>> increasing_root(lambda r: (r**3 - 8, 3 * r**2 + 1e-9), torch.tensor(0.0), torch.tensor(9.0))
        tensor(2.)
    """
    with torch.no_grad():
        low, high = low.detach().clone(), high.detach().clone()
        r = 0.5 * (low + high)
        for _ in range(_STEPS):
            value, slope = function(r)
            low, high = torch.where(value <= 0, r, low), torch.where(value >= 0, r, high)
            newton = r - value / slope
            inside = (newton > low) & (newton < high)
            moved = torch.where(inside, newton, 0.5 * (low + high))
            if bool((moved == r).all()):
                break
            r = moved
    value, slope = function(r)
    return r - value / slope.detach() if torch.is_grad_enabled() else r
