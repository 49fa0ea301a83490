"""Schedules: weights that change with the number of training steps."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput


class Schedule(ABC):
    """A function from the number of training steps done, a float tensor, to a weight of the same shape."""

    @abstractmethod
    def __call__(self, step: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Linear(Schedule):
    """Straight line from ``start`` to ``end`` over ``steps`` steps, then constant.

    Args:
        steps: length in training steps.
        start: first value.
        end: last value.

    Raises:
        InvalidInput: a length below one step, or a negative value.

    Example:
        >>> import torch
        >>> Linear(100)(torch.tensor([0.0, 50.0, 1000.0]))
        tensor([0.0000, 0.5000, 1.0000])

    Reference:
        Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, "Generating sentences from a continuous space", 2016.
    """

    steps: int
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, step: Tensor) -> Tensor:
        return _between(self, (step / self.steps).clamp(max=1.0))


@dataclass(frozen=True)
class Cyclical(Schedule):
    """Sawtooth: in each of ``cycles`` equal parts a line from ``start`` to ``end``, then constant; in the end ``end``.

    Args:
        steps: length of all cycles in training steps.
        cycles: number of cycles.
        ramp: share of a cycle in which the value rises.
        start: value at the beginning of each cycle.
        end: value in the rest of each cycle, and after the last.

    Raises:
        InvalidInput: a length below one step, no cycle, a share that is not in (0, 1], or a negative value.

    Example:
        >>> import torch
        >>> Cyclical(100, cycles=2)(torch.tensor([0.0, 10.0, 25.0, 49.0, 50.0, 100.0]))
        tensor([0.0000, 0.4000, 1.0000, 1.0000, 0.0000, 1.0000])

    Reference:
        Fu, Li, Liu, Gao, Celikyilmaz and Carin, "Cyclical annealing schedule: a simple approach to mitigating KL
        vanishing", 2019.
    """

    steps: int
    cycles: int = 4
    ramp: float = 0.5
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _check(self)
        _check_count(self, "cycles")
        if not 0.0 < self.ramp <= 1.0:
            raise InvalidInput(
                "bad share", where="ramp of Cyclical", value=self.ramp, expected="a number in (0, 1]"
            )

    def __call__(self, step: Tensor) -> Tensor:
        inside = (step * self.cycles / self.steps) % 1.0
        risen = torch.where(step < self.steps, inside / self.ramp, torch.ones_like(inside))
        return _between(self, risen.clamp(max=1.0))


@dataclass(frozen=True)
class Sigmoid(Schedule):
    r"""Logistic curve from ``start`` to ``end`` over ``steps`` steps: half way at half of them, then constant.

    :math:`\sigma(k (t / T - 1/2))` moved and stretched to begin at ``start`` and to reach ``end`` at T.

    Args:
        steps: length T in training steps.
        start: first value.
        end: last value.
        steepness: k; at 10 nine tenths of the way are done in the middle 56 % of the steps.

    Raises:
        InvalidInput: a length below one step, a steepness that is not positive, or a negative value.

    Example:
        >>> import torch
        >>> Sigmoid(100)(torch.tensor([0.0, 25.0, 50.0, 100.0, 1000.0]))
        tensor([0.0000, 0.0701, 0.5000, 1.0000, 1.0000])

    Reference:
        Bowman, Vilnis, Vinyals, Dai, Jozefowicz and Bengio, "Generating sentences from a continuous space", 2016.
    """

    steps: int
    start: float = 0.0
    end: float = 1.0
    steepness: float = 10.0

    def __post_init__(self) -> None:
        _check(self)
        if not 0.0 < self.steepness < math.inf:
            raise InvalidInput(
                "bad steepness", where="steepness of Sigmoid", value=self.steepness, expected="a number > 0"
            )

    def __call__(self, step: Tensor) -> Tensor:
        share = (step / self.steps).clamp(max=1.0)
        # sigma(u) = (1 + tanh(u / 2)) / 2, which keeps its digits however flat or steep the curve is.
        curve = 0.5 + 0.5 * (0.5 * self.steepness * (share - 0.5)).tanh() / math.tanh(self.steepness / 4)
        curve = torch.where(share > 0.0, curve.clamp(0.0, 1.0), torch.zeros_like(curve))
        return _between(self, torch.where(share < 1.0, curve, torch.ones_like(curve)))


def _between(schedule: Any, share: Tensor) -> Tensor:
    """``start`` at a share of 0 and ``end`` at 1, both to the last bit."""
    rise = schedule.end - schedule.start
    return torch.where(share < 0.5, schedule.start + rise * share, schedule.end - rise * (1.0 - share))


def _check(schedule: Any) -> None:
    _check_count(schedule, "steps")
    for name in ("start", "end"):
        value = getattr(schedule, name)
        if not 0.0 <= value < math.inf:
            where = f"{name} of {type(schedule).__name__}"
            raise InvalidInput("bad weight", where=where, value=value, expected="a number >= 0")


def _check_count(schedule: Any, name: str) -> None:
    value = getattr(schedule, name)
    if not (1 <= value < math.inf and value == int(value)):
        where = f"{name} of {type(schedule).__name__}"
        raise InvalidInput(f"no {name}", where=where, value=value, expected="an integer >= 1")


_PATIENCE = 1000


class Weight(nn.Module):
    """A weight of a term: a number, or a schedule with the number of training steps done.

    Training steps (:class:`~pyro_dgm.training.Players`, ``fit``, :class:`~pyro_dgm.training.CompiledSVI`) advance it;
    in a loop of one's own, and under Pyro's ``SVI``, whoever writes it calls :meth:`advance`.

    Args:
        value: the number, or the schedule.
        name: what to call it in messages.

    Raises:
        InvalidInput: a value that is no number from zero upwards; or a schedule with one, or with more than one value
            at a step. A schedule is tried at each of its first thousand steps, then at 300 up to ten million.
    """

    step: Tensor

    def __init__(self, value: float | Callable[[Tensor], Tensor], *, name: str) -> None:
        super().__init__()
        self._schedule: Callable[[Tensor], Tensor] | None = None
        if callable(value):
            self._schedule = value
            self.register_buffer("step", torch.zeros((), dtype=torch.int64))
            steps = torch.cat([torch.arange(1000.0), torch.logspace(3, 7, 300).round()]).double()
            values = torch.stack([torch.as_tensor(value(step)) for step in steps])
            if values.dim() > 1:
                raise InvalidInput(
                    "more than one weight",
                    where=name,
                    value=f"shape {tuple(values.shape[1:])} at step 0",
                    expected="a scalar for a scalar",
                )
        else:
            try:
                steps, values = torch.zeros(1), torch.tensor([float(value)])
            except (TypeError, ValueError):
                raise InvalidInput(
                    "no weight",
                    where=name,
                    value=repr(value),
                    expected="a number >= 0, a schedule, or a function of the number of steps",
                ) from None
        wrong = ~((values >= 0.0) & values.isfinite())
        if wrong.any():
            first = int(wrong.nonzero()[0])
            at = f" at step {steps[first]:.0f}" if callable(value) else ""
            raise InvalidInput(
                "bad weight", where=name, value=f"{values[first]:g}{at}", expected="a number >= 0, always"
            )
        self._value = None if callable(value) else float(value)
        self.name, self._unadvanced = name, 0

    @property
    def is_advanced(self) -> bool:
        """Whether it is a schedule that has left its first step."""
        return self._schedule is not None and bool(self.step > 0)

    def advance(self) -> None:
        """Counts one training step."""
        if self._schedule is not None:
            self.step += 1
            self._unadvanced = 0

    def forward(self) -> Tensor | float:
        """The weight after the steps done so far; of a schedule a float64 scalar."""
        if self._value is not None:
            return self._value
        trains = torch.is_grad_enabled()
        self._unadvanced += trains
        if trains and self._unadvanced == _PATIENCE:
            warnings.warn(
                f"the schedule of {self.name} stands still: nothing has advanced it in {_PATIENCE} losses; try fit or "
                f"CompiledSVI, or objective.{self.name}.advance() after each step of Pyro's SVI",
                stacklevel=2,
            )
        assert self._schedule is not None
        return torch.as_tensor(self._schedule(self.step.double())).double()


def weights_of(objective: Any) -> list[Weight]:
    """Every :class:`Weight` of an objective, if it is a module, which a training step advances."""
    parts = objective.modules() if isinstance(objective, nn.Module) else ()
    return [part for part in parts if isinstance(part, Weight)]
