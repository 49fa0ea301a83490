"""Labels of classes: made into vectors, and checked at the door of a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput


class OneHot(nn.Module):
    """Labels as unit vectors: (...) whole numbers from 0 to (..., num_classes) zeros and ones.

    The result has the type that the module was last moved to, so that it follows ``.double()``. A number that is
    no class gives zeros: :func:`check_labels` is what refuses it.

    Args:
        num_classes: number of classes.

    Raises:
        InvalidInput: no classes.

    Example:
        >>> OneHot(3)(torch.tensor([2, 0]))
        tensor([[0., 0., 1.],
                [1., 0., 0.]])
    """

    classes: Tensor
    one: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        if num_classes < 1:
            raise InvalidInput(
                "no classes", where="num_classes", value=num_classes, expected="an integer >= 1"
            )
        self.register_buffer("classes", torch.arange(num_classes), persistent=False)
        self.register_buffer("one", torch.ones(()), persistent=False)  # carries the type

    def forward(self, y: Tensor) -> Tensor:
        """One unit vector for each label of ``y``."""
        # Compared, not indexed: -1 as an index would be the last class.
        return (y.unsqueeze(-1) == self.classes).to(self.one.dtype)


def check_labels(y: Tensor, num_classes: int, *, values: bool = True) -> None:
    """Refuses labels that are no classes, in one line that counts them.

    Args:
        y: labels, any shape.
        num_classes: number of classes.
        values: whether to look at the values too, which a graph that is being recorded cannot.

    Raises:
        InvalidInput: labels that are not whole numbers, data without a label (-1), or a label out of range.

    Example:
        >>> check_labels(torch.tensor([0, -1]), 10)
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: data without a label in y: 1 of 2 are -1; expected labels 0..9; try ...
    """
    expected = f"labels 0..{num_classes - 1}"
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InvalidInput(
            "labels that are not whole numbers", where="y", value=y.dtype, expected=expected, cure="y.long()"
        )
    if not values:
        return
    if missing := int((y == -1).sum()):
        raise InvalidInput(
            "data without a label",
            where="y",
            value=f"{missing} of {y.numel()} are -1",
            expected=expected,
            cure="the labelled data alone, or a semi-supervised model",
        )
    outside = (y < 0) | (y >= num_classes)
    if count := int(outside.sum()):
        raise InvalidInput(
            "labels out of range",
            where="y",
            value=f"{count} of {y.numel()}, the first {int(y[outside].flatten()[0])}",
            expected=expected,
            cure="another num_classes, or labels numbered from 0",
        )
