"""Numbers read from a user's `.npy` and `.npz` files, or taken from memory, without ever running a pickle."""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.data.checks import require_finite
from pyro_dgm.data.preprocessing import PARTS
from pyro_dgm.errors import InvalidInput

Source = str | os.PathLike[str] | np.ndarray | Tensor
"""The path of a `.npy` or `.npz`, or an array in memory."""

EXACT = 2**24  # float32 holds every whole number up to here
UNREADABLE = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


def is_path(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is a path rather than an array."""
    return isinstance(source, str | os.PathLike)


def is_archive(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a source is the path of an `.npz`."""
    return is_path(source) and Path(source).suffix == ".npz"


def read_array(source: Source, where: str, *, key: str) -> np.ndarray:
    """An array from memory, from a `.npy`, or under the name `key` from an `.npz`.

    Raises:
        InvalidInput: a missing or unreadable file, an array of objects, or no array of that name.

    Example:
        >>> read_array(torch.ones(2, 2), "train", key="x").shape
        (2, 2)
    """
    if is_archive(source):
        found, held = _members(source, [key])
        if key not in found:
            raise _no_array(source, key, held)
        return found[key]
    if not is_path(source):
        return np.asarray(source.detach().cpu()) if isinstance(source, Tensor) else np.asarray(source)
    try:
        with open(source, "rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except UNREADABLE as problem:
        raise _unreadable(source, problem) from problem


def read_archive(
    path: str | os.PathLike[str],
    *,
    data: Mapping[str, Source | None],
    labels: Mapping[str, Source | None],
    key: str,
    with_labels: bool,
) -> tuple[dict[str, Source | None], dict[str, Source | None]]:
    """Data and labels of all parts that an `.npz` given as `train` holds; those given apart take precedence.

    Args:
        path: the archive, with "train" (and "val", "test"; labels "train_labels"...) or `key` (labels "y").
        data: what was given for each part; that of "train" is the archive.
        labels: what was given for the labels of each part.
        key: the name of the array if there is none named "train".
        with_labels: whether to take labels from the archive.

    Raises:
        InvalidInput: an archive that cannot be read, or without such arrays.
    """
    names = [key, "y", *PARTS, *(f"{part}_labels" for part in PARTS)]
    found, held = _members(path, names)
    several = "train" in found
    if not several and key not in found:
        raise _no_array(path, key, held)
    data, labels = dict(data), dict(labels)
    data["train"] = found["train" if several else key]
    for part in PARTS:
        if data[part] is None and several:
            data[part] = found.get(part)
        if with_labels and labels[part] is None and (several or part == "train"):
            labels[part] = found.get(f"{part}_labels" if several else "y")
    return data, labels


def to_float32(array: np.ndarray, where: str) -> Tensor:
    """The same numbers in float32, if they are numbers, finite, and float32 can hold them.

    Args:
        array: booleans, integers (up to 2^24 in size, which float32 holds exactly) or floats.
        where: what to call the array in an error.

    Raises:
        InvalidInput: objects, text, complex numbers, NaN, infinities, or numbers too large.

    Example:
        >>> to_float32(np.array([[2**40]]), "train")
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: numbers too large for float32 in train: up to 1.09951e+12, int64; ...
    """
    if array.dtype.kind not in "biuf":
        raise InvalidInput(
            "not an array of numbers", where=where, value=array.dtype, expected="booleans, integers or floats"
        )
    whole = array.dtype.kind in "iu"
    if not whole and array.dtype.kind == "f":
        require_finite(
            torch.from_numpy(np.asarray(array, np.float64 if array.itemsize > 4 else np.float32)), where
        )
    largest = max(abs(float(array.max())), abs(float(array.min())))
    if largest > (EXACT if whole else float(np.finfo(np.float32).max)):
        raise InvalidInput(
            "numbers too large for float32",
            where=where,
            value=f"up to {largest:.6g}, {array.dtype}",
            expected=f"at most {EXACT if whole else '3.4e38'} in size",
            cure="dividing by a scale first",
        )
    return torch.from_numpy(array.astype(np.float32))


def _members(path: str | os.PathLike[str], names: Sequence[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the named arrays that an archive holds, and the names of all."""
    try:
        # opened here and not by np.load, which leaves a file that it cannot read open
        with open(path, "rb") as stream, np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in names if name in archive.files}, list(archive.files)
    except UNREADABLE as problem:
        raise _unreadable(path, problem) from problem


def _no_array(path: str | os.PathLike[str], key: str, held: Sequence[str]) -> InvalidInput:
    value = f"holds {', '.join(held)}"
    return InvalidInput(
        "no such array", where=str(path), value=value, expected=f'"{key}" or "train"', cure="key=NAME"
    )


def _unreadable(path: str | os.PathLike[str], problem: Exception) -> InvalidInput:
    pickled = "allow_pickle" in str(problem)
    return InvalidInput(
        "objects, not numbers" if pickled else "cannot be read",
        where=str(path),
        value=None if pickled else f"{type(problem).__name__}: {problem}",
        expected="numbers in NumPy's .npy or .npz format",
        cure="saving it with np.save or np.savez from an array of numbers; pickles are never opened",
    )
