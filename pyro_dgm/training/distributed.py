"""Processes that torchrun started: DistributedDataParallel around a loss, in a process group."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.training.processes import OneProcess, Processes

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_groups = itertools.count()


class Group(Processes):
    """Processes of torch's default process group, which must be initialised; see :func:`joined`.

    Args:
        device: where this process computes.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(dist.get_rank(), dist.get_world_size(), device=device)
        self._wrapped: weakref.WeakSet[DistributedDataParallel] = weakref.WeakSet()

    def wrap(
        self, loss: Callable[..., Any], parameters: Iterable[Tensor], *, modules: Sequence[nn.Module] = ()
    ) -> Callable[..., Any]:
        # It also sends the parameters of process 0. It never rebuilds its buckets while it looks for unused
        # parameters, so that a resumed run sums in the order of the first one.
        module = _Loss(loss, parameters, modules)
        wrapped = DistributedDataParallel(module, find_unused_parameters=True)
        self._wrapped.add(wrapped)
        return wrapped

    def sum(self, value: Tensor) -> Tensor:
        total = value.detach().to(self.device, copy=True).contiguous()
        dist.all_reduce(total)
        return total.to(value.device)

    def broadcast(self, value: float) -> float:
        number = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(number, 0)
        return number.item()

    def align(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            value = tensor.detach().to(self.device, copy=True).contiguous()
            dist.broadcast(value, 0)
            tensor.detach().copy_(value)

    def gather(self, value: Tensor) -> list[Tensor]:
        own = value.detach().to(self.device).contiguous()
        values = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(values, own)
        return [each.to(value.device) for each in values]

    def close(self) -> None:
        """Parts the wrapped losses, which then cannot be called, from the group and from their parameters."""
        # An exception in flight keeps its frames, they the losses, and these the group, whose connections would
        # stay open while the others wait. A group that dies with its last loss also blocks its own threads.
        for wrapped in self._wrapped:
            for name in ("logger", "reducer", "process_group"):
                wrapped.__dict__.pop(name, None)


class _Loss(nn.Module):
    """A loss as the module that DistributedDataParallel wants, with just these parameters and live buffers."""

    def __init__(
        self, loss: Callable[..., Any], parameters: Iterable[Tensor], modules: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        # In __dict__ they are no submodules, and leaves of Pyro's store need not be nn.Parameters.
        self.__dict__["loss"] = loss
        self.__dict__["leaves"] = leaves = list(parameters)
        self.__dict__["owners"] = tuple(modules)
        # torch prints a long warning at the first backward pass that reached everything. This one is never
        # reached.
        leaves.append(torch.zeros_like(leaves[0].detach().flatten()[:1]).requires_grad_())

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        for i, leaf in enumerate(self.__dict__["leaves"]):
            yield f"{prefix}{i}", leaf

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        # Asked before each forward pass, so that a buffer which its module has replaced is found again.
        buffers = {id(b): b for owner in self.__dict__["owners"] for b in owner.buffers()}
        for i, buffer in enumerate(buffers.values()):
            yield f"{prefix}buffer{i}", buffer

    def forward(self, *batch: Any) -> Any:
        return self.__dict__["loss"](*batch)


@contextlib.contextmanager
def joined(device: torch.device, *, timeout: timedelta = timedelta(minutes=10)) -> Iterator[Processes]:
    """Block in which the processes that ``torchrun`` started work as one.

    Under ``torchrun`` with several processes a group is made and dissolved at the end: gloo on CPUs, NCCL on GPUs,
    of which each process takes the one that its ``LOCAL_RANK`` names. A group that is there already, the user's or
    that of a block around this one, is used and left alone. Otherwise the process is alone.

    A process that dies or leaves the block is noticed by the others at once on CPUs; on GPUs ``torchrun`` ends
    them.

    Args:
        device: CPU or CUDA.
        timeout: longest wait for a process that lives and does not come; longer than process 0 ever works alone.

    Raises:
        InvalidInput: the environment names several processes and lacks a part of what torchrun sets, or the group
            that is there cannot carry tensors of the device.
        ResourceError: fewer GPUs than processes, or a process of the group is gone.

    Example:
        >>> with joined(torch.device("cpu")) as processes:
        ...     processes.size
        1
    """
    if dist.is_available() and dist.is_initialized():
        if device.type == "cpu" and dist.get_backend() == "nccl":
            raise InvalidInput(
                "process group of another device",
                where="torch.distributed",
                value="nccl",
                expected="gloo for training on CPUs",
                cure="device='cuda', or a group with gloo",
            )
        if dist.get_world_size() == 1:
            yield OneProcess(device)
            return
        with contextlib.closing(Group(_own_device(device))) as group:
            yield group
        return
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield OneProcess(device)
        return
    missing = [name for name in _VARIABLES if name not in os.environ]
    if missing:
        raise InvalidInput(
            "incomplete environment of a process group",
            value=f"WORLD_SIZE={os.environ['WORLD_SIZE']} without {', '.join(missing)}",
            expected="all that torchrun sets, or no WORLD_SIZE",
            cure="torchrun --nproc-per-node 2 ...",
        )
    own = _own_device(device)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # A prefix of its own: a second group must not find the addresses of the first one, which may still be closing.
    store = dist.PrefixStore(f"pyro_dgm/{next(_groups)}", _store(timeout))
    dist.init_process_group(
        "nccl" if own.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=own if own.type == "cuda" else None,
    )
    try:
        with contextlib.closing(Group(own)) as group:
            yield group
    except RuntimeError as error:
        # gloo has no error of its own, but its messages begin with the place in its sources.
        if isinstance(error, dist.DistError) or "gloo/transport" in str(error):
            raise ResourceError(
                "a process of this run is gone or does not answer",
                where=f"process {rank} of {size}",
                expected="all of them until the end",
                cure="a look at the others' messages",
            ) from error
        raise
    finally:
        dist.destroy_process_group()


@functools.cache
def _store(timeout: timedelta) -> Any:
    """The address book of the processes, which outlives a group: closing and opening it again would be a race."""
    return next(iter(dist.rendezvous("env://", timeout=timeout)))[0]


def _own_device(device: torch.device) -> torch.device:
    """The GPU of this process, made the current one; the CPU is the same for all."""
    if device.type != "cuda":
        return device
    number = int(os.environ.get("LOCAL_RANK", torch.cuda.current_device()))
    present = torch.cuda.device_count()
    if number >= present:
        raise ResourceError(
            "more processes than GPUs",
            where=f"local process {number}",
            value=f"{present} GPUs",
            expected="one for each process of a machine",
            cure=f"torchrun --nproc-per-node {present}, or device='cpu'",
        )
    own = torch.device("cuda", number)
    torch.cuda.set_device(own)
    return own
