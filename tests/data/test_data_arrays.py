"""A user's own arrays: where they come from and how they are cut."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from pyro_dgm.data import Arrays, Dataset
from pyro_dgm.errors import InvalidInput

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(64, 3, 4)).astype(np.float32)
BYTES = RNG.integers(0, 256, size=(64, 28, 28), dtype=np.uint8)
TAGS = RNG.integers(0, 5, size=64)


def rows(data: Dataset) -> np.ndarray:
    flat = torch.cat([part.x.flatten(1) for part in (data.train, data.val, data.test)]).numpy()
    return flat[np.lexsort(flat.T)]


def test_a_single_array_is_cut_into_parts_that_hold_each_datum_once() -> None:
    data = Arrays(REAL, index=True)
    assert [len(part) for part in (data.train, data.val, data.test)] == [52, 6, 6]
    expected = REAL.reshape(64, -1)
    assert np.array_equal(rows(data), expected[np.lexsort(expected.T)])
    assert torch.equal(data.val.x, Arrays(REAL).val.x)
    assert data.levels is None and data.num_classes is None and data.data_shape == (3, 4)


def test_labels_follow_their_data() -> None:
    x = np.stack([TAGS, np.arange(64)], axis=1).astype(np.float64)
    data = Arrays(x, train_labels=TAGS)
    for part in (data.train, data.val, data.test):
        assert part.fields == ("x", "y") and part.y is not None
        assert torch.equal(part.x[:, 0].long(), part.y)
    assert data.num_classes == 5


def test_parts_that_are_given_stay_as_they_are() -> None:
    data = Arrays(REAL[:40], REAL[40:50], REAL[50:])
    for part, expected in ((data.train, REAL[:40]), (data.val, REAL[40:50]), (data.test, REAL[50:])):
        assert np.array_equal(part.x.numpy(), expected)
    data = Arrays(REAL[:40], REAL[40:])
    assert [len(part) for part in (data.train, data.val, data.test)] == [36, 24, 4]


def test_every_way_in_gives_the_same_data(tmp_path: Path) -> None:
    folder = tmp_path / "gr\u00fc n"
    folder.mkdir()
    np.save(folder / "a.npy", REAL)
    np.savez(folder / "one.npz", x=REAL, y=TAGS)
    np.savez_compressed(folder / "named.npz", pixels=REAL, other=np.array([{}], dtype=object))
    expected = Arrays(REAL)
    ways = [
        Arrays(torch.from_numpy(REAL)),
        Arrays(folder / "a.npy"),
        Arrays(str(folder / "one.npz")),
        Arrays(folder / "named.npz", key="pixels"),
        Arrays(REAL.astype(np.float64)),
    ]
    for data in ways:
        assert data.train.fields == ("x",)
        assert torch.equal(data.train.x, expected.train.x) and torch.equal(data.test.x, expected.test.x)
    assert torch.equal(
        Arrays(folder / "one.npz", labels=True).train.y,  # type: ignore[arg-type]
        Arrays(REAL, train_labels=TAGS).train.y,  # type: ignore[arg-type]
    )


def test_an_archive_may_hold_all_parts_and_their_labels(tmp_path: Path) -> None:
    path = tmp_path / "all.npz"
    tags = {"train_labels": TAGS[:40], "val_labels": TAGS[40:50], "test_labels": TAGS[50:]}
    np.savez(path, train=REAL[:40], val=REAL[40:50], test=REAL[50:], **tags)
    data = Arrays(path, labels=True)
    for part, start, stop in ((data.train, 0, 40), (data.val, 40, 50), (data.test, 50, 64)):
        assert np.array_equal(part.x.numpy(), REAL[start:stop])
        assert part.y is not None and np.array_equal(part.y.numpy(), TAGS[start:stop])
    assert Arrays(path).train.fields == ("x",)


def test_bytes_become_grey_levels_binary_draws_or_reals() -> None:
    kind: dict[str, Any] = {"scale": 255, "levels": 256, "data_shape": [1, 28, 28]}
    grey = Arrays(BYTES, **kind)
    assert grey.data_shape == (1, 28, 28) and grey.levels == 256
    assert torch.allclose((grey.train.x * 255).round(), grey.train.x * 255, atol=1e-4)
    for binarize in ("static", "dynamic"):
        data = Arrays(BYTES.reshape(64, 784), **kind, binarize=binarize)  # type: ignore[arg-type]
        for x in (data.train.batch(torch.arange(52))[0], data.test.x):
            assert set(x.unique().tolist()) == {0.0, 1.0}
        assert data.levels == 2 and data.data_shape == (1, 28, 28)
    real = Arrays(BYTES, **kind, dequantize=True)
    assert real.bits_per_dim(0.0) == 8.0 and grey.bits_per_dim(784 * math.log(2)) == pytest.approx(1.0)


def test_real_data_have_differential_bits_and_the_ledger_tells_data_apart() -> None:
    first, second = Arrays(REAL), Arrays(REAL, scale=2.0)
    assert torch.equal(first.train.x / 2, second.train.x)
    assert first.bits_per_dim(12 * math.log(2)) == pytest.approx(1.0)
    assert first.preprocessing["sha256"] != second.preprocessing["sha256"]


def test_a_config_makes_a_data_set(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", BYTES)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Dataset, "data")
    init = {"train": str(tmp_path / "x.npy"), "scale": 255, "data_shape": [1, 28, 28], "binarize": "static"}
    config = parser.parse_object({"data": {"class_path": "pyro_dgm.data.Arrays", "init_args": init}})
    data = parser.instantiate(config).data
    assert data.data_shape == (1, 28, 28) and data.levels == 2


def test_real_numbers_to_condition_on_go_with_their_data_and_have_no_classes(tmp_path: Path) -> None:
    context = np.stack([REAL.sum((1, 2)), REAL[:, 0, 0]], axis=1)  # so that each row tells whose it is
    np.savez(tmp_path / "both.npz", x=REAL, y=context)
    for data in (Arrays(REAL, train_labels=context), Arrays(tmp_path / "both.npz", labels=True)):
        assert data.num_classes is None and data.train.fields == ("x", "y")
        for part in (data.train, data.val, data.test):
            x, y = part.batch(torch.arange(len(part)))
            assert torch.allclose(y, torch.stack([x.sum((1, 2)), x[:, 0, 0]], dim=1), atol=1e-5)
    with pytest.raises(InvalidInput, match=r"other labels in val_labels: .*expected \(N, 2\)"):
        Arrays(REAL, REAL, train_labels=context, val_labels=context[:, :1])
    with pytest.raises(InvalidInput, match="wrong shape in train_labels"):
        Arrays(REAL, train_labels=context, num_classes=2)
