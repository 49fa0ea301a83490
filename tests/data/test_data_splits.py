"""Splits, binarisation, dequantisation and bits per dimension: their laws on images that need no download."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from pyro_dgm.data import Digits, Split
from pyro_dgm.data.preprocessing import Binarize, Dequantise, Preparation, frozen_permutation, frozen_uniform
from pyro_dgm.errors import InvalidInput


def parts(data: Digits) -> list[Split]:
    return [data.train, data.val, data.test]


def grey(split: Split) -> Tensor:
    return split.batch(torch.arange(len(split)))[0]


def test_batch_gives_the_rows_and_fields_that_were_asked_for() -> None:
    x, y = torch.arange(24.0).reshape(6, 2, 2), torch.tensor([0, 1, 2, -1, 0, 1])
    rows = torch.tensor([4, 0, 4])
    for labels in (None, y):
        for index in (None, torch.arange(6)):
            split = Split(x, labels, index=index)
            batch = split.batch(rows)
            expected = {"x": x[rows], "y": y[rows], "index": rows}
            carried = [name for name, held in (("x", x), ("y", labels), ("index", index)) if held is not None]
            assert list(split.fields) == carried
            assert all(torch.equal(expected[name], found) for name, found in zip(carried, batch, strict=True))


def test_a_slice_keeps_noise_labels_and_the_numbers_of_its_rows() -> None:
    split = Digits("dynamic", labels=True, index=True).train
    piece = split[100:150]
    x, y, index = piece.batch(torch.arange(50))
    assert len(piece) == 50 and piece.fields == split.fields
    assert torch.equal(index, torch.arange(100, 150))
    assert split.y is not None and torch.equal(y, split.y[100:150])
    assert set(x.unique().tolist()) == {0.0, 1.0}


def test_to_changes_the_type_of_x_alone() -> None:
    split = Digits(labels=True, index=True).val.to("cpu", torch.float64)
    x, y, index = split.batch(torch.arange(3))
    assert (x.dtype, y.dtype, index.dtype) == (torch.float64, torch.int64, torch.int64)


@pytest.mark.parametrize("x", [torch.zeros(0, 2), torch.zeros(3, 2, dtype=torch.long), torch.tensor(1.0)])
def test_a_split_without_floating_point_data_is_refused(x: Tensor) -> None:
    with pytest.raises(InvalidInput, match="floating-point"):
        Split(x)


def test_digits_are_scikit_learns_each_once() -> None:
    data = Digits(labels=True)
    x, y = torch.cat([part.x for part in parts(data)]), torch.cat([part.y for part in parts(data)])  # type: ignore[misc]
    raw = load_digits()
    rows = torch.cat([(x * 16).flatten(1).double(), y[:, None].double()], dim=1).numpy()
    expected = np.concatenate([raw.data, raw.target[:, None]], axis=1)
    assert [len(part) for part in parts(data)] == [1077, 360, 360]
    assert np.array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])
    assert data.num_classes == 10 and Digits().num_classes is None
    assert Digits().train.fields == ("x",)


def test_the_split_and_the_fixed_draws_ignore_the_global_seed() -> None:
    torch.manual_seed(1)
    first = Digits("static")
    torch.manual_seed(2)
    second = Digits("static")
    for a, b in zip(parts(first), parts(second), strict=True):
        assert torch.equal(a.x, b.x)


def test_making_a_data_set_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    Digits("dynamic")
    assert torch.equal(torch.get_rng_state(), before)


def test_dynamic_training_batches_are_redrawn_and_held_out_ones_are_those_of_static() -> None:
    static, dynamic = Digits("static"), Digits("dynamic")
    assert not torch.equal(grey(dynamic.train), grey(dynamic.train))
    assert torch.equal(grey(static.train), grey(static.train))
    for a, b in zip(parts(static)[1:], parts(dynamic)[1:], strict=True):
        assert torch.equal(grey(a), grey(b)) and torch.equal(grey(b), grey(b))
    torch.manual_seed(0)
    first = grey(dynamic.train)
    torch.manual_seed(0)
    assert torch.equal(grey(dynamic.train), first)


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_a_pixel_is_ink_as_often_as_it_is_grey(binarize: Binarize) -> None:
    """False alarm 17 * 1.6e-8 = 3e-7 for each case: the largest of 17 z-scores against 5.65."""
    source, data = Digits(), Digits(binarize)
    for raw, drawn in zip(parts(source), parts(data), strict=True):
        levels, bits = (raw.x * 16).round().long(), grey(drawn)
        assert set(bits.unique().tolist()) == {0.0, 1.0}
        for k in range(17):
            at_level = bits[levels == k]
            p = k / 16
            if k in (0, 16):
                assert bool((at_level == p).all())
            else:
                z = (at_level.sum() - len(at_level) * p) / math.sqrt(len(at_level) * p * (1 - p))
                assert abs(z) < 5.65


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_dequantised_values_stay_in_the_interval_of_their_level(levels: int) -> None:
    k = torch.arange(levels, dtype=torch.float32).repeat(5000)
    v = Dequantise(levels)(k / (levels - 1), torch.rand_like(k))
    scaled = v.double() * levels
    assert float(v.min()) >= 0 and float(v.max()) < 1
    assert bool((scaled >= k - 1e-4).all()) and bool((scaled <= k + 1 + 1e-4).all())
    assert Dequantise(levels)(torch.ones(1), torch.full((1,), 1 - 2**-24)).item() < 1


def test_dequantised_held_out_data_are_drawn_once_and_training_data_anew() -> None:
    data = Digits(dequantize=True)
    assert not torch.equal(grey(data.train), grey(data.train))
    assert torch.equal(grey(data.test), grey(Digits(dequantize=True).test))
    assert torch.equal((grey(data.test) * 17 - 0.5).round().clamp(0, 16), Digits().test.x * 16)


def test_bits_of_a_mass_function_equal_those_of_its_dequantised_density() -> None:
    """P(k) on bins of width 1/17 has the density 17 P(k): the code length must not notice."""
    mass = torch.rand(17, dtype=torch.float64)
    mass /= mass.sum()
    grey_data, real_data = Digits(), Digits(dequantize=True)
    k = (grey_data.test.x * 16).round().long()
    v = real_data.test.x
    nats_mass = -mass[k].log().flatten(1).sum(1).mean().item()
    at = (v * 17 - 0.5).round().clamp(0, 16).long()
    nats_density = -(17 * mass[at]).log().flatten(1).sum(1).mean().item()
    direct = -mass[k].log2().mean().item()
    assert grey_data.bits_per_dim(nats_mass) == pytest.approx(direct, rel=1e-12)
    assert real_data.bits_per_dim(nats_density) == pytest.approx(direct, rel=1e-12)


def test_bits_of_fair_coins_are_one() -> None:
    assert Digits("dynamic").bits_per_dim(64 * math.log(2)) == pytest.approx(1.0, rel=1e-15)


def test_levels_say_how_many_values_an_element_takes() -> None:
    made = [Digits(), Digits("static"), Digits("dynamic"), Digits(dequantize=True)]
    assert [data.levels for data in made] == [17, 2, 2, None]


def test_preprocessing_is_plain_data_that_tells_the_variants_apart() -> None:
    made = [Digits(), Digits("static"), Digits("dynamic"), Digits(dequantize=True)]
    texts = [json.dumps(data.preprocessing, sort_keys=True) for data in made]
    assert len(set(texts)) == 4
    assert made[0].preprocessing["split"]["train"] == 1077


@pytest.mark.parametrize("binarize", ["static", "dynamic"])
def test_options_that_exclude_each_other_are_refused(binarize: Binarize) -> None:
    with pytest.raises(InvalidInput, match="exclude each other"):
        Digits(binarize, dequantize=True)


def test_an_unknown_binarisation_is_refused() -> None:
    with pytest.raises(InvalidInput, match="one of none, static, dynamic"):
        Preparation(256, "sometimes")  # type: ignore[arg-type]


def test_frozen_draws_are_what_they_have_always_been() -> None:
    """The published words of PCG64: were they to change, every held-out split and recorded figure would."""
    words = [
        0xA30FEBCFD9C2825F,
        0x4510BDF882D9D721,
    ]  # made once; NumPy promises the stream of a bit generator
    stream = np.random.PCG64(0).random_raw(2)
    u = frozen_uniform(2, bits=np.random.PCG64(0))
    assert u.tolist() == [(int(word) >> 40) / 2**24 for word in stream]
    assert sorted(frozen_permutation(1000, seed=3).tolist()) == list(range(1000))
    assert [int(word) for word in stream] == words


def test_real_numbers_to_condition_on_follow_x_in_rows_and_in_type() -> None:
    y = torch.randn(6, 2, 3, dtype=torch.float64)
    split = Split(torch.rand(6, 4), y, index=torch.arange(6))
    rows = torch.tensor([5, 1])
    assert split.fields == ("x", "y", "index") and torch.equal(split.batch(rows)[1], y[rows].float())
    assert torch.equal(split[2:4].batch(torch.arange(2))[1], y[2:4].float())
    for dtype in (torch.float64, torch.bfloat16):
        assert split.to("cpu", dtype).batch(rows)[1].dtype == dtype
    assert Split(torch.zeros(6, 4, dtype=torch.uint8), y).batch(rows)[1].dtype == torch.float32


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.rand(6), r"6 of 6 labels are not whole numbers in y.*try .*y\[:, None\]"),
        (torch.rand(5, 2), r"wrong shape in y: \(5, 2\); expected \(6, \.\.\.\)"),
        (torch.tensor([[0.0, 1.0]] * 5 + [[0.0, math.nan]]), r"sample 5, position \(1,\) is NaN in y"),
        (torch.zeros(6, 2, dtype=torch.long), r"wrong shape in y: \(6, 2\); expected \(6,\)"),
    ],
)
def test_what_is_neither_a_label_nor_a_context_is_refused(y: Tensor, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Split(torch.rand(6, 4), y)
