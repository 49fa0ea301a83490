"""Arguments of ``fit``, checked once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch

from pyro_dgm.errors import InvalidInput

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["float32", "float64", "bfloat16"]
Compile = bool | Literal["auto"]

# Steps that repay a compilation of ten seconds: Pyro's handlers, which no longer run, take two milliseconds of each.
_REPAY = 5_000

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def check_positive(**values: float | None) -> None:
    """Raises InvalidInput for a number that is not positive and finite; None passes.

    Example:
        >>> check_positive(epochs=3, steps=None)
        >>> check_positive(clip_norm=float("nan"))
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: bad number in clip_norm: nan; expected a positive number
    """
    for name, value in values.items():
        if value is not None and not (0 < value < math.inf):
            raise InvalidInput("bad number", where=name, value=value, expected="a positive number")


def check_not_negative(**values: float) -> None:
    """Raises InvalidInput for a number below zero, infinite or NaN."""
    for name, value in values.items():
        if not (0 <= value < math.inf):
            raise InvalidInput("bad number", where=name, value=value, expected="a number >= 0")


def check_counts(**values: Any) -> None:
    """Raises InvalidInput for what is no whole number >= 1; None passes.

    Example:
        >>> check_counts(epochs=0)
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: bad number in epochs: 0; expected a whole number >= 1; try 1 or more
    """
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InvalidInput(
                "bad number", where=name, value=value, expected="a whole number >= 1", cure="1 or more"
            )


def check_seed(seed: Any) -> None:
    """Raises InvalidInput for a seed that NumPy and torch do not share."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise InvalidInput("bad seed", where="seed", value=seed, expected="a whole number from 0 to 2^32 - 1")


def check_length(epochs: int | None, steps: int | None) -> None:
    """Raises InvalidInput if nothing says how long to train."""
    check_counts(epochs=epochs, steps=steps)
    if epochs is None and steps is None:
        raise InvalidInput(
            "no length of training", where="fit", expected="epochs or steps", cure="epochs=100"
        )


def check_training(
    *,
    epochs: int | None,
    steps: int | None,
    batch_size: int,
    validate_every: int,
    early_stopping: int | None,
    clip_norm: float | None,
    max_loss: float | None,
    checkpoint_seconds: float,
    seed: int,
    device: str,
    precision: str,
    **others: object,
) -> None:
    """Raises InvalidInput for what ``fit`` refuses whatever the program and the data are; ``others`` pass."""
    check_length(epochs, steps)
    check_counts(batch_size=batch_size, validate_every=validate_every, early_stopping=early_stopping)
    check_positive(clip_norm=clip_norm, max_loss=max_loss)
    check_not_negative(checkpoint_seconds=checkpoint_seconds)
    check_seed(seed)
    resolve_device(device)
    resolve_dtype(precision)


def resolve_device(device: str) -> torch.device:
    """Device that a name stands for; ``auto`` is CUDA where it is present.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InvalidInput: an unknown name, or CUDA where there is none.
    """
    present = torch.cuda.is_available()
    names = {"auto": "cuda" if present else "cpu", "cpu": "cpu", "cuda": "cuda"}
    if device not in names:
        raise InvalidInput("unknown device", where="device", value=repr(device), expected="auto, cpu or cuda")
    if device == "cuda" and not present:
        raise InvalidInput(
            "no CUDA device here",
            where="device",
            value=repr(device),
            expected="a machine and a torch with CUDA",
            cure="device='cpu' or 'auto'",
        )
    return torch.device(names[device])


def resolve_dtype(precision: str) -> torch.dtype:
    """Type of parameters and data under a precision; bfloat16 keeps float32 and casts inside the networks.

    Args:
        precision: ``float32``, ``float64`` or ``bfloat16``.

    Raises:
        InvalidInput: an unknown name.
    """
    if precision not in DTYPES:
        raise InvalidInput(
            "unknown precision", where="precision", value=repr(precision), expected=" or ".join(DTYPES)
        )
    return DTYPES[precision]


def resolve_compile(choice: Compile, *, num_steps: int, num_processes: int, before: bool | None) -> bool:
    """Whether steps are compiled; it depends on nothing that is measured, so that a run can be repeated.

    Args:
        choice: what was asked for.
        num_steps: of the whole run.
        num_processes: that train together.
        before: whether they were in the run that is resumed; None for a new one.

    Raises:
        InvalidInput: compilation was asked for in several processes.
    """
    if choice is True and num_processes > 1:
        raise InvalidInput(
            "compilation in several processes",
            where="compile",
            value=num_processes,
            expected="one process: gradients are exchanged while they are computed",
            cure="compile='auto'",
        )
    if choice == "auto":
        return num_processes == 1 and (num_steps >= _REPAY if before is None else before)
    return choice


def refuse_without_program(given: Mapping[str, bool]) -> None:
    """Raises InvalidInput for options that mean nothing to a step which holds its own program and optimisers.

    Args:
        given: whether each option was given.
    """
    names = [name for name, is_given in given.items() if is_given]
    if names:
        raise InvalidInput(
            "option that needs a program and an objective",
            where=", ".join(names),
            expected="none of them with a Step, which has its own program and optimisers",
            cure="fit(program, objective, data, ...)",
        )
