"""Whether a graph and the run that it was recorded from give the same loss and gradients."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_dgm.training.tracing import loss_and_norm


class Evaluation(NamedTuple):
    """A loss and its gradients.

    Args:
        numbers: see :func:`loss_and_norm`.
        gradients: of each parameter; None for one that the loss does not depend on.
    """

    numbers: Tensor
    gradients: list[Tensor | None]


def disagreement(found: Evaluation, plain: Evaluation) -> str | None:
    """What tells a graph from the model, if it is more than rounding may explain.

    Args:
        found: of the graph.
        plain: of the model, with the same noise.
    """
    (*losses, norm), (*expected, length) = found.numbers.tolist(), plain.numbers.tolist()
    pairs = zip(found.gradients, plain.gradients, strict=True)
    zero = torch.zeros(())
    differences = [(zero if a is None else a) - (zero if b is None else b) for a, b in pairs if a is not b]
    gap = loss_and_norm(0.0, differences)[-1].item()
    # Where a gradient vanishes, what is left of it is the rounding of the loss.
    slack = 1e-2 * length + 1e-5 * sum(abs(loss) for loss in expected if math.isfinite(loss))
    if all(map(_is_near, losses, expected)) and (
        gap <= slack or not (math.isfinite(norm) or math.isfinite(length))
    ):
        return None
    return (
        f"the graph has loss {losses[0]:g} and gradient norm {norm:g}, the model {expected[0]:g} and "
        f"{length:g} with the same noise, as if a number from outside had changed"
    )


def _is_near(a: float, b: float) -> bool:
    if not (math.isfinite(a) and math.isfinite(b)):
        return not (math.isfinite(a) or math.isfinite(b))
    return abs(a - b) <= 1e-3 * max(abs(b), 1.0)
