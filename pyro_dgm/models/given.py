"""What a conditional model is given: y of each datum, checked, drawn or repeated."""

from __future__ import annotations

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.nets.labels import check_labels


def check_given(
    x: Tensor | None,
    y: Tensor | None,
    *,
    num_classes: int | None,
    shape: Sequence[int],
    owner: str,
    values: bool | None = None,
) -> None:
    """Refuses a y that cannot be conditioned on.

    Args:
        x: data (batch, ...), or None where they are to be drawn.
        y: what is given of each, (batch, *shape), or None.
        num_classes: number of classes; None if y is no label.
        shape: shape of one y.
        owner: name of the model, for the message.
        values: whether to look at the labels' values; by default where Pyro's validation does.

    Raises:
        IncompatibleModel: no y, and it is no label that could be drawn.
        InvalidInput: another shape or number, or labels that are no classes.
    """
    if y is None:
        if x is None and num_classes is not None:
            return  # labels are drawn
        if x is None:
            expected, cure = "y=...", "model(y=...) or sample(num, y=...)"
        elif num_classes is not None:
            expected, cure = "batches (x, y), as labelled data give them", "labels: true in the data"
        else:
            expected = f"batches (x, y), y of floats ({', '.join(map(str, ('N', *shape)))})"
            cure = "Arrays(x, train_labels=y), or Split(x, y)"
        raise IncompatibleModel("no y to condition on", where=owner, expected=expected, cure=cure)
    wanted = ("batch" if x is None else len(x), *shape)
    if y.dim() != len(wanted) or y.shape[1:] != wanted[1:] or (x is not None and len(y) != len(x)):
        expected = f"({', '.join(map(str, wanted))}), one for each datum"
        raise InvalidInput("wrong shape", where="y", value=tuple(y.shape), expected=expected)
    if num_classes is not None:
        validates = dist.is_validation_enabled() if values is None else values
        check_labels(y, num_classes, values=validates)


def given_for(num: int, y: Tensor | int | None, *, uniform: Tensor, shape: Sequence[int]) -> Tensor:
    """One y for each of ``num`` draws: the same for all, as they are, or labels drawn.

    Args:
        num: number of draws.
        y: one for all, (*shape), one for each, (num, *shape), or None for labels that are drawn.
        uniform: logits of p(y) for labels, (num_classes,), on the device of the model.
        shape: shape of one y.

    Raises:
        InvalidInput: another number of y.
    """
    if y is None:
        return dist.Categorical(logits=uniform).sample((num,))
    y = torch.as_tensor(y, device=uniform.device)
    if y.dim() == len(shape):
        y = y.expand(num, *y.shape)
    if len(y) != num:
        raise InvalidInput(
            "another number of draws than of labels", where="y", value=len(y), expected=f"one, or {num}"
        )
    return y
