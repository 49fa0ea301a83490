"""What one kernel of an update moves, and whether it is still what the optimisers hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, Optimizer

from pyro_dgm.training.native import NativeAdam, native

Group = dict[str, Any]


@dataclass
class Part:
    """Parameters that one kernel moves, with the state and the options of their optimisers.

    Args:
        kind: of the optimisers.
        get: learning rate and then all other options of a group.
        options: what `get` gives without the learning rate, for all of them.
    """

    kind: type[Optimizer]
    get: Callable[[Group], tuple[Any, ...]]
    options: tuple[Any, ...]
    places: list[int] = field(default_factory=list)
    parameters: list[Tensor] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)
    owners: list[Optimizer] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    tensors: dict[str, list[Tensor]] = field(default_factory=dict)
    steps: Tensor | None = None
    on_device: Tensor | None = None  # steps beside the parameters, where the optimiser keeps them on the CPU
    native: NativeAdam | None = None

    def add(self, place: int, parameter: Tensor, optimizer: Optimizer, group: Group) -> None:
        """Takes a parameter in.

        Args:
            place: among all parameters.
            parameter: of the same type and device as the others.
            optimizer: which has made a step of it.
            group: its options.
        """
        state = optimizer.state[parameter]
        self.places.append(place)
        self.parameters.append(parameter)
        self.groups.append(group)
        self.owners.append(optimizer)
        self.states.append(state)
        for name, value in state.items():
            self.tensors.setdefault(name, []).append(value)

    def _join_steps(self) -> None:
        """Makes the numbers of steps entries of one tensor, so that one addition counts them all."""
        steps = self.tensors.get("step", [])
        if steps and isinstance(steps[0], Tensor):
            self.steps = torch.stack(steps)
            self.tensors["step"] = list(self.steps.unbind())
            for state, step in zip(self.states, self.tensors["step"], strict=True):
                state["step"] = step
            device = self.parameters[0].device
            if device != self.steps.device:
                self.on_device = self.steps.to(device)

    def join(self) -> None:
        """Prepares what is the same at each step."""
        self.groups = list({id(group): group for group in self.groups}.values())
        functions = native() if self._suits_native() else None
        if functions is not None:
            states = [self.tensors[name] for name in ("exp_avg", "exp_avg_sq", "step")]
            self.native = functions.adam(self.parameters, *states)
        else:
            self._join_steps()
        self._tensors = [*self.parameters]
        for state in self.states:
            self._tensors += [value for value in state.values() if isinstance(value, Tensor)]
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._owned = [
            (optimizer, parameter, state, list(state.items()), parameter.shape, parameter.stride())
            for optimizer, parameter, state in zip(self.owners, self.parameters, self.states, strict=True)
        ]
        self._group_ids = {
            optimizer: list(map(id, optimizer.param_groups)) for optimizer in dict.fromkeys(self.owners)
        }

    def is_same(self) -> bool:
        """Whether the optimisers have still these tensors, at these places, and nothing that is to be called."""
        if [tensor.data_ptr() for tensor in self._tensors] != self._addresses:
            return False
        for optimizer, parameter, state, items, shape, stride in self._owned:
            if optimizer.state.get(parameter) is not state:
                return False
            if parameter.shape != shape or parameter.stride() != stride:
                return False
            for name, value in items:
                if state.get(name) is not value and isinstance(value, Tensor):
                    return False
        for optimizer, groups in self._group_ids.items():
            if list(map(id, optimizer.param_groups)) != groups:
                return False
            if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
                return False
        return True

    def _suits_native(self) -> bool:
        if self.kind not in (Adam, AdamW) or self.groups[0]["maximize"] or torch.get_num_threads() > 1:
            return False
        tensors = [*self.parameters, *(tensor for kind in self.tensors.values() for tensor in kind)]
        return all(
            tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()
            for tensor in tensors
        )
