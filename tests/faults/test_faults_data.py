"""Faults of data, by the rows 1 to 9 of the table of faults: all end before training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pyro_dgm.data import Arrays
from pyro_dgm.errors import InvalidInput
from tests.faults.conftest import BINARY, REAL, Place, fault_of


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


GREY_CONFIG = """
program:
  class_path: pyro_dgm.models.MADE
  init_args:
    hidden: [8]
    observation:
      class_path: pyro_dgm.distributions.CategoricalObservation
      init_args: {data_shape: [2, 3], levels: 256}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Arrays, init_args: {train: x.npy, val: x.npy, test: x.npy, scale: 255}}
training: {epochs: 1, batch_size: 8}
evaluation: {num_data: 4}
"""
GREYS = np.random.default_rng(2).integers(0, 256, size=(60, 2, 3))


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_a_level_too_many_is_placed_in_whatever_part_before_training(place: Place, part: str) -> None:
    config = GREY_CONFIG.replace("x.npy", str(place.path("x.npy")))
    place.path("grey.yaml").write_text(config)
    place.data(GREYS)
    bad = GREYS.copy()
    bad[40, 1, 2] = 256
    change = f"--data.{part}={place.path('bad.npy')}"
    place.data(bad, "bad.npy")
    fault = fault_of(place.train(change, config="grey.yaml"))
    assert fault["what"] == "sample 40, position (1, 2) is off the grid" and fault["where"] == f"data.{part}"
    assert fault["value"].startswith("1.00392, and 1 of 360 values") and "256 levels" in fault["expected"]
    place.data(GREYS, "bad.npy")
    assert place.train(change, config="grey.yaml").code == 0  # nothing is in the way of the good data


def test_what_only_the_first_steps_find_leaves_no_run(place: Place) -> None:
    data = REAL.copy()
    data[12:] = -1e6  # beyond the few data of the rehearsal
    program, change = place.program("Picky")
    place.data(data)
    fault = fault_of(place.train(program, change), parts=["expected"])
    assert fault["what"] == "too small"
    place.data(REAL)
    assert place.train(program, change).code == 0


@pytest.mark.parametrize(
    ("program", "data", "message"),
    [
        ("MADE", "index", "index where MADE takes y"),
        ("VAE", "labels", "labels where VAE takes x alone"),
        ("VAE", "index", "index where VAE takes x alone"),
    ],
)
def test_fields_that_the_program_does_not_take_are_named(
    place: Place, program: str, data: str, message: str
) -> None:
    own = {"MADE": "{num_classes: 40, hidden: [8]}", "VAE": "{latent_dim: 2, hidden: [8]}"}[program]
    np.savez(place.path("x.npz"), x=BINARY, y=np.arange(40) % 3)
    place.path("fields.yaml").write_text(
        f"program: {{class_path: pyro_dgm.models.{program}, init_args: {own}}}\n"
        "objective: {class_path: pyro_dgm.objectives.ELBO}\n"
        f"data: {{class_path: pyro_dgm.data.Arrays, init_args: {{train: {place.path('x.npz')}, {data}: true}}}}\n"
        "training: {epochs: 1, batch_size: 8}\n"
    )
    fault = fault_of(place.train(config="fields.yaml"))
    assert (
        fault["what"] == message
        and fault["where"] == "data"
        and f"{data}: false in the data" in fault["cure"]
    )
    assert place.train(f"--data.{data}=false", config="fields.yaml").code == (0 if program == "VAE" else 2)
