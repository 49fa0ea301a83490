"""The best validated weights, and the patience that waits for better ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn


class BestWeights:
    """Copy of the modules' state at the lowest validation loss so far.

    Args:
        modules: whose state is kept, by name: the program, and the objective if it is a module.
        patience: validations without a lower loss that end training; None waits for ever.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, patience: int | None) -> None:
        self._modules = dict(modules)
        self._patience = math.inf if patience is None else patience
        self.waited = 0
        self.loss = math.inf
        self.step = 0
        self.states: dict[str, dict[str, Tensor]] = {}

    def look(self, loss: float, *, step: int) -> bool:
        """Whether this validation was the best so far; the weights are then copied.

        Args:
            loss: of the weights that the modules hold now.
            step: number of steps that they took.
        """
        if not loss < self.loss:  # also for NaN
            self.waited += 1
            return False
        self.loss, self.step, self.waited = loss, step, 0
        self.states = {
            part: {name: value.detach().clone() for name, value in module.state_dict().items()}
            for part, module in self._modules.items()
        }
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self._patience

    def restore(self) -> None:
        """Puts the best weights back; nothing, if no validation was finite."""
        for part, state in self.states.items():
            self._modules[part].load_state_dict(state)
