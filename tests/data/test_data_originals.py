"""The published files themselves, where `PYRO_DGM_DATA` names a folder of them."""

from __future__ import annotations

import os

import pytest
import torch

from pyro_dgm.data import MNIST, BinarizedMNIST, FashionMNIST

pytestmark = pytest.mark.skipif(
    not os.environ.get("PYRO_DGM_DATA"), reason="PYRO_DGM_DATA names no folder of downloaded originals"
)


@pytest.mark.parametrize("published", [MNIST, FashionMNIST])
def test_labels_and_splits_are_the_published_ones(published: type[MNIST] | type[FashionMNIST]) -> None:
    data = published(labels=True)
    ys = [part.y for part in (data.train, data.val, data.test)]
    assert [len(y) for y in ys if y is not None] == [50_000, 10_000, 10_000]
    assert data.data_shape == (1, 28, 28) and data.num_classes == 10
    assert bool((data.train.x * 255 - (data.train.x * 255).round()).abs().max() < 1e-4)


def test_binarised_mnist_is_a_bernoulli_draw_of_mnist() -> None:
    """Each test set's count of ink: z-score against 4.9, false alarm 1e-6 (the two test sets hold the same images)."""
    grey = MNIST().test.x.double()
    bits = BinarizedMNIST()
    z = (bits.test.x.double().sum() - grey.sum()) / (grey * (1 - grey)).sum().sqrt()
    assert abs(z) < 4.9
    assert [len(part) for part in (bits.train, bits.val, bits.test)] == [50_000, 10_000, 10_000]
    assert torch.equal(bits.train.x.unique(), torch.tensor([0.0, 1.0]))
