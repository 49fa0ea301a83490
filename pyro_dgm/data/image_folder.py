"""Folders of image files as a data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.data.arrays import RULE, fill_missing
from pyro_dgm.data.preprocessing import PARTS, Preparation
from pyro_dgm.data.splits import Dataset, Split
from pyro_dgm.errors import InvalidInput

if TYPE_CHECKING:
    from PIL.Image import Image

Channels = Literal[1, 3]
SUFFIXES = (".png", ".jpg", ".jpeg")
_MODES = {1: ("L", "1"), 3: ("RGB",)}  # Pillow's names for a grey image, one of two tones, and one in colour


class ImageFolder(Dataset):
    """PNG and JPEG files in folders, (channels, H, W) with 256 grey levels k/255, read once and kept as bytes.

    Files are found at any depth and taken in the order of their paths. A part not given is a tenth of `train`, by
    the rule of `Arrays`. ImageNet of 64x64 pixels takes 16 GB. With `dequantize` the held-out parts, whose noise is
    drawn once, are kept in float32, which takes four times as much for them.

    Args:
        train: the folder of the images.
        val: the folder of the validation images.
        test: the folder of the test images.
        size: (H, W) to which each image is reduced, by cutting off equally at both ends what is too long and averaging
            areas; None for images that have one size already.
        channels: 3 for images in colour, 1 for grey ones; all must be such.
        dequantize: (k + u) / 256, as for `Digits`.
        labels: whether batches carry y, the number of the subfolder of the image, by the alphabet, from 0.
        index: whether batches carry the number of each image in its part.

    Attributes:
        class_names: the names of the subfolders of `train`, in the order of y; none without labels.

    Raises:
        InvalidInput: no such folder, no images in it, a file that cannot be read, images of several sizes or of
            another number of channels, or labels where there are no subfolders or other ones than in `train`.

    Example:
        >>> data = ImageFolder("train_64x64", test="valid_64x64")  # doctest: +SKIP
        >>> data.data_shape, data.levels, len(data.train), len(data.test)  # doctest: +SKIP
        ((3, 64, 64), 256, 1153035, 49999)
    """

    def __init__(
        self,
        train: str | os.PathLike[str],
        val: str | os.PathLike[str] | None = None,
        test: str | os.PathLike[str] | None = None,
        *,
        size: tuple[int, int] | None = None,
        channels: Channels = 3,
        dequantize: bool = False,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        if channels not in get_args(Channels):
            raise InvalidInput("bad setting", where="channels", value=channels, expected="1 or 3")
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise InvalidInput("bad setting", where="size", value=size, expected="(H, W)", cure="(64, 64)")
        given = dict(zip(PARTS, (train, val, test), strict=True))
        files = {part: _files(Path(folder), part) for part, folder in given.items() if folder is not None}
        # Numbers of files are cut, not images, which are read once and never copied.
        rows = fill_missing({part: torch.arange(len(found)) for part, found in files.items()})
        chosen = [
            [files.get(part, files["train"])[row] for row in cut.tolist()]
            for part, cut in zip(PARTS, rows, strict=True)
        ]
        self.class_names = tuple(sorted({_class(file) for file in files["train"]})) if labels else ()
        ys = [_labels(found, self.class_names) for found in chosen] if labels else None
        shape = (channels, *(_size(files["train"][0]) if size is None else size))
        xs = [_pixels(found, shape, resizes=size is not None) for found in chosen]
        sha256 = {part: hashlib.sha256(x.numpy().data).hexdigest() for part, x in zip(PARTS, xs, strict=True)}
        preparation = Preparation(256, dequantize=dequantize)
        if dequantize:
            xs[1:] = [Split(x).x for x in xs[1:]]
        super().__init__(
            "ImageFolder",
            preparation.splits(xs, ys, index=index),
            preprocessing={
                **preparation.describe(
                    xs, source=", ".join(f"{folder}" for folder in given.values() if folder), rule=RULE
                ),
                "resized": size is not None,
                "classes": list(self.class_names) or None,
                "sha256": sha256,
            },
            levels=preparation.seen_levels,
            num_classes=len(self.class_names),
            bits_offset=preparation.bits_offset,
        )


@dataclass(frozen=True)
class _File:
    """An image file and the path of it within the folder of its part."""

    path: Path
    inner: Path


def _files(folder: Path, part: str) -> list[_File]:
    """The image files of a folder, at any depth, in the order of their paths."""
    if not folder.is_dir():
        raise InvalidInput("no such folder", where=part, value=folder, expected="a folder of images")
    found = [path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    if not found:
        kinds = ", ".join(SUFFIXES)
        raise InvalidInput("no images", where=part, value=folder, expected=f"files in {kinds}")
    return [_File(path, path.relative_to(folder)) for path in sorted(found)]


def _class(file: _File) -> str:
    """The name of the subfolder that an image lies in."""
    if len(file.inner.parts) < 2:
        raise InvalidInput(
            "an image without a class",
            where=str(file.path),
            expected="a subfolder for each class",
            cure="labels=False",
        )
    return file.inner.parts[0]


def _labels(files: Sequence[_File], class_names: Sequence[str]) -> Tensor:
    numbers = {name: number for number, name in enumerate(class_names)}
    for file in files:
        if _class(file) not in numbers:
            raise InvalidInput(
                "a class that train has not",
                where=str(file.path),
                value=_class(file),
                expected=f"one of its {len(numbers)} subfolders",
            )
    return torch.tensor([numbers[_class(file)] for file in files])


@contextmanager
def _opened(file: _File) -> Iterator[Image]:
    """An image whose pixels are read within the block, with every fault named by its file."""
    from PIL import Image

    try:
        with Image.open(file.path) as image:
            yield image
    # Pillow raises each of these for one damaged file or another.
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as problem:
        if isinstance(problem, InvalidInput):
            raise
        text = f"{type(problem).__name__}: {problem}".replace(str(file.path), file.path.name)
        raise InvalidInput(
            "cannot be read",
            where=str(file.path),
            value=text,
            expected="a PNG or JPEG image",
            cure="removing it",
        ) from problem


def _size(file: _File) -> tuple[int, int]:
    with _opened(file) as image:
        return image.height, image.width


def _pixels(files: Sequence[_File], shape: tuple[int, ...], *, resizes: bool) -> Tensor:
    """Bytes (N, channels, H, W) of images."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    pixels = torch.empty(len(files), *shape, dtype=torch.uint8)
    for row, file in enumerate(files):
        with _opened(file) as image:
            if image.mode not in _MODES[channels]:
                raise InvalidInput(
                    "another kind of image",
                    where=str(file.path),
                    value=f"mode {image.mode}",
                    expected=f"{' or '.join(_MODES[channels])} for channels={channels}",
                    cure=f"channels={4 - channels}"
                    if image.mode in _MODES[4 - channels]
                    else "converting it",
                )
            if not resizes and (image.height, image.width) != (height, width):
                raise InvalidInput(
                    "images of several sizes",
                    where=str(file.path),
                    value=f"{image.height}x{image.width}",
                    expected=f"{height}x{width}, as the first of train has",
                    cure=f"size=({height}, {width}), which resizes all",
                )
            whole = image.convert("L") if channels == 1 else image  # two tones become 0 and 255
            fitted = ImageOps.fit(whole, (width, height), Image.Resampling.BOX) if resizes else whole
            array = np.asarray(fitted).reshape(height, width, channels)
        pixels[row] = torch.from_numpy(array.copy()).permute(2, 0, 1)
    return pixels
