"""A user's own arrays, in memory or in files, as a data set."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from pyro_dgm.data.array_files import Source, is_archive, read_archive, read_array, to_float32
from pyro_dgm.data.checks import (
    require_given,
    require_levels,
    require_shape,
    require_unit_interval,
    warn_constant,
)
from pyro_dgm.data.preprocessing import PARTS, Binarize, Preparation, frozen_permutation
from pyro_dgm.data.splits import Dataset
from pyro_dgm.errors import InvalidInput

RULE = "as given; a part not given is a tenth of train, by the order of words of PCG64 seeded 0"


class Arrays(Dataset):
    """A user's arrays: in memory, `.npy`, or `.npz`; no pickles.

    An `.npz` given as `train` holds either an array named `key`, or the arrays "train" and, if you like, "val"
    and "test". Its labels are named "y", or "train_labels" and so on. Each part not given is a tenth of `train`
    (rounded down, at least one), taken by a fixed permutation: 80 / 10 / 10 if only `train` is given.

    Real-valued data keep their values, divided by `scale`; a feature that is constant over the training part
    brings a warning. Data that are to be binarised or that have `levels` must be in [0, 1] after `scale`.

    Args:
        train: the data, (N, *data_shape), or the path of a file of them; booleans, integers or floats.
        val: the validation data.
        test: the test data.
        train_labels: labels, (N,), whole numbers from 0, -1 for a datum without one; or real numbers to condition
            on, (N, *shape), which have no classes.
        val_labels: labels of `val`; needed if both `val` and `train_labels` are given.
        test_labels: labels of `test`; the same.
        labels: whether to carry the labels found in an `.npz`.
        index: whether batches carry the number of each datum in its part.
        num_classes: the number of classes; by default 1 more than the greatest label of `train`.
        scale: what the data are divided by; 255 for bytes.
        data_shape: the shape of one datum; flat rows, or images without their single channel, are reshaped to it.
        binarize: "none", "static" or "dynamic", as for `Digits`.
        dequantize: (k + u) / levels, as for `Digits`.
        levels: the number of grey levels, on the grid k / (levels - 1); 256 for bytes with scale=255. None for
            real-valued data, whose bits per dimension are differential.
        key: the name of the array in an `.npz`.

    Raises:
        InvalidInput: a file that cannot be read, no data, a type that is not a number, NaN or infinite values,
            values that float32 cannot hold, another shape than `data_shape`, channels that seem to come last,
            values outside [0, 1] or off the grid where that is asked, labels out of range or not whole, or
            options that exclude each other.

    Example:
        >>> images = np.random.default_rng(0).integers(0, 256, size=(100, 28, 28), dtype=np.uint8)
        >>> data = Arrays(images, scale=255, levels=256, data_shape=(1, 28, 28), binarize="dynamic")
        >>> len(data.train), len(data.val), len(data.test), data.data_shape
        (80, 10, 10, (1, 28, 28))
    """

    def __init__(
        self,
        train: Source,
        val: Source | None = None,
        test: Source | None = None,
        *,
        train_labels: Source | None = None,
        val_labels: Source | None = None,
        test_labels: Source | None = None,
        labels: bool = False,
        index: bool = False,
        num_classes: int | None = None,
        scale: float | None = None,
        data_shape: Sequence[int] | None = None,
        binarize: Binarize = "none",
        dequantize: bool = False,
        levels: int | None = None,
        key: str = "x",
    ) -> None:
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise InvalidInput(
                "bad scale", where="scale", value=scale, expected="a positive number", cure="255"
            )
        if levels is not None and levels < 2:
            raise InvalidInput(
                "too few levels", where="levels", value=levels, expected="2 or more", cure="256"
            )
        preparation = Preparation(levels, binarize, dequantize)
        data = dict(zip(PARTS, (train, val, test), strict=True))
        tags = dict(zip(PARTS, (train_labels, val_labels, test_labels), strict=True))
        if is_archive(train):
            data, tags = read_archive(train, data=data, labels=tags, key=key, with_labels=labels)
        shape = None if data_shape is None else tuple(data_shape)
        given = {
            name: _prepared(read_array(source, name, key=key), name, scale=scale, shape=shape)
            for name, source in data.items()
            if source is not None
        }
        # every check comes before the cut, so that a sample's number is the user's own
        for name, x in given.items():
            require_shape(tuple(x.shape[1:]), name, expected=tuple(given["train"].shape[1:]))
            if levels is not None:
                require_levels(x, name, levels=levels)
            elif binarize != "none":
                require_unit_interval(x, name)
        xs, ys = fill_missing(given), None
        if labels or any(source is not None for source in tags.values()):
            named: dict[str, Tensor] = {}
            for name, x in given.items():
                named[name] = _given(tags[name], name, count=len(x), num_classes=num_classes)
                first = named["train"]
                if first.is_floating_point():
                    _require_alike(named[name], f"{name}_labels", first)
                elif num_classes is None:
                    num_classes = int(first.max()) + 1
            ys = fill_missing(named)
        if levels is None and binarize == "none":
            warn_constant(xs[0], "train")
        source = f"{train}" if isinstance(train, str | os.PathLike) else "arrays in memory"
        super().__init__(
            "Arrays",
            preparation.splits(xs, ys, index=index),
            preprocessing={
                **preparation.describe(xs, source=source, rule=RULE),
                "scale": scale,
                "sha256": {name: _fingerprint(x) for name, x in zip(PARTS, xs, strict=True)},
            },
            levels=preparation.seen_levels,
            num_classes=num_classes,
            bits_offset=preparation.bits_offset,
        )


def _prepared(array: np.ndarray, where: str, *, scale: float | None, shape: tuple[int, ...] | None) -> Tensor:
    """Finite float32 data (N, *shape), divided by the scale."""
    if array.size == 0 or array.ndim == 0:
        raise InvalidInput(
            "no data",
            where=where,
            value=f"shape {array.shape}",
            expected="one datum or more",
            cure="a file that holds data",
        )
    if array.ndim == 1:
        raise InvalidInput(
            "no axis of features",
            where=where,
            value=f"shape {array.shape}",
            expected="(N, ...)",
            cure="x[:, None]",
        )
    x = to_float32(array, where)
    found = tuple(x.shape[1:])
    if (
        shape is not None
        and found in ((math.prod(shape),), shape[1:])
        and math.prod(found) == math.prod(shape)
    ):
        x = x.reshape(len(x), *shape)
        found = shape
    require_shape(found, where, expected=shape)
    return x if scale is None else x / scale


def _given(source: Source | None, name: str, *, count: int, num_classes: int | None) -> Tensor:
    where = f"{name}_labels"
    if source is None:
        raise InvalidInput(
            "no labels", where=where, expected="labels for every part or none", cure=f"{where}=..."
        )
    y = read_array(source, where, key="y")
    real = y.dtype.kind == "f" and y.ndim > 1
    return require_given(to_float32(y, where) if real else y, where, count=count, num_classes=num_classes)


def _require_alike(y: Tensor, where: str, first: Tensor) -> None:
    if y.shape[1:] != first.shape[1:] or y.dtype != first.dtype:
        expected = f"(N, {', '.join(map(str, first.shape[1:]))}) {first.dtype}, as train_labels"
        raise InvalidInput(
            "other labels", where=where, value=f"{tuple(y.shape)} {y.dtype}", expected=expected
        )


def fill_missing(given: dict[str, Tensor]) -> list[Tensor]:
    """The three parts, those not given cut off `train` by a permutation that depends on its size alone."""
    count = len(given["train"])
    missing = [name for name in PARTS if name not in given]
    tenth = max(1, count // 10)
    if missing and count <= len(missing):
        raise InvalidInput(
            "too few data",
            where="train",
            value=count,
            expected=f"more than {len(missing)} to cut {missing} from",
        )
    if not missing:
        return [given[name] for name in PARTS]
    order = frozen_permutation(count, seed=0)
    rows = order.split([count - tenth * len(missing), *[tenth] * len(missing)])
    cut = dict(zip(["train", *missing], rows, strict=True))
    return [given["train"][cut[name].sort().values] if name in cut else given[name] for name in PARTS]


def _fingerprint(x: Tensor) -> str:
    return hashlib.sha256(x.contiguous().numpy().data).hexdigest()
