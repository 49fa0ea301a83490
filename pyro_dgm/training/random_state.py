"""Random state of torch, NumPy and Python, kept and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of all global generators, as tensors of fixed shapes.

    Args:
        device: where noise is drawn.
    """
    state = pyro.util.get_rng_state()
    _, keys, position, has_gauss, gauss = state["numpy"]  # always a Mersenne twister
    _, words, python_gauss = state["random"]
    on_device = snapshot(device)[2]
    return {
        "torch": state["torch"],
        "cuda": torch.empty(0, dtype=torch.uint8) if on_device is None else on_device,
        "numpy": torch.tensor([*keys.tolist(), position, has_gauss]),
        "numpy_gauss": torch.tensor(gauss, dtype=torch.float64),
        "python": torch.tensor(words),
        # The second one of a pair of normal numbers, where one is left.
        "python_gauss": torch.tensor([python_gauss is not None, python_gauss or 0.0], dtype=torch.float64),
    }


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what :func:`random_state` gave.

    Args:
        state: the state.
        device: where noise is drawn.
    """
    *keys, position, has_gauss = state["numpy"].tolist()
    is_left, gauss = state["python_gauss"].tolist()
    pyro.util.set_rng_state(
        {
            "torch": state["torch"],
            "numpy": (
                "MT19937",
                np.array(keys, dtype=np.uint32),
                position,
                has_gauss,
                state["numpy_gauss"].item(),
            ),
            "random": (3, tuple(state["python"].tolist()), gauss if is_left else None),
        }
    )
    if state["cuda"].numel():
        torch.cuda.set_rng_state(state["cuda"], device)
