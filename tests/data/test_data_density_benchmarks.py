"""Patches and particle events: what is done to them, and files that are not what they should be."""

import numpy as np
import pytest
import torch

from pyro_dgm.data import BSDS300, MiniBooNE
from pyro_dgm.data.download import FOLDER_VARIABLE
from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    return tmp_path


def patches(folder, **changes):
    rng = np.random.default_rng(0)
    sizes = {"train": 300, "val": 20, "test": 30}
    parts = {part: rng.integers(0, 256, (size, 8, 8), dtype=np.uint8) for part, size in sizes.items()}
    np.savez(folder / "bsds300_patches.npz", **{**parts, **changes})
    return parts


def test_a_patch_is_63_numbers_about_its_mean(folder):
    parts = patches(folder)
    data = BSDS300()
    assert data.data_shape == (63,) and (len(data.train), len(data.val), len(data.test)) == (300, 20, 30)
    k = torch.from_numpy(parts["test"]).flatten(1).double()
    low, high = (
        (k - k.mean(1, keepdim=True) - 1)[:, :-1] / 256,
        (k - k.mean(1, keepdim=True) + 1)[:, :-1] / 256,
    )
    assert bool(((data.test.x > low) & (data.test.x < high)).all())
    assert torch.equal(BSDS300().test.x, data.test.x)
    rows = torch.arange(300)
    first, second = data.train.batch(rows)[0], data.train.batch(rows)[0]
    assert not torch.equal(first, second) and (first - second).abs().max() < 2 / 256
    # Noise of u - mean(u) with u uniform: 1/12 less a 64th, in units of 1/256.
    deviation = (first - second).std().item() * 256
    assert deviation == pytest.approx((2 / 12 * (1 - 1 / 64)) ** 0.5, rel=0.02)


def test_files_that_are_no_patches(folder):
    with pytest.raises(
        ResourceError, match="no patches in PYRO_DGM_DATA: .*; expected a folder that holds bsds300"
    ):
        BSDS300()
    patches(folder, val=np.zeros((5, 8, 8)))
    with pytest.raises(
        IntegrityError, match=r"no patches in .*val: float64 \(5, 8, 8\); expected uint8 \(N, 8, 8\)"
    ):
        BSDS300()


def test_events_are_split_and_normalised_as_in_the_paper(folder):
    rows = np.random.default_rng(0).normal(3, 2, (36_488, 43))
    (folder / "miniboone").mkdir()
    np.save(folder / "miniboone" / "data.npy", rows)
    data = MiniBooNE()
    assert (len(data.train), len(data.val), len(data.test)) == (29556, 3284, 3648)
    rest = torch.cat([data.train.x, data.val.x])
    torch.testing.assert_close(rest.mean(0), torch.zeros(43), rtol=0, atol=1e-5)
    torch.testing.assert_close(rest.std(0, correction=0), torch.ones(43), rtol=0, atol=1e-5)
    expected = (rows[-1] - rows[:-3648].mean(0)) / rows[:-3648].std(0)
    torch.testing.assert_close(data.test.x[-1], torch.from_numpy(expected).float())


def test_files_that_are_no_events(folder):
    with pytest.raises(ResourceError, match="no events"):
        MiniBooNE()
    (folder / "miniboone").mkdir()
    np.save(folder / "miniboone" / "data.npy", np.zeros((10, 43)))
    with pytest.raises(IntegrityError, match="not the published events"):
        MiniBooNE()
    rows = np.zeros((36_488, 43))
    rows[5, 7] = np.nan
    np.save(folder / "miniboone" / "data.npy", rows)
    with pytest.raises(InvalidInput, match="data.npy"):
        MiniBooNE()
