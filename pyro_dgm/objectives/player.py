"""Player: what an objective with several losses hands to training, one for each optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam at a learning rate of 1e-3: the optimiser of whoever names none.

    Args:
        parameters: what it updates.

    Reference:
        Kingma and Ba, "Adam: a method for stochastic optimization", 2015.
    """
    # Fused: one call for all parameters, about a quarter of the plain loop's time on a CPU.
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


@dataclass(frozen=True)
class Player:
    """Loss with the parameters that lower it and the optimiser that moves them.

    Args:
        name: name in metrics, messages and checkpoints.
        loss: ``loss(*batch)`` gives a scalar tensor, summed over the batch; or a dict with it as ``"loss"``, and with
            other scalars that are only told.
        parameters: the only tensors that this player's gradient reaches and its optimiser changes.
        optimizer: makes the optimiser of the parameters; each update sees gradients per datum.
        every: plays at steps 0, ``every``, 2 ``every``, ...

    Raises:
        InvalidInput: ``every`` below 1, or a name that a checkpoint key cannot hold.
    """

    name: str
    loss: Callable[..., Tensor | dict[str, Tensor]]
    parameters: Sequence[Tensor]
    optimizer: OptimizerFactory = adam
    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InvalidInput("bad interval", where=f"{self.name}.every", value=self.every, expected=">= 1")
        if not self.name or "/" in self.name:
            raise InvalidInput(
                "bad name", where="Player", value=repr(self.name), expected="a name without '/'"
            )


@runtime_checkable
class HasPlayers(Protocol):
    """Objective that needs several optimisers, and says which."""

    def players(self, program: nn.Module) -> list[Player]: ...
