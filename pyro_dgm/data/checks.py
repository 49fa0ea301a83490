"""What is asked of data before any training, with errors that name the first bad element and the cure."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput

CHANNELS = (1, 3, 4)  # grey, RGB, RGBA: a last axis of this size is probably the channels
SCALE_CURE = "scale=255 (--data.init_args.scale=255)"


def _first(bad: Tensor) -> tuple[int, ...]:
    """The position of the first True."""
    return tuple(int(i) for i in np.unravel_index(int(bad.flatten().to(torch.uint8).argmax()), bad.shape))


def _place(position: tuple[int, ...]) -> str:
    inside = f", position {position[1:]}" if len(position) > 1 else ""
    return f"sample {position[0]}{inside}"


def _range(x: Tensor) -> str:
    low, high = torch.aminmax(x)
    return f"values from {low.item():.6g} to {high.item():.6g}"


def require_finite(x: Tensor, where: str) -> None:
    """An error for NaN or infinite values, which names the first.

    Args:
        x: data, (N, ...).
        where: what to call the data in the message.

    Raises:
        InvalidInput: a value is not finite.

    Example:
        >>> require_finite(torch.tensor([[0.0, 1.0], [0.0, float("nan")]]), "train")
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: sample 1, position (1,) is NaN in train: 1 of 4 values is not finite; ...
    """
    if x.numel() == 0 or math.isfinite(x.sum().item()):  # a sum is finite only if every term is
        return
    bad = ~torch.isfinite(x)
    count = int(bad.sum())
    if count == 0:  # the sum overflowed, the terms did not
        return
    position = _first(bad)
    kind = "NaN" if torch.isnan(x[position]) else "infinite"
    raise InvalidInput(
        f"{_place(position)} is {kind}",
        where=where,
        value=f"{count} of {x.numel()} values {'is' if count == 1 else 'are'} not finite",
        expected="finite values",
        cure="leaving such samples out, or filling the gaps",
    )


def require_unit_interval(x: Tensor, where: str) -> None:
    """An error for values outside [0, 1], which states the range found.

    Example:
        >>> require_unit_interval(torch.tensor([[0.0, 255.0]]), "train")
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: data outside [0, 1] in train: values from 0 to 255; ...; try scale=255 ...
    """
    low, high = torch.aminmax(x)
    if low < 0 or high > 1 or bool(torch.isnan(low)):
        raise InvalidInput(
            "data outside [0, 1]", where=where, value=_range(x), expected="values in [0, 1]", cure=SCALE_CURE
        )


def require_levels(x: Tensor, where: str, *, levels: int) -> None:
    """An error for values that are not on the grid k / (levels - 1), k = 0..levels-1.

    Example:
        >>> require_levels(torch.tensor([[0.0, 0.3, 1.0]]), "train", levels=3)
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: sample 0, position (1,) is off the grid in train: 0.3; expected k / 2 ...
    """
    require_unit_interval(x, where)
    k = x * (levels - 1)
    bad = (k - k.round()).abs() > 1e-3
    if bool(bad.any()):
        position = _first(bad)
        raise InvalidInput(
            f"{_place(position)} is off the grid",
            where=where,
            value=f"{x[position].item():.6g}",
            expected=f"k / {levels - 1} with k = 0..{levels - 1}",
            cure="another number of levels, or levels=None for real-valued data",
        )


def require_shape(found: tuple[int, ...], where: str, *, expected: tuple[int, ...] | None) -> None:
    """An error for data of another shape, which suggests a transpose where the channels seem to come last.

    Args:
        found: the shape of one datum.
        where: what to call the data in the message.
        expected: the shape wanted; None asks only whether the channels seem to come last.

    Example:
        >>> require_shape((28, 28, 1), "train", expected=(1, 28, 28))
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: channels come last in train: (28, 28, 1); expected (1, 28, 28); try ...
    """
    if found == expected:
        return
    turned = (found[2], found[0], found[1]) if len(found) == 3 else None
    last = turned is not None and found[2] in CHANNELS and found[0] not in CHANNELS
    if last and expected in (None, turned):
        raise InvalidInput(
            "channels come last",
            where=where,
            value=found,
            expected=f"{turned}",
            cure=f"x.transpose(0, 3, 1, 2), or data_shape={found} if that is meant",
        )
    if expected is not None:
        raise InvalidInput(
            "wrong shape of a datum",
            where=where,
            value=found,
            expected=f"{expected}",
            cure="reshaping the data, or another data_shape",
        )


def require_labels(
    y: Tensor | np.ndarray, where: str, *, count: int, num_classes: int | None = None
) -> Tensor:
    """The labels as int64, or an error that counts the bad ones and names the first.

    Args:
        y: labels, (N,), whole numbers: -1 for "no label", else 0..num_classes-1.
        where: what to call the labels in the message.
        count: N.
        num_classes: the number of classes; None asks only for -1 or more.

    Raises:
        InvalidInput: another shape, a type that is not a whole number, or a label out of range.

    Example:
        >>> require_labels(torch.tensor([0, 7, 9]), "labels", count=3, num_classes=5)
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: 2 of 3 labels out of range in labels: 7 at index 1; expected -1 ...; try -1 ...
    """
    array = y.detach().cpu().numpy() if isinstance(y, Tensor) else np.asarray(y)
    if array.shape != (count,):
        raise InvalidInput(
            "wrong shape", where=where, value=array.shape, expected=f"({count},), a label a datum"
        )
    if array.dtype.kind not in "iu":
        raise InvalidInput(
            f"{count} of {count} labels are not whole numbers",
            where=where,
            value=f"{array[0]} at index 0, {array.dtype}",
            expected="an integer type",
            cure="y.astype(int), or y[:, None] for numbers to condition on",
        )
    limit = np.iinfo(np.int64).max if num_classes is None else num_classes - 1
    bad = (array < -1) | (array > limit)
    if bad.any():
        first = int(bad.argmax())
        raise InvalidInput(
            f"{int(bad.sum())} of {count} labels out of range",
            where=where,
            value=f"{array[first]} at index {first}",
            expected=f"-1 (no label) or 0..{limit}",
            cure="-1 for such data, or another num_classes",
        )
    return y.long() if isinstance(y, Tensor) else torch.from_numpy(array.astype(np.int64))


def require_given(
    y: Tensor | np.ndarray, where: str, *, count: int, num_classes: int | None = None
) -> Tensor:
    """What a model may be given of each datum: labels, as :func:`require_labels`, or real numbers as they are.

    Args:
        y: labels, (N,), whole numbers; or finite real numbers (N, *shape), with at least one axis beside N.
        where: what to call them in the message.
        count: N.
        num_classes: the number of classes; it makes real numbers an error.

    Raises:
        InvalidInput: another shape, labels that are none, or numbers that are not finite.

    Example:
        >>> require_given(torch.tensor([[0.5], [1.5]]), "y", count=2).shape
        torch.Size([2, 1])
    """
    real = y.is_floating_point() if isinstance(y, Tensor) else y.dtype.kind == "f"
    if not real or y.ndim < 2 or num_classes is not None:
        return require_labels(y, where, count=count, num_classes=num_classes)
    if len(y) != count:
        raise InvalidInput(
            "wrong shape", where=where, value=tuple(y.shape), expected=f"({count}, ...), one a datum"
        )
    given = torch.as_tensor(y)
    require_finite(given, where)
    return given


def warn_constant(x: Tensor, where: str) -> None:
    """One warning for features that never vary: a density can put infinite height on them.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn_constant(torch.tensor([[0.0, 1.0], [2.0, 1.0]]), "train")
        >>> print(caught[0].message)
        1 of 2 features is constant in train, first at position (1,): ...
    """
    low, high = torch.aminmax(x.flatten(1), dim=0)
    bad = low == high
    count = int(bad.sum())
    if count:
        position = tuple(int(i) for i in np.unravel_index(int(bad.to(torch.uint8).argmax()), x.shape[1:]))
        warnings.warn(
            f"{count} of {bad.numel()} features {'is' if count == 1 else 'are'} constant in {where}, first at "
            f"position {position}: a density grows there until a floor on its scale stops it; leave them out "
            "or compare no likelihoods",
            stacklevel=2,
        )
