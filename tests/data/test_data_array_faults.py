"""Every fault of a user's own arrays, said in one line before any training."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pyro_dgm.data import Arrays, require_finite
from pyro_dgm.errors import InvalidInput

RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(64, 3, 4)).astype(np.float32)
BYTES = RNG.integers(0, 256, size=(64, 28, 28), dtype=np.uint8)
TAGS = RNG.integers(0, 5, size=64)


def planted(value: float) -> np.ndarray:
    x = REAL.copy()
    x[17, 1, 3] = value
    return x


@pytest.mark.parametrize(
    ("value", "kind"), [(math.nan, "NaN"), (math.inf, "infinite"), (-math.inf, "infinite")]
)
def test_a_value_that_is_not_finite_is_placed(value: float, kind: str) -> None:
    message = (
        rf"^sample 17, position \(1, 3\) is {kind} in train: 1 of 768 values is not finite; expected .*try "
    )
    for x in (planted(value), planted(value).astype(np.float64), torch.from_numpy(planted(value))):
        with pytest.raises(InvalidInput, match=message):
            Arrays(x)
    with pytest.raises(InvalidInput, match=r"sample 17, position \(1, 3\) is .* in test"):
        Arrays(REAL, REAL, planted(value))


def test_finite_values_whose_sum_overflows_are_finite() -> None:
    require_finite(torch.full((4, 2), 3e38), "x")


@pytest.mark.parametrize("kind", [{"binarize": "dynamic"}, {"binarize": "static"}, {"levels": 256}])
def test_bytes_where_the_unit_interval_is_wanted_name_the_range_and_the_scale(kind: dict[str, Any]) -> None:
    with pytest.raises(
        InvalidInput, match=r"values from 0 to 255; expected values in \[0, 1\]; try scale=255"
    ):
        Arrays(BYTES, **kind)


def test_values_off_the_grid_are_refused() -> None:
    x = np.zeros((10, 2))
    x[3, 1] = 0.5
    with pytest.raises(
        InvalidInput, match=r"sample 3, position \(1,\) is off the grid in test: 0.5; expected k / 255"
    ):
        Arrays(np.zeros((10, 2)), np.zeros((10, 2)), x, levels=256)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            np.where(np.arange(64) % 20 == 3, 7, 1),
            r"4 of 64 labels out of range in .*: 7 at index 3; .*0\.\.4",
        ),
        (np.where(np.arange(64) == 9, -2, 1), r"1 of 64 labels out of range in .*: -2 at index 9"),
        (TAGS.astype(np.float64), r"64 of 64 labels are not whole numbers"),
        (TAGS.astype(np.uint64) + np.uint64(2**63), r"64 of 64 labels out of range"),
        (TAGS[:-1], r"wrong shape in .*: \(63,\); expected \(64,\)"),
        (TAGS.astype(object), r"not whole numbers"),
    ],
)
def test_bad_labels_are_counted_and_the_first_is_named(labels: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Arrays(REAL, train_labels=labels, num_classes=5)


def test_labels_of_held_out_parts_must_be_classes_of_the_training_part() -> None:
    tags = np.zeros(64, dtype=np.int8)
    with pytest.raises(InvalidInput, match=r"64 of 64 labels out of range in test_labels: 3 at index 0"):
        Arrays(REAL, REAL, REAL, train_labels=tags, val_labels=tags - 1, test_labels=tags + 3)
    with pytest.raises(InvalidInput, match="no labels in val_labels"):
        Arrays(REAL, REAL, train_labels=tags)


@pytest.mark.parametrize(
    ("x", "shape", "message"),
    [
        (REAL, (3, 5), r"wrong shape of a datum in train: \(3, 4\); expected \(3, 5\)"),
        (
            np.zeros((5, 8, 6, 3)),
            (3, 8, 6),
            r"channels come last.*\(8, 6, 3\).*\(3, 8, 6\).*transpose\(0, 3, 1, 2\)",
        ),
        (np.zeros((5, 28, 28, 1)), (1, 28, 28), r"channels come last.*transpose"),
        (np.zeros((5, 8, 6, 3)), None, r"channels come last.*transpose.*data_shape=\(8, 6, 3\)"),
        (
            np.zeros((5, 2, 8, 8)),
            (1, 8, 8),
            r"wrong shape of a datum in train: \(2, 8, 8\); expected \(1, 8, 8\)",
        ),
        (np.zeros(5), None, "no axis of features"),
    ],
)
def test_a_wrong_shape_is_stated(x: np.ndarray, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Arrays(x, data_shape=shape)


def test_channels_last_may_be_meant() -> None:
    x = RNG.normal(size=(10, 8, 6, 3))
    assert Arrays(x, data_shape=(8, 6, 3)).data_shape == (8, 6, 3)


def test_parts_of_different_shapes_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"in test: \(4, 3\); expected \(3, 4\)"):
        Arrays(REAL, REAL, REAL.reshape(64, 4, 3))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.array([[2**40, 0]] * 9), "too large for float32"),
        (np.array([[1e200, 0.0]] * 9), "too large for float32"),
        (np.array([["a"]] * 9), "not an array of numbers"),
        (np.array([[1j]] * 9), "not an array of numbers"),
        (np.array([[{}]] * 9), "not an array of numbers"),
        (np.zeros((0, 3)), "no data"),
        (np.zeros((9, 0)), "no data"),
        (np.zeros((2, 3)), "too few data"),
    ],
)
def test_arrays_that_are_no_data_are_refused(x: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Arrays(x)


class Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("a pickle was run",))


def test_files_that_hold_no_numbers_are_refused_and_no_pickle_runs(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([Bomb()], dtype=object))
    np.savez(tmp_path / "objects.npz", x=np.array([Bomb()], dtype=object))
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps(Bomb()))
    for name, message in (
        ("objects.npy", "objects, not numbers"),
        ("objects.npz", "objects, not numbers"),
        ("pickle.npy", "cannot be read"),
    ):
        with pytest.raises(InvalidInput, match=message):
            Arrays(tmp_path / name)
    np.save(tmp_path / "good.npy", REAL)
    np.savez(tmp_path / "good.npz", x=REAL)
    for name in ("good.npy", "good.npz"):
        content = (tmp_path / name).read_bytes()
        for count in (0, 7, 60, len(content) // 2, len(content) - 1):
            (tmp_path / f"cut-{name}").write_bytes(content[:count])
            with pytest.raises(InvalidInput, match="cannot be read"):
                Arrays(tmp_path / f"cut-{name}")
    with pytest.raises(InvalidInput, match=r"cannot be read.*FileNotFoundError"):
        Arrays(tmp_path / "missing.npz")
    with pytest.raises(InvalidInput, match='holds x; expected "pixels"'):
        Arrays(tmp_path / "good.npz", key="pixels")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "bad scale"),
        ({"scale": math.nan}, "bad scale"),
        ({"levels": 1}, "too few levels"),
        ({"dequantize": True}, "no number of grey levels"),
        ({"dequantize": True, "levels": 2, "binarize": "static"}, "exclude each other"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Arrays(REAL, **options)


def test_a_constant_feature_brings_one_warning_for_real_valued_data_only() -> None:
    x = REAL.copy()
    x[:, 2, 1] = 3.5
    with pytest.warns(
        UserWarning, match=r"1 of 12 features is constant in train, first at position \(2, 1\)"
    ):
        Arrays(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Arrays(np.zeros((20, 4)), levels=2)
        Arrays(np.zeros((20, 4)), binarize="static")
        Arrays(REAL)
