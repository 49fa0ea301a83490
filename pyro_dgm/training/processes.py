"""Processes of one training run: what each takes of a batch, and how their gradients and numbers meet."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput


class Processes(ABC):
    r"""Processes that train one program together.

    Every process draws the same order of the data and takes its :meth:`shard` :math:`B_r` of each batch B. With
    R processes and losses that are sums over data, the gradient is that of one process,

    .. math:: \frac{1}{R} \sum_{r=1}^R \nabla \frac{L(B_r)}{|B| / R} = \frac{\nabla L(B)}{|B|},

    for uneven shards too: each process divides by the same :meth:`share` of the batch, :math:`|B| / R`, not by its
    own number of data, and :meth:`wrap` averages the gradients. What is no sum over data follows other laws: a term
    without data (the prior of a global latent variable, a penalty) counts once per process, statistics of a batch
    (batch norm in training, a maximum mean discrepancy) are those of a shard.

    Collective methods must be called by all processes, in the same order.

    Args:
        rank: number of this process; process 0 alone writes files.
        size: number of processes.
        device: where this process computes.

    Example:
        >>> import torch
        >>> processes = OneProcess(torch.device("cpu"))
        >>> processes.is_main, processes.shard(torch.arange(3)), processes.share(3)
        (True, tensor([0, 1, 2]), 3.0)
    """

    def __init__(self, rank: int, size: int, *, device: torch.device) -> None:
        self.rank = rank
        self.size = size
        self.device = device

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def check(self, batch_size: int) -> None:
        """Raises InvalidInput for a batch that leaves a process without data.

        Args:
            batch_size: number of data in a batch, of all processes together.
        """
        if batch_size < self.size:
            raise InvalidInput(
                "fewer data in a batch than processes",
                where="batch_size",
                value=batch_size,
                expected=f">= {self.size}, the number of processes",
                cure=f"batch_size={self.size} or more, or fewer processes",
            )

    def shard(self, index: Tensor) -> Tensor:
        """This process's piece of a batch: contiguous, of a length that differs by at most one from the others'.

        Args:
            index: indices of the batch (batch,), the same in all processes.
        """
        return index.tensor_split(self.size)[self.rank]

    def share(self, batch_size: int) -> float:
        """Number that each process divides its summed loss by: |B| / R, whatever the size of its shard.

        Args:
            batch_size: number of data in a batch, of all processes together.
        """
        return batch_size / self.size

    def seed_of(self, seed: int) -> int:
        """Seed of this process's noise; process 0 keeps the user's, the others' are unlike those of nearby seeds.

        Args:
            seed: the user's.
        """
        return seed if self.is_main else int(np.random.SeedSequence([seed, self.rank]).generate_state(1)[0])

    @abstractmethod
    def wrap(
        self, loss: Callable[..., Any], parameters: Iterable[Tensor], *, modules: Sequence[nn.Module] = ()
    ) -> Callable[..., Any]:
        """The loss, after whose backward pass the gradients of `parameters` are means over the processes.

        The parameters must exist and be where they will be trained; they start as those of process 0. A parameter
        that no process used keeps its gradient (None, after ``zero_grad``). One that is frozen now and freed later
        is not averaged. Process 0's buffers (batch norm, a moving baseline) hold in all processes: they are sent
        at the beginning of each call. Collective, and so is each call.

        Args:
            loss: ``loss(*batch)`` gives a scalar tensor, or a dict of them.
            parameters: leaves that the backward pass reaches, each once; not necessarily ``nn.Parameter``.
            modules: owners of the buffers.
        """

    @abstractmethod
    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over the processes, in all of them. Collective."""

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a tensor over the processes, the same bits in all of them. Collective."""
        return self.sum(value) / self.size

    def any(self, flag: bool) -> bool:
        """Whether a flag is up in any process. Collective."""
        return bool(self.sum(torch.tensor(float(flag))) > 0)

    @abstractmethod
    def broadcast(self, value: float) -> float:
        """Process 0's number, in all of them. Collective."""

    @abstractmethod
    def align(self, tensors: Iterable[Tensor]) -> None:
        """Overwrites parameters and buffers with those of process 0. Collective."""

    @abstractmethod
    def gather(self, value: Tensor) -> list[Tensor]:
        """Tensors of all processes, by rank, all of the same shape. Collective."""

    def barrier(self) -> None:
        """Waits for all processes. Collective."""
        self.any(False)


class OneProcess(Processes):
    """A process that trains alone: nothing is sent, and losses stay as they are.

    Args:
        device: where it computes.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(0, 1, device=device)

    def wrap(
        self, loss: Callable[..., Any], parameters: Iterable[Tensor], *, modules: Sequence[nn.Module] = ()
    ) -> Callable[..., Any]:
        return loss

    def sum(self, value: Tensor) -> Tensor:
        return value

    def any(self, flag: bool) -> bool:
        return flag

    def broadcast(self, value: float) -> float:
        return value

    def align(self, tensors: Iterable[Tensor]) -> None:
        pass

    def gather(self, value: Tensor) -> list[Tensor]:
        return [value]
