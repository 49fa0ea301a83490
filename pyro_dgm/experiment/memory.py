"""Memory that a config may take: too large a program is a message, where the system would kill the process."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_dgm.errors import ResourceError

_SMALL = 2**24  # bytes; below them nothing is checked
_PIECE = 2**26  # bytes of results after which one looks how much they have taken
_ROOM = 2**29  # bytes that a process may always grow by
_SHARE = 0.85  # of the free memory that it may grow by: at all of it the system has ended it
_CURE = "smaller layers, fewer particles or a smaller batch"
_FILLS = frozenset(
    f"aten::{name}" for name in ("empty", "zeros", "ones", "full", "rand", "randn", "new_empty", "new_zeros")
)


def available() -> int:
    """Bytes of memory that this process can still get, as far as the system tells; else all that there are.

    Example:
        >>> available() > 2**20
        True
    """
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return free.get("MemAvailable", total)
    except (OSError, ValueError, IndexError):
        return total


def _resident() -> int:
    """Bytes of memory that this process has; zero where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


class _Bound(TorchDispatchMode):
    """Looks at tensors before they are filled, and at all that results have taken after every few of them."""

    def __init__(self) -> None:
        super().__init__()
        self._room, self._start, self._made = max(_SHARE * available(), _ROOM), _resident(), 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.name in _FILLS and torch.device(kwargs.get("device") or "cpu").type == "cpu":
            size = args[1] if "new" in func._schema.name else args[0]
            dtype = kwargs.get("dtype") or torch.get_default_dtype()
            _require(math.prod(size) * dtype.itemsize, f"a tensor of shape {tuple(size)}")
        result = func(*args, **kwargs)
        if isinstance(result, torch.Tensor):
            self._made += result.numel() * result.element_size()
            if self._made > _PIECE:
                self._made = 0
                self._require_room()
        return result

    def _require_room(self) -> None:
        grown = _resident() - self._start
        if grown > self._room:
            raise ResourceError(
                "not enough memory",
                where="the program and its first step",
                value=f"{grown / 1e9:,.1f} GB and more",
                expected=f"at most {self._room / 1e9:,.1f} GB, of what was free",
                cure=_CURE,
            )


def _require(num_bytes: int, where: str) -> None:
    if num_bytes > _SMALL and num_bytes > (free := available()):
        raise ResourceError(
            "not enough memory",
            where=where,
            value=f"{num_bytes / 1e9:,.1f} GB",
            expected=f"at most the {free / 1e9:,.1f} GB that are free",
            cure=_CURE,
        )


@contextmanager
def bounded() -> Iterator[None]:
    """Block in which a tensor on the CPU that exceeds the free memory is refused before it is made, or all together.

    Linux promises memory that it lacks and ends the process when it is filled, without a word.

    Raises:
        ResourceError: such a tensor, with its shape; or many that together take more than was free.
    """
    with _Bound():
        yield


def require_room(module: nn.Module) -> None:
    """Raises ResourceError if a module's gradients and one more copy of its weights exceed the free memory.

    Args:
        module: with its weights on the CPU.
    """
    weights = [weight for weight in module.parameters() if not nn.parameter.is_lazy(weight)]
    num_bytes = 2 * sum(weight.numel() * weight.element_size() for weight in weights)
    _require(num_bytes, f"the gradients of {type(module).__name__} and a copy of its weights")
