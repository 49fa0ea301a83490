"""Measurements of particles, on which density estimators are compared."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch

from pyro_dgm.data.array_files import read_array
from pyro_dgm.data.checks import require_finite
from pyro_dgm.data.download import FOLDER_VARIABLE
from pyro_dgm.data.preprocessing import Preparation
from pyro_dgm.data.splits import Dataset
from pyro_dgm.errors import IntegrityError, ResourceError

_PLACES = ("miniboone/data.npy", "data/miniboone/data.npy")
_SHAPE = (36_488, 43)
_ARCHIVE = "https://zenodo.org/records/1161203"


class MiniBooNE(Dataset):
    """Neutrino events of the MiniBooNE experiment, 43 real numbers each, prepared as in the paper on MAF.

    The file ``miniboone/data.npy`` of the published archive (https://zenodo.org/records/1161203), in the folder that
    `PYRO_DGM_DATA` names. Its last tenth is the test part and the last tenth of the rest the validation part; each
    feature is then brought to mean 0 and deviation 1 over training and validation parts together.

    Args:
        index: whether batches carry the number of each event in its part.

    Raises:
        InvalidInput: the file cannot be read, or holds values that are not finite.
        IntegrityError: an array of another shape than the published one.
        ResourceError: there is no such file.

    Example:
        >>> data = MiniBooNE()  # doctest: +SKIP
        >>> data.data_shape, len(data.train), len(data.val), len(data.test)  # doctest: +SKIP
        ((43,), 29556, 3284, 3648)

    Reference:
        Roe, Yang, Zhu, Liu, Stancu, McGregor: Boosted decision trees as an alternative to artificial neural networks
        for particle identification (2005); Papamakarios, Pavlakou, Murray: Masked autoregressive flow for density
        estimation (2017), appendix D, for the preparation.
    """

    def __init__(self, *, index: bool = False) -> None:
        path = _path()
        rows = read_array(path, str(path), key="")
        if rows.shape != _SHAPE or rows.dtype.kind != "f":
            raise IntegrityError(
                "not the published events",
                where=str(path),
                value=f"{rows.dtype} {rows.shape}",
                expected=f"real numbers {_SHAPE}",
                cure=f"the archive of {_ARCHIVE}",
            )
        require_finite(torch.from_numpy(rows), str(path))
        held_out = len(rows) // 10
        rest = len(rows) - held_out
        mean, deviation = rows[:rest].mean(0), rows[:rest].std(0)
        xs = torch.from_numpy((rows - mean) / deviation).float()
        parts = xs.split([rest - rest // 10, rest // 10, held_out])
        preparation = Preparation(levels=None)
        about = preparation.describe(
            parts,
            source=f"{_ARCHIVE}, sha256 of the array {hashlib.sha256(rows.tobytes()).hexdigest()[:16]}",
            rule="the last tenth test, the last tenth of the rest validation; mean 0 and deviation 1 over the rest",
        )
        super().__init__("MiniBooNE", preparation.splits(parts, index=index), preprocessing=about)


def _path() -> Path:
    root = os.environ.get(FOLDER_VARIABLE)
    found = [Path(root, place) for place in _PLACES if Path(root, place).is_file()] if root else []
    if not found:
        raise ResourceError(
            "no events",
            where=FOLDER_VARIABLE,
            value=root or "not set",
            expected=f"a folder that holds {_PLACES[0]}",
            cure=f"the archive of {_ARCHIVE}, unpacked there",
        )
    return found[0]
