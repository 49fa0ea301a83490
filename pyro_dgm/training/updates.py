"""Updates of many parameters by one kernel of torch, on the state of ordinary optimisers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from pyro.optim.clipped_adam import ClippedAdam
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from pyro_dgm.training.update_part import Group, Part


class FusedUpdate:
    """Steps of Adam, AdamW, SGD and Pyro's ClippedAdam, in one call for all parameters that share their options.

    State, learning rates and schedules stay those of the optimisers, which may be one for each parameter as Pyro's
    are. Parameters of other optimisers, or of one that has made no step yet, are left to it.

    Args:
        find: the optimiser of a parameter and the group of options that it is in; None for one to be left.

    Example:
        >>> import torch
        >>> w = torch.zeros(2, requires_grad=True)
        >>> adam = torch.optim.Adam([w], lr=0.1)
        >>> w.grad = torch.tensor([1.0, 2.0])
        >>> adam.step()
        >>> FusedUpdate(lambda parameter: (adam, adam.param_groups[0]))([w], [w.grad])
        []
        >>> w.data, adam.state[w]["step"]
        (tensor([-0.2000, -0.2000]), tensor(2.))
    """

    def __init__(self, find: Callable[[Tensor], tuple[Optimizer, Group] | None]) -> None:
        self._find = find
        self._plans: dict[tuple[bool | None, ...], _Plan] = {}
        self._last: _Plan | None = None

    def __call__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[int]:
        """Moves the parameters that have a gradient.

        Args:
            parameters: the same ones at each call.
            gradients: of each.

        Returns:
            Places of the parameters that are left to their optimiser.
        """
        present = tuple([None if gradient is None else gradient.is_sparse for gradient in gradients])
        plan = self._plans.get(present)
        if plan is None or not plan.holds():
            plan = self._plans[present] = self._make(parameters, present)
        self._last = plan
        plan.move(gradients)
        return plan.left

    def again(self, gradients: Sequence[Tensor | None]) -> None:
        """A call right after another one that left no parameter, with the same gradients present.

        Args:
            gradients: of each.
        """
        assert self._last is not None
        self._last.move(gradients)

    @property
    def is_ready(self) -> bool:
        """Whether :meth:`again` may be called."""
        return self._last is not None and not self._last.left

    def _make(self, parameters: Sequence[Tensor], present: tuple[bool | None, ...]) -> _Plan:
        plan = _Plan()
        parts: dict[Any, Part] = {}
        for place, (parameter, is_sparse) in enumerate(zip(parameters, present, strict=True)):
            if is_sparse is None:
                continue
            found = self._find(parameter)
            if found is None or is_sparse or not _has_kernel(*found, parameter):
                plan.left.append(place)
                continue
            optimizer, group = found
            get = itemgetter("lr", *[name for name in group if name not in ("lr", "params")])
            options = get(group)
            count = _count(optimizer.state.get(parameter))
            key = type(optimizer), str(options), parameter.dtype, parameter.device, count
            part = parts.setdefault(key, Part(type(optimizer), get, options[1:]))
            part.add(place, parameter, optimizer, group)
        plan.parts = list(parts.values())
        for part in plan.parts:
            part.join()
        return plan


@dataclass
class _Plan:
    parts: list[Part] = field(default_factory=list)
    left: list[int] = field(default_factory=list)

    def move(self, gradients: Sequence[Tensor | None]) -> None:
        with torch.no_grad():
            for part in self.parts:
                _KERNELS[part.kind](part, [gradients[place] for place in part.places])

    def holds(self) -> bool:
        """Whether the optimisers have still the state and the options that the plan was made of."""
        for part in self.parts:
            options = (part.groups[0]["lr"], *part.options)
            for group in part.groups:
                if part.get(group) != options:
                    return False
            if not part.is_same():
                return False
            if part.kind is ClippedAdam and len({state["step"] for state in part.states}) > 1:
                return False  # another plan moved some of them
        return not self.left  # they have a state by now


def _count(state: dict[str, Any] | None) -> int:
    """Number of steps, where it is a plain number that one kernel has in common for all of its parameters."""
    count = (state or {}).get("step", 0)
    return count if isinstance(count, int) else 0


def _has_kernel(optimizer: Optimizer, group: Group, parameter: Tensor) -> bool:
    state = optimizer.state.get(parameter)
    if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
        return False
    if type(optimizer) not in _KERNELS or not isinstance(group["lr"], float | int) or parameter.is_complex():
        return False
    alike = [value for value in (state or {}).values() if isinstance(value, Tensor) and value.dim()]
    if any(value.stride() != parameter.stride() for value in (torch.empty_like(parameter), *alike)):
        return False  # kernels go through memory from end to end
    if type(optimizer) is ClippedAdam and sum(len(group["params"]) for group in optimizer.param_groups) > 1:
        return False  # it moves the rates of all at once
    if group.get("amsgrad") or group.get("differentiable") or group.get("centered_variance"):
        return False
    if type(optimizer) is SGD:
        return not group["momentum"] or bool(state and state.get("momentum_buffer") is not None)
    return bool(state)


def _adam(part: Part, gradients: list[Any]) -> None:
    group, tensors = part.groups[0], part.tensors
    decoupled = part.kind is AdamW or bool(group.get("decoupled_weight_decay"))
    if part.native is not None:
        options = {name: group[name] for name in ("lr", "betas", "eps", "weight_decay")}
        part.native(gradients, **options, decoupled=decoupled)
        return
    assert part.steps is not None
    part.steps += 1
    steps = tensors["step"]
    if part.on_device is not None:
        part.on_device += 1
        steps = list(part.on_device.unbind())
    _adam_kernel(part, gradients, steps, eps=group["eps"], decoupled=decoupled)


def _clipped_adam(part: Part, gradients: list[Any]) -> None:
    for group in part.groups:
        group["lr"] *= group["lrd"]
    for state in part.states:
        state["step"] += 1
    group, count = part.groups[0], part.states[0]["step"]
    # Not in place: what is left of a gradient may be the data themselves.
    clamped = torch._foreach_clamp_min(gradients, -group["clip_norm"])
    gradients = list(torch._foreach_clamp_max(clamped, group["clip_norm"]))
    step = torch.tensor(float(count), device=part.parameters[0].device)
    # Pyro's adds eps before the correction of the bias, torch's after it.
    eps = group["eps"] / math.sqrt(1 - group["betas"][1] ** count)
    _adam_kernel(part, gradients, [step] * len(gradients), eps=eps, decoupled=False)


def _adam_kernel(
    part: Part, gradients: list[Any], steps: list[Tensor], *, eps: float, decoupled: bool
) -> None:
    group, tensors = part.groups[0], part.tensors
    kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
    kernel(
        part.parameters,
        gradients,
        tensors["exp_avg"],
        tensors["exp_avg_sq"],
        [],
        steps,
        lr=group["lr"],
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        weight_decay=group["weight_decay"],
        eps=eps,
        amsgrad=False,
        maximize=group.get("maximize", False),
    )


def _sgd(part: Part, gradients: list[Any]) -> None:
    group = part.groups[0]
    torch._fused_sgd_(
        part.parameters,
        gradients,
        part.tensors.get("momentum_buffer", []) if group["momentum"] else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=group["lr"],
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )


_KERNELS: dict[type[Optimizer], Callable[[Part, list[Any]], None]] = {
    Adam: _adam,
    AdamW: _adam,
    ClippedAdam: _clipped_adam,
    SGD: _sgd,
}
