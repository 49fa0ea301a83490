"""Folders of images: every pixel as it was saved, parts by the rule of Arrays, bytes in memory, faults in one line."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_dgm.data import Arrays, ImageFolder, Split
from pyro_dgm.errors import InvalidInput

Save = Callable[..., np.ndarray]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves random images (N, H, W, C) or (N, H, W) as files of a folder, and gives them back."""

    def saved(
        folder: str, count: int, shape: tuple[int, ...], suffix: str = "png", first: int = 0
    ) -> np.ndarray:
        rng = np.random.default_rng([count, *shape, *folder.encode()])
        images = rng.integers(0, 256, size=(count, *shape), dtype=np.uint8)
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images, first):
            Image.fromarray(image).save(tmp_path / folder / f"{number:04d}.{suffix}")
        return images

    return saved


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 6)])
def test_the_parts_are_those_that_arrays_would_make_of_the_same_images(
    save: Save, tmp_path: Path, shape: tuple[int, ...]
) -> None:
    images = save("train", 30, shape)
    channels = 3 if len(shape) == 3 else 1
    data = ImageFolder(tmp_path / "train", channels=channels)  # type: ignore[arg-type]
    as_arrays = np.moveaxis(images.reshape(30, 4, 6, channels), -1, 1)
    arrays = Arrays(as_arrays, scale=255, levels=256)
    assert data.data_shape == arrays.data_shape == (channels, 4, 6) and data.levels == 256
    for part, other in ((data.train, arrays.train), (data.val, arrays.val), (data.test, arrays.test)):
        assert part.stored.dtype == torch.uint8
        assert torch.equal(part.x, other.x) and part.x.dtype == torch.float32
        assert torch.equal(part.batch(torch.arange(len(part)))[0], other.x)
    split, theirs = data.preprocessing["split"], arrays.preprocessing["split"]
    assert split == theirs
    hashed = hashlib.sha256(data.val.stored.numpy().tobytes()).hexdigest()
    assert data.preprocessing["sha256"]["val"] == hashed


def test_given_parts_are_taken_whole_and_labels_are_the_subfolders(save: Save, tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 3)):
        cats = save(f"{part}/cat", count, (2, 2, 3))
        save(f"{part}/zebra/deep", count, (2, 2, 3), "jpg")
        save(f"{part}/ant", 0 if part == "test" else 1, (2, 2, 3))
    data = ImageFolder(tmp_path / "train", test=tmp_path / "test", labels=True, index=True)
    assert data.class_names == ("ant", "cat", "zebra") and data.num_classes == 3
    assert (len(data.train), len(data.val), len(data.test)) == (37, 4, 6)
    x, y, index = data.test.batch(torch.tensor([4, 0]))
    assert y.tolist() == [2, 1] and index.tolist() == [4, 0]
    assert torch.equal(x[1], torch.from_numpy(cats[0]).permute(2, 0, 1) / 255)


def test_dequantised_bytes_are_their_level_and_new_noise_in_training_alone(
    save: Save, tmp_path: Path
) -> None:
    save("train", 40, (3, 3, 3))
    data = ImageFolder(tmp_path / "train", dequantize=True)
    grey = ImageFolder(tmp_path / "train")
    assert data.levels is None and data.bits_per_dim(0.0) == 8.0
    for name in ("train", "val", "test"):
        part, levels = getattr(data, name), getattr(grey, name).stored
        rows = torch.arange(len(part))
        draws = [part.batch(rows)[0] for _ in range(2)]
        assert torch.equal((draws[0] * 256).floor(), levels.float())
        assert torch.equal(draws[0], draws[1]) == (name != "train")
    assert data.train.stored.dtype == torch.uint8


def test_a_size_cuts_off_what_is_too_long_and_averages_areas(tmp_path: Path) -> None:
    wide = np.zeros((4, 10), np.uint8)
    wide[:, 1:9] = np.kron(np.arange(8).reshape(2, 4) * 30, np.ones((2, 2)))
    wide[:2, 1:3] = [[0, 100], [100, 0]]
    tall = np.full((8, 8), 7, np.uint8)
    for name, image in (("a", wide), ("b", tall), ("c", wide)):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    data = ImageFolder(tmp_path, tmp_path, tmp_path, size=(2, 4), channels=1)
    expected = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 4) * 30
    expected[0, 0, 0] = 50
    assert torch.equal(data.train.stored[0], expected) and bool((data.train.stored[1] == 7).all())


