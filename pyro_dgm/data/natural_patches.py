"""Patches of photographs as vectors, on which density estimators are compared."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.data.array_files import read_array
from pyro_dgm.data.download import FOLDER_VARIABLE
from pyro_dgm.data.preprocessing import PARTS, frozen_uniform
from pyro_dgm.data.splits import Dataset, Split
from pyro_dgm.errors import IntegrityError, ResourceError

LEVELS, SIDE = 256, 8
_NAME = "bsds300_patches.npz"


class BSDS300(Dataset):
    r"""Patches of 8 x 8 grey pixels from the Berkeley segmentation data set, as vectors of 63 real numbers.

    .. math:: v = (k + u) / 256, \quad u \sim U[0, 1)^{64}; \qquad x = (v_i - \bar v)_{i < 64}

    The mean of a patch is taken away, and its last pixel left out, which the others then determine. The noise is new
    for each training batch, and fixed in the held-out parts.

    The patches are a user's own draw, since the published one is not to be had file by file: in the folder that
    `PYRO_DGM_DATA` names, ``bsds300_patches.npz`` with "train", "val" and "test", bytes (N, 8, 8). Results on
    different draws are comparable up to sampling noise; the ledger tells draws apart by their hash.

    Args:
        index: whether batches carry the number of each patch in its part.

    Raises:
        InvalidInput: `PYRO_DGM_DATA` names no folder, or a file that cannot be read.
        IntegrityError: arrays of another shape or type.
        ResourceError: there is no such file.

    Example:
        >>> data = BSDS300()  # doctest: +SKIP
        >>> data.data_shape, data.train.batch(torch.arange(100))[0].std()  # doctest: +SKIP
        ((63,), tensor(0.0866))

    Reference:
        Martin, Fowlkes, Tal, Malik: A database of human segmented natural images (2001); Uria, Murray, Larochelle:
        RNADE, the real-valued neural autoregressive density-estimator (2013), for the preparation.
    """

    def __init__(self, *, index: bool = False) -> None:
        path = _path()
        patches = {part: _patches(path, part) for part in PARTS}
        sha256 = hashlib.sha256(b"".join(part.tobytes() for part in patches.values())).hexdigest()
        parts = []
        for seed, (part, k) in enumerate(patches.items()):
            centred = _vectors(torch.from_numpy(k).flatten(1).float() / LEVELS)
            if part != "train":
                u = frozen_uniform(k.size, bits=np.random.PCG64(seed)).reshape(len(k), -1)
                centred += _vectors(u / LEVELS)
            rows = torch.arange(len(k)) if index else None
            parts.append(Split(centred, index=rows, noise=_dequantised if part == "train" else None))
        train, val, test = parts
        super().__init__(
            "BSDS300",
            (train, val, test),
            preprocessing={
                "source": f"{_NAME}, sha256 of the arrays {sha256[:16]}",
                "split": {**{part: len(k) for part, k in patches.items()}, "rule": "as in the file"},
                "rule": "(k + u) / 256, less the patch's mean, without the last pixel",
                "fixed_draws": "PCG64 seeded 1 (val), 2 (test)",
            },
        )


def _vectors(patches: Tensor) -> Tensor:
    """Patches (N, 64) without their means and their last pixels, (N, 63)."""
    return (patches - patches.mean(1, keepdim=True))[:, :-1]


def _dequantised(x: Tensor, u: Tensor) -> Tensor:
    """Vectors with the noise of all 64 pixels, of which ``u`` is that of the first 63."""
    return x + _vectors(torch.cat([u, torch.rand_like(u[:, :1])], 1) / LEVELS)


def _path() -> Path:
    root = os.environ.get(FOLDER_VARIABLE)
    path = Path(root or ".", _NAME)
    if not root or not path.is_file():
        raise ResourceError(
            "no patches",
            where=FOLDER_VARIABLE,
            value=root or "not set",
            expected=f"a folder that holds {_NAME}",
            cure=f'np.savez("{_NAME}", train=..., val=..., test=...) of bytes (N, {SIDE}, {SIDE})',
        )
    return path


def _patches(path: Path, part: str) -> np.ndarray:
    patches = read_array(path, str(path), key=part)
    if patches.dtype != np.uint8 or patches.shape[1:] != (SIDE, SIDE) or not len(patches):
        raise IntegrityError(
            "no patches",
            where=f"{path}, {part}",
            value=f"{patches.dtype} {patches.shape}",
            expected=f"uint8 (N, {SIDE}, {SIDE})",
        )
    return patches
