"""Why a step was refused: its data, and the site or parameter that stopped being finite, found by a second run."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.errors import NonFiniteError
from pyro_dgm.objectives.nonfinite import locate_nonfinite
from pyro_dgm.objectives.player import HasPlayers
from pyro_dgm.training.learner import Learner


def explained(
    error: NonFiniteError | ValueError,
    learner: Learner,
    batch: tuple[Any, ...],
    index: Tensor | None,
    *,
    step: int,
) -> NonFiniteError | None:
    """The error again, with the batch's indices and the place that went bad; None for one of another kind.

    Pyro's argument checks raise ValueError for a distribution whose parameters are not finite: that is the
    same fault, one line earlier. The random state must be that of before the step.

    Args:
        error: what the step raised.
        learner: whose step it was.
        batch: its batch.
        index: indices of the batch in the training split.
        step: its number, from 1.
    """
    place = _site(learner, batch)
    data = [] if index is None else [_listed(index)]
    if not isinstance(error, NonFiniteError):
        if place is None:
            return None
        return NonFiniteError(
            "non-finite number",
            where=", ".join([f"step {step}", place, *data]),
            value=str(error).splitlines()[0],
            expected="finite numbers",
            cure="a lower learning rate, clip_norm, or a look at these data",
        )
    if "max_loss" not in error.what:
        data = [place or _parameter(learner) or "no single site or parameter", *data]
    return NonFiniteError(
        error.what,
        where=", ".join([error.where, *data]),
        value=error.value,
        expected=error.expected,
        cure=error.cure,
    )


def _site(learner: Learner, batch: tuple[Any, ...]) -> str | None:
    if learner.pair is None:
        return None
    objective = None if isinstance(learner.objective, HasPlayers) else learner.objective
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro warns of each NaN that is being looked for
        return locate_nonfinite(*learner.pair, *batch, objective=objective)


def _parameter(learner: Learner) -> str | None:
    """First parameter whose gradient is not finite."""
    for prefix, module in learner.modules.items():
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return f"gradient of the parameter {name!r} of the {prefix}"
    return None


def _listed(index: Tensor) -> str:
    first = ", ".join(str(i) for i in index[:10].tolist())
    return f"batch indices {first}{', ...' if len(index) > 10 else ''} ({len(index)} in all)"