def test_two_tones_are_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    data = ImageFolder(tmp_path, tmp_path, tmp_path, channels=1)
    assert data.train.x.flatten().tolist() == [1.0, 0.0]


def test_a_split_of_bytes_is_the_split_of_their_floats() -> None:
    k = torch.randint(256, (10, 1, 3, 3), dtype=torch.uint8)
    y = torch.arange(10)
    stored, plain = Split(k, y, index=y), Split(k / 255, y, index=y)
    rows = torch.tensor([7, 0, 7])
    variants: list[Callable[[Split], Split]] = [
        lambda split: split,
        lambda split: split[2:],
        lambda split: split.to("cpu", torch.float64)[:8],
        lambda split: split.to(dtype=torch.float16).to("cpu"),
    ]
    for variant in variants:
        ours, theirs = variant(stored), variant(plain)
        assert ours.stored.dtype == torch.uint8 and len(ours) == len(theirs) and ours.fields == theirs.fields
        assert ours.x.dtype == theirs.x.dtype
        for a, b in zip(ours.batch(rows), theirs.batch(rows), strict=True):
            assert a.dtype == b.dtype and torch.allclose(
                a, b, rtol=0, atol=1e-3 if a.dtype == torch.float16 else 1e-7
            )
    assert math.isclose(
        Split(k[:1], dtype=torch.float64).x[0, 0, 0, 0], int(k[0, 0, 0, 0]) / 255, abs_tol=1e-15
    )


def corrupt(folder: Path) -> None:
    path = folder / "0001.png"
    path.write_bytes(path.read_bytes()[:60])


def replace(**how: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        Image.new(**{"mode": "RGB", "size": (6, 4), **how}).save(folder / "0001.png")

    return change


FAULTS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "truncated": (corrupt, {}, r"cannot be read in .*0001\.png: .*; expected a PNG or JPEG image"),
    "no image": (lambda f: (f / "0001.png").write_bytes(b"no"), {}, r"cannot be read in .*0001\.png"),
    "empty": (lambda f: (f / "0000.png").write_bytes(b""), {}, r"cannot be read in .*0000\.png"),
    "larger": (replace(size=(7, 4)), {}, r"images of several sizes in .*0001\.png: 4x7; expected 4x6"),
    "grey": (
        replace(mode="L"),
        {},
        r"another kind of image in .*0001\.png: mode L; expected RGB .*channels=1",
    ),
    "alpha": (replace(mode="RGBA"), {}, r"0001\.png: mode RGBA; .*; try converting it"),
    "colour": (
        replace(),
        {"channels": 1},
        r"png: mode RGB; expected L or 1 for channels=1; try channels=3",
    ),
    "two channels": (replace(), {"channels": 2}, "bad setting in channels: 2; expected 1 or 3"),
    "no folder": (lambda f: None, {"val": "/nowhere"}, "no such folder in val: /nowhere"),
    "no images": (
        lambda f: (f / "e").mkdir(),
        {"test": "e"},
        r"no images in test: .*e; expected files in \.png",
    ),
    "no classes": (lambda f: None, {"labels": True}, r"an image without a class in .*0000\.png"),
    "no height": (lambda f: None, {"size": (0, 4)}, r"bad setting in size: \(0, 4\); expected \(H, W\)"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_that_names_the_file(name: str, save: Save, tmp_path: Path) -> None:
    change, arguments, said = FAULTS[name]
    save("train", 5, (4, 6, 3))
    change(tmp_path / "train")
    arguments = {
        key: tmp_path / "train" / value if value == "e" else value for key, value in arguments.items()
    }
    with pytest.raises(InvalidInput, match=said) as fault:
        ImageFolder(tmp_path / "train", **arguments)
    assert "\n" not in str(fault.value)


def test_a_class_that_train_has_not_and_too_few_images(save: Save, tmp_path: Path) -> None:
    save("train/cat", 5, (2, 2, 3))
    save("test/dog", 1, (2, 2, 3))
    with pytest.raises(InvalidInput, match=r"a class that train has not in .*0000\.png: dog"):
        ImageFolder(tmp_path / "train", test=tmp_path / "test", labels=True)
    with pytest.raises(InvalidInput, match="too few data in train: 1"):
        ImageFolder(tmp_path / "test")
