"""The toys of the plane: fixed by their seed, and distributed as they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from pyro_dgm.data import Checkerboard, Dataset, GaussianGrid, GaussianRing, Moons, Pinwheel, Rings
from pyro_dgm.errors import InvalidInput

Sizes = tuple[int, int, int]
TOYS: list[tuple[Callable[..., Dataset], int]] = [
    (Moons, 2),
    (Rings, 2),
    (Pinwheel, 5),
    (Checkerboard, 8),
    (GaussianGrid, 25),
    (GaussianRing, 8),
]


@pytest.mark.parametrize(("toy", "classes"), TOYS)
def test_a_toy_is_fixed_by_its_seed_and_its_parts_differ(toy: Callable[..., Dataset], classes: int) -> None:
    first, again, other = toy((300, 200, 200)), toy((300, 200, 200)), toy((300, 200, 200), seed=1)
    assert first.data_shape == (2,) and first.train.x.dtype == torch.float32
    assert first.levels is None and first.bits_per_dim(2 * math.log(2)) == pytest.approx(1.0)
    assert torch.equal(first.train.x, again.train.x) and torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.train.x, other.train.x)
    assert not torch.equal(first.val.x, first.test.x)
    labelled = toy((300, 20, 20), labels=True, index=True)
    assert labelled.num_classes == classes and labelled.train.fields == ("x", "y", "index")
    assert labelled.train.y is not None
    assert labelled.train.y.unique().tolist() == list(
        range(classes)
    )  # P(a class missing) < 25 e^-12 = 2e-4, seeded


@pytest.mark.parametrize("toy", [GaussianGrid, GaussianRing])
def test_gaussians_have_their_centres_and_standard_deviation(toy: Callable[..., GaussianGrid]) -> None:
    """Chi-square of 40,000 residuals and 25 counts: z-scores against 4.9 and 5.5, false alarm below 3e-6."""
    data = toy((20_000, 1, 1), std=0.1, labels=True)
    y = data.train.y
    assert y is not None
    residual = (data.train.x - data.modes[y]).double() / data.std
    assert abs((residual.square().sum() - 40_000) / math.sqrt(2 * 40_000)) < 4.9
    assert abs(residual.sum() / math.sqrt(40_000)) < 4.9
    p = 1 / len(data.modes)
    z = (torch.bincount(y) - 20_000 * p) / math.sqrt(20_000 * p * (1 - p))
    assert float(z.abs().max()) < 5.5
    assert torch.allclose(data.modes.mean(0), torch.zeros(2), atol=1e-6)


def test_the_default_grid_and_ring_have_parted_modes() -> None:
    for data in (GaussianGrid((1, 1, 1)), GaussianRing((1, 1, 1))):
        apart = torch.pdist(data.modes).min().item()
        assert apart > 10 * data.std
    assert torch.allclose(GaussianRing((1, 1, 1)).modes.norm(dim=1), torch.tensor(2.0))


def test_the_checkerboard_is_uniform_on_its_black_squares() -> None:
    """Counts of the 8 squares and of 4 quarters in each: z against 5.7, false alarm below 40 * 1.2e-8 = 5e-7."""
    x = Checkerboard((32_000, 1, 1)).train.x
    assert bool((x >= -4).all()) and bool((x <= 4).all())
    cell = ((x + 4) / 2).floor().long().clamp(0, 3)
    assert bool((cell.sum(1) % 2 == 0).all())
    for size, cells in ((2.0, 8), (1.0, 32)):
        place = ((x + 4) / size).floor().long().clamp(0, int(8 / size) - 1)
        counts = torch.bincount(place[:, 0] * 8 + place[:, 1])
        counts = counts[counts > 0]
        p = 1 / cells
        assert len(counts) == cells
        assert float(((counts - 32_000 * p) / math.sqrt(32_000 * p * (1 - p))).abs().max()) < 5.7


def test_without_noise_the_rings_are_circles_and_the_arms_meet_the_pinwheel() -> None:
    rings = Rings((500, 1, 1), noise=0.0, factor=0.3, labels=True).train
    assert rings.y is not None
    assert torch.allclose(rings.x.norm(dim=1), torch.where(rings.y == 1, 0.3, 1.0), atol=1e-6)
    wheel = Pinwheel((500, 1, 1), radial_std=0.0, tangential_std=0.0, arms=7, labels=True).train
    assert wheel.y is not None
    angle = torch.atan2(wheel.x[:, 1], wheel.x[:, 0])
    turned = (angle - 0.25 * math.e - 2 * math.pi * wheel.y / 7) / (2 * math.pi)
    assert torch.allclose(turned, turned.round(), atol=1e-5)
    assert torch.allclose(wheel.x.norm(dim=1), torch.ones(()), atol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Moons((0, 1, 1)),
        lambda: Moons(noise=-1.0),
        lambda: Rings(factor=1.0),
        lambda: Rings(seed=-1),
        lambda: Pinwheel(arms=0),
        lambda: GaussianGrid(per_side=0),
        lambda: GaussianRing(std=float("nan")),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Dataset]) -> None:
    with pytest.raises(InvalidInput, match="bad setting|bad sizes"):
        make()
