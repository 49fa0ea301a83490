"""What an objective tells beside its loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Reports(Protocol):
    """Objective that tells more numbers than its loss; training writes their means per datum beside it.

    ``report(model, guide, *batch)`` gives ``"loss"``, which calling the objective gives too, and other scalars by
    name without a gradient, all summed over the data; ``"elbo"`` is the evidence lower bound.
    """

    def report(
        self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any
    ) -> dict[str, Tensor]: ...


class Reporting(nn.Module):
    """A bound as a module that reports: its value is the ``loss`` of its report; abstract.

    Attributes:
        starts_from_data: whether ``fit`` starts a program from the data before it is trained.
    """

    starts_from_data = True

    def forward(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> Tensor:
        return self.report(model, guide, *batch)["loss"]

    def report(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> dict[str, Tensor]:
        """``loss`` as the objective gives it, and without gradient what it tells beside.

        Args:
            model: Pyro model, called with the batch.
            guide: Pyro guide, called with the batch.
            batch: positional arguments of both.

        Returns:
            Scalars in nats, summed over the data.
        """
        raise NotImplementedError
