"""Grey and binary images of digits and clothes, with fixed splits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pyro_dgm.data import originals
from pyro_dgm.data.download import Original, read_original
from pyro_dgm.data.formats import read_digits, read_idx
from pyro_dgm.data.preprocessing import Binarize, Preparation, frozen_permutation
from pyro_dgm.data.splits import Dataset

HELD_OUT = 10_000  # the last images of MNIST's training file are the validation part


class Digits(Dataset):
    """8x8 images of handwritten digits, 17 grey levels; inside scikit-learn, so nothing is downloaded.

    1797 images, k / 16 with k = 0..16. Split: a fixed permutation, 1077 / 360 / 360.

    Args:
        binarize: "none" (grey), "static" (one fixed draw of Bernoulli(grey)) or "dynamic" (drawn anew for each
            training batch; the held-out parts are those of "static").
        dequantize: (k + u) / 17, with new u for each training batch and fixed u in the held-out parts.
        labels: whether batches carry the digit, y = 0..9.
        index: whether batches carry the number of each image in its part.

    Raises:
        InvalidInput: options that exclude each other.

    Example:
        >>> data = Digits(binarize="dynamic", labels=True)
        >>> data.data_shape, len(data.train), len(data.val), len(data.test), data.train.fields
        ((1, 8, 8), 1077, 360, 360, ('x', 'y'))
        >>> x, y = data.train.batch(torch.arange(5))
        >>> x.unique()
        tensor([0., 1.])

    Reference:
        Alpaydin, Kaynak: Optical recognition of handwritten digits (UCI machine learning repository, 1998),
        its test set as given by scikit-learn.
    """

    def __init__(
        self,
        binarize: Binarize = "none",
        *,
        dequantize: bool = False,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        preparation = Preparation(17, binarize, dequantize)
        raw = load_digits()
        order = frozen_permutation(len(raw.images), seed=0)
        images = torch.from_numpy(raw.images.astype(np.float32) / 16).unsqueeze(1)[order]
        digits = torch.from_numpy(raw.target.astype(np.int64))[order]
        xs = images.split([1077, 360, 360])
        ys = digits.split([1077, 360, 360]) if labels else None
        rule = "permutation by the order of 1797 words of PCG64 seeded 0"
        super().__init__(
            "Digits",
            preparation.splits(xs, ys, index=index),
            preprocessing=preparation.describe(xs, source="sklearn.datasets.load_digits", rule=rule),
            levels=preparation.seen_levels,
            num_classes=10,
            bits_offset=preparation.bits_offset,
        )


class _IdxImages(Dataset):
    """Images and labels in four idx files, those of training cut in two; abstract."""

    @abstractmethod
    def __init__(
        self,
        name: str,
        files: Sequence[Original],
        preparation: Preparation,
        *,
        labels: bool,
        index: bool,
        mirror: str | None,
    ) -> None:
        xs, ys = _idx_parts(files, labels=labels, mirror=mirror)
        super().__init__(
            name,
            preparation.splits(xs, ys, index=index),
            preprocessing=preparation.describe(xs, source=_source(files), rule=_IDX_RULE),
            levels=preparation.seen_levels,
            num_classes=10,
            bits_offset=preparation.bits_offset,
        )


class MNIST(_IdxImages):
    """28x28 images of handwritten digits, 256 grey levels, downloaded on first use (11 MB).

    k / 255 with k = 0..255. Split: the training file's first 50,000 images to train and its last 10,000 to
    validate; the 10,000 of the test file to test.

    Args:
        binarize: as for `Digits`.
        dequantize: (k + u) / 256, as for `Digits`.
        labels: whether batches carry the digit, y = 0..9.
        index: whether batches carry the number of each image in its part.
        mirror: another address to download the four files from.

    Raises:
        InvalidInput: options that exclude each other, or `PYRO_DGM_DATA` names no folder.
        IntegrityError: a file is not the published one.
        ResourceError: no network, and no copy.

    Example:
        >>> data = MNIST(binarize="dynamic")  # doctest: +SKIP
        >>> data.train.batch(torch.arange(100))[0].shape  # doctest: +SKIP
        torch.Size([100, 1, 28, 28])

    Reference:
        LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition (1998).
    """

    def __init__(
        self,
        binarize: Binarize = "none",
        *,
        dequantize: bool = False,
        labels: bool = False,
        index: bool = False,
        mirror: str | None = None,
    ) -> None:
        preparation = Preparation(256, binarize, dequantize)
        super().__init__(
            "MNIST", originals.MNIST_FILES, preparation, labels=labels, index=index, mirror=mirror
        )


class FashionMNIST(_IdxImages):
    """28x28 images of clothes, 256 grey levels, downloaded on first use (31 MB).

    Made to take MNIST's place: the same shape, the same number of classes, the same files and so the same split.

    Args:
        binarize: as for `Digits`.
        dequantize: (k + u) / 256, as for `Digits`.
        labels: whether batches carry the kind of clothing, y = 0..9.
        index: whether batches carry the number of each image in its part.
        mirror: another address to download the four files from.

    Raises:
        InvalidInput: options that exclude each other, or `PYRO_DGM_DATA` names no folder.
        IntegrityError: a file is not the published one.
        ResourceError: no network, and no copy.

    Example:
        >>> data = FashionMNIST(dequantize=True)  # doctest: +SKIP
        >>> data.bits_per_dim(nats_per_datum=0.0)  # doctest: +SKIP
        8.0

    Reference:
        Xiao, Rasul, Vollgraf: Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms
        (2017).
    """

    def __init__(
        self,
        binarize: Binarize = "none",
        *,
        dequantize: bool = False,
        labels: bool = False,
        index: bool = False,
        mirror: str | None = None,
    ) -> None:
        preparation = Preparation(256, binarize, dequantize)
        super().__init__(
            "FashionMNIST",
            originals.FASHION_MNIST_FILES,
            preparation,
            labels=labels,
            index=index,
            mirror=mirror,
        )


class BinarizedMNIST(Dataset):
    """MNIST binarised once and for all, as published by Larochelle; downloaded on first use (110 MB of text).

    Each pixel is one draw of Bernoulli(grey). Split: 50,000 / 10,000 / 10,000, the three files as they are. There
    are no labels: train and validation are MNIST's training file shuffled, test is its test file by class.

    Args:
        index: whether batches carry the number of each image in its part.
        mirror: another address to download the three files from.

    Raises:
        InvalidInput: `PYRO_DGM_DATA` names no folder.
        IntegrityError: a file is not the published one.
        ResourceError: no network, and no copy.

    Example:
        >>> BinarizedMNIST().train.x.unique()  # doctest: +SKIP
        tensor([0., 1.])

    Reference:
        Salakhutdinov, Murray: On the quantitative analysis of deep belief networks (2008); Larochelle, Murray:
        The neural autoregressive distribution estimator (2011).
    """

    def __init__(self, *, index: bool = False, mirror: str | None = None) -> None:
        preparation = Preparation(2)
        files = originals.BINARIZED_MNIST_FILES
        xs = [
            torch.from_numpy(read_digits(read_original(file, mirror=mirror), columns=784, name=file.name))
            .float()
            .reshape(-1, 1, 28, 28)
            for file in files
        ]
        source = f"{_source(files)}, binarised by its authors"
        super().__init__(
            "BinarizedMNIST",
            preparation.splits(xs, index=index),
            preprocessing=preparation.describe(xs, source=source, rule="the published files"),
            levels=preparation.seen_levels,
        )


_IDX_RULE = f"the last {HELD_OUT} of the training file validate; the test file tests"


def _source(files: Sequence[Original]) -> str:
    """The address and the sha256 of the files, which the check has made certain."""
    return files[0].url + ", sha256 " + ", ".join(f"{file.name} {file.sha256[:16]}" for file in files)


def _idx_parts(
    files: Sequence[Original], *, labels: bool, mirror: str | None
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Images k / 255 as (N, 1, H, W), and labels if asked, of the three parts."""
    train_x, train_y, test_x, test_y = files

    def read(file: Original) -> Tensor:
        return torch.from_numpy(read_idx(read_original(file, mirror=mirror), name=file.name).copy())

    def parts(train: Tensor, test: Tensor) -> list[Tensor]:
        return [train[:-HELD_OUT], train[-HELD_OUT:], test]

    xs = [part.unsqueeze(1).float().div_(255) for part in parts(read(train_x), read(test_x))]
    return xs, [part.long() for part in parts(read(train_y), read(test_y))] if labels else None
