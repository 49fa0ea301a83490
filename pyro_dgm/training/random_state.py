"""Random state of torch, kept and put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import Tensor


def snapshot(device: torch.device) -> tuple[torch.device, Tensor, Tensor | None]:
    """State of torch's generators, on the CPU and on `device`; under a microsecond on the CPU.

    Args:
        device: where noise is drawn.
    """
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return device, torch.get_rng_state(), on_device


def restore(state: tuple[torch.device, Tensor, Tensor | None]) -> None:
    """Puts a :func:`snapshot` back."""
    device, on_cpu, on_device = state
    torch.set_rng_state(on_cpu)
    if on_device is not None:
        torch.cuda.set_rng_state(on_device, device)


@contextmanager
def forked(device: torch.device, *, seed: int | None = None) -> Iterator[None]:
    """Block that leaves the random state of torch, NumPy and Python as it found it.

    Args:
        device: where noise is drawn.
        seed: seeds the block; ``None`` goes on with the state at hand.

    Example:
        >>> import torch
        >>> with forked(torch.device("cpu"), seed=1):
        ...     inside = torch.rand(())
        >>> with forked(torch.device("cpu"), seed=1):
        ...     bool(torch.rand(()) == inside)
        True
    """
    everywhere, on_torch = pyro.util.get_rng_state(), snapshot(device)
    if seed is not None:
        pyro.set_rng_seed(seed)
    try:
        yield
    finally:
        pyro.util.set_rng_state(everywhere)
        restore(on_torch)
