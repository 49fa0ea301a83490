"""What an objective tells beside its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Reports(Protocol):
    """Objective that tells more numbers than its loss; training writes their means per datum beside it.

    ``report(model, guide, *batch)`` gives ``"loss"``, which calling the objective gives too, and other scalars by
    name without a gradient, all summed over the data; ``"elbo"`` is the evidence lower bound.
    """

    def report(
        self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any
    ) -> dict[str, Tensor]: ...
