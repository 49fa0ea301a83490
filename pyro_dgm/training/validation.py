"""Validation: the mean objective on held-out data, which leaves training as it was, and the best weights by it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.training.batches import Split
from pyro_dgm.training.random_state import forked


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Block in which all modules are in evaluation mode; each submodule then gets its own mode back.

    Args:
        modules: the modules.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def validation_loss(
    evaluate_loss: Callable[..., float],
    split: Split,
    *,
    batch_size: int,
    modules: Iterable[nn.Module],
    device: torch.device,
    seed: int,
) -> float:
    """Mean loss per datum, in evaluation mode and without gradients.

    The noise is drawn anew from `seed` each time, so that one validation is comparable with the next; the
    random state of training is put back.

    Args:
        evaluate_loss: gives the loss summed over a batch.
        split: held-out data; all of them count, the last batch may be smaller.
        batch_size: number of data at a time.
        modules: what is put into evaluation mode.
        device: where noise is drawn.
        seed: of the noise.
    """
    total = 0.0
    with evaluating(modules), torch.no_grad(), forked(device, seed=seed):
        for index in torch.arange(len(split), device=device).split(batch_size):
            total += evaluate_loss(*split.batch(index))
    return total / len(split)


class BestWeights:
    """Copy of the modules' state at the lowest validation loss so far.

    Args:
        modules: whose state is kept, by name: the program, and the objective if it is a module.
        patience: validations without a lower loss that end training, which then has the best weights; None waits
            for ever, and training keeps its last ones.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, patience: int | None) -> None:
        self._modules = dict(modules)
        self._patience = patience
        self.waited = 0
        self.loss = math.inf
        self.step = 0
        self.states: dict[str, dict[str, Any]] = {}

    def look(self, loss: float, *, step: int) -> bool:
        """Whether this validation was the best so far; the weights are then copied.

        Args:
            loss: of the weights that the modules hold now.
            step: number of steps that they took.
        """
        if not -math.inf < loss < self.loss:  # nor is NaN
            self.waited += 1
            return False
        self.loss, self.step, self.waited = loss, step, 0
        self.states = {name: _copy(module.state_dict()) for name, module in self._modules.items()}
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self._patience is not None and self.waited >= self._patience

    @property
    def wanted(self) -> bool:
        """Whether training is to end with the best weights."""
        return self._patience is not None

    def restore(self) -> None:
        """Puts the best weights back; nothing, if no validation was finite."""
        for part, state in self.states.items():
            self._modules[part].load_state_dict(state)


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose tensors are copies of their own; a module's extra state may hold anything else."""
    return {
        name: value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)
        for name, value in state.items()
    }
