"""Random state of torch, NumPy and Python, kept and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
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


def random_state(device: torch.device) -> dict[str, Any]:
    """State of all global generators as plain data and tensors, for a checkpoint.

    Args:
        device: where noise is drawn.
    """
    state = pyro.util.get_rng_state()
    kind, keys, *numpy_rest = state["numpy"]
    version, words, gauss = state["random"]
    return {
        "torch": state["torch"],
        "cuda": snapshot(device)[2],
        "numpy": {"kind": kind, "keys": torch.from_numpy(keys.astype(np.int64)), "rest": numpy_rest},
        "python": {"version": version, "words": torch.tensor(words), "gauss": gauss},
    }


def set_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Puts back what :func:`random_state` gave.

    Args:
        state: the state.
        device: where noise is drawn.
    """
    numpy, python = state["numpy"], state["python"]
    pyro.util.set_rng_state(
        {
            "torch": state["torch"],
            "numpy": (numpy["kind"], numpy["keys"].numpy().astype(np.uint32), *numpy["rest"]),
            "random": (python["version"], tuple(python["words"].tolist()), python["gauss"]),
        }
    )
    if state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
