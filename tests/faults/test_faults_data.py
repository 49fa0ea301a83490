"""Faults of data, by the rows 1 to 9 of the table of faults: all end before training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyro_dgm.data import Arrays
from pyro_dgm.errors import InvalidInput
from tests.faults.conftest import BINARY, Place, fault_of


def with_pixel(value: float) -> np.ndarray:
    images = BINARY.copy()
    images[17, 0, 3, 4] = value
    return images


def test_row_01_nan_pixel_is_placed(place: Place) -> None:
    fault = fault_of(place.train(place.data(with_pixel(math.nan))))
    assert fault["what"] == "sample 17, position (0, 3, 4) is NaN"
    assert fault["where"] == "data.init_args.train"


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_row_02_infinite_pixel_is_placed(place: Place, value: float) -> None:
    fault = fault_of(place.train(place.data(with_pixel(value))))
    assert fault["what"] == "sample 17, position (0, 3, 4) is infinite"


def test_row_03_bytes_into_bernoulli_name_the_range_and_the_scale(place: Place) -> None:
    data = place.data(255 * BINARY)
    fault = fault_of(place.train(data))
    assert fault["value"] == "values from 0 to 255" and "--data.init_args.scale=255" in fault["cure"]
    assert place.train(data, "--data.init_args.scale=255").code == 0  # what it says helps


def test_row_04_grey_into_bernoulli_offers_to_binarise(place: Place) -> None:
    data = place.data(0.5 * BINARY)
    fault = fault_of(place.train(data))
    assert "is grey" in fault["what"] and fault["value"].startswith("0.5, ")
    assert 'binarize="dynamic"' in fault["cure"] and "continuous Bernoulli" in fault["cure"]
    assert place.train(data, "--data.binarize=dynamic").code == 0


@pytest.mark.parametrize(
    ("labels", "what", "value"),
    [
        (np.where(np.arange(40) % 20 == 3, 7, 1), "2 of 40 labels out of range", "7 at index 3"),
        (np.full(40, 0.5), "40 of 40 labels are not whole numbers", "0.5 at index 0, float64"),
    ],
    ids=["out of range", "float"],
)
def test_row_05_bad_labels_are_counted_and_the_first_is_named(
    place: Place, labels: np.ndarray, what: str, value: str
) -> None:
    np.save(place.path("labels.npy"), labels)
    changes = f"--data.train_labels={place.path('labels.npy')}", "--data.num_classes=5"
    fault = fault_of(place.train(*changes))
    assert (fault["what"], fault["value"]) == (what, value)
    assert fault["where"] == "data.init_args.train_labels"


@pytest.mark.parametrize("key", ["data", "program"])
def test_row_06_wrong_height_and_width_are_stated(place: Place, key: str) -> None:
    fault = fault_of(place.train(f"--{key}.data_shape=[1, 9, 9]"))
    shapes = fault["value"] + fault["expected"]
    assert "1, 8, 8" in shapes and "1, 9, 9" in shapes


def test_row_07_channels_last_suggest_a_transpose_and_wrong_channels_are_stated(place: Place) -> None:
    fault = fault_of(place.train(place.data(BINARY.transpose(0, 2, 3, 1))))
    assert "channels come last" in fault["what"] and "transpose(0, 3, 1, 2)" in fault["cure"]
    fault = fault_of(place.train(place.data(np.repeat(BINARY, 2, axis=1)), "--data.data_shape=[1, 8, 8]"))
    assert (fault["value"], fault["expected"]) == ("(2, 8, 8)", "(1, 8, 8)")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((40, 3), 2**40), "too large for float32"),
        (np.full((40, 3), 2**63, dtype=np.uint64), "too large for float32"),
        (np.full((40, 3), -1e200), "too large for float32"),
        (np.array([[{}]] * 40, dtype=object), "objects, not numbers"),
    ],
    ids=["int64", "uint64", "float64", "objects"],
)
def test_row_08_numbers_that_overflow_and_objects_are_refused(
    place: Place, array: np.ndarray, words: str
) -> None:
    objects = array.dtype == object
    fault = fault_of(place.train(place.data(array)), parts=["expected", "cure"] + ["value"] * (not objects))
    assert words in fault["what"] and ("pickles are never opened" in fault["cure"]) == objects
    with pytest.raises(InvalidInput):
        Arrays(array)


def test_row_09_empty_data(place: Place) -> None:
    fault = fault_of(place.train(place.data(BINARY[:0])))
    assert fault["what"] == "no data" and fault["value"] == "shape (0, 1, 8, 8)"
