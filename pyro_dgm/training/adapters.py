"""Steps that others wrote, checked as our own are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from pyro import poutine
from pyro.infer import SVI
from pyro.infer.util import zero_grads

from pyro_dgm.errors import InvalidInput, NonFiniteError
from pyro_dgm.training.random_state import restore, snapshot
from pyro_dgm.training.steps import Step, require_finite


@runtime_checkable
class Evaluates(Protocol):
    """Step that can tell its loss, summed over the batch, without an update."""

    def evaluate_loss(self, *batch: Any) -> float: ...


@runtime_checkable
class CheckedStep(Protocol):
    """What the loop of ``fit`` drives: per-datum losses by name, refused before the update where possible."""

    gradient_norms: dict[str, float]
    reports: dict[str, dict[str, float]]
    optimizers: dict[str, torch.optim.Optimizer]
    count: int

    def step(self, *batch: Any) -> dict[str, float]: ...

    def evaluate_loss(self, *batch: Any) -> float: ...


class CheckedSVI:
    """Pyro's ``SVI`` with a check between its gradient and its update.

    The gradient is that of the summed loss, as in ``SVI.step``; losses and gradient norms are told per datum.

    Args:
        svi: the user's object; its optimiser and its parameters are used as they are.
    """

    def __init__(self, svi: SVI, *, max_loss: float = math.inf) -> None:
        self.svi = svi
        self.max_loss = max_loss
        self.gradient_norms: dict[str, float] = {}
        self.reports: dict[str, dict[str, float]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.count = 0

    def step(self, *batch: Any) -> dict[str, float]:
        num_data = len(batch[0]) if batch else 1
        device = batch[0].device if batch else torch.device("cpu")
        before = snapshot(device)
        try:
            with poutine.trace(param_only=True) as capture:
                result = self.svi.loss_and_grads(self.svi.model, self.svi.guide, *batch)
        except ValueError:
            restore(before)
            raise
        values: list[Any] = [site["value"] for site in capture.trace.nodes.values()]
        parameters = {value.unconstrained() for value in values}
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) / num_data
        losses = _per_datum(result, num_data)
        try:
            where = f"step {self.count + 1}"
            require_finite(losses, where=where, max_loss=self.max_loss)
            require_finite({"gradient": norm}, where=where)
        except NonFiniteError:
            zero_grads(parameters)
            restore(before)
            raise
        self.svi.optim(parameters)
        zero_grads(parameters)
        self.count += 1
        self.gradient_norms = dict.fromkeys(losses, norm)
        return losses

    def evaluate_loss(self, *batch: Any) -> float:
        return float(self.svi.evaluate_loss(*batch))


class CheckedAfterwards:
    """Step whose update happens inside: a bad loss is told at once, but after it was applied.

    Args:
        inner: anything with ``.step(*batch)``; to be validated, it needs ``evaluate_loss(*batch)``.
    """

    def __init__(self, inner: Any, *, max_loss: float = math.inf) -> None:
        self.inner = inner
        self.max_loss = max_loss
        self.gradient_norms: dict[str, float] = {}
        self.reports: dict[str, dict[str, float]] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.count = 0

    def step(self, *batch: Any) -> dict[str, float]:
        losses = _per_datum(self.inner.step(*batch), len(batch[0]) if batch else 1)
        where = f"step {self.count + 1} (its update was already applied)"
        require_finite(losses, where=where, max_loss=self.max_loss)
        self.count += 1
        return losses

    def evaluate_loss(self, *batch: Any) -> float:
        return float(self.inner.evaluate_loss(*batch))


def checked(step: Step, *, max_loss: float | None = None) -> CheckedStep:
    """A user's step as the loop drives it.

    Args:
        step: Pyro's ``SVI``, :class:`Players` or anything with ``.step(*batch)``.
        max_loss: see :class:`Players`, which have their own.

    Raises:
        InvalidInput: ``max_loss`` for a step that checks its losses itself.
    """
    if isinstance(step, CheckedStep):
        if max_loss is not None:
            raise InvalidInput(
                "max_loss beside the step's own",
                where="max_loss",
                value=max_loss,
                cure=f"{type(step).__name__}(..., max_loss=...)",
            )
        return step
    limit = math.inf if max_loss is None else max_loss
    # A subclass of SVI may have a step of its own, which must not be bypassed.
    if type(step) is SVI:
        return CheckedSVI(step, max_loss=limit)
    return CheckedAfterwards(step, max_loss=limit)


def _per_datum(result: Any, num_data: int) -> dict[str, float]:
    """Losses per datum by name, of what a step returned."""
    if isinstance(result, Mapping):
        return {name: float(value) for name, value in result.items()}
    values = torch.as_tensor(result, dtype=torch.float64).flatten().tolist()
    names = ["loss"] if len(values) == 1 else [f"{i}" for i in range(len(values))]
    return {name: value / num_data for name, value in zip(names, values, strict=True)}
