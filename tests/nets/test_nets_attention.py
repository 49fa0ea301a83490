"""Laws of selective attention in float64, each with the mutants that it must catch, and of reading and writing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets import AttentiveRead, AttentiveWrite, FullRead, FullWrite, GaussianFilterbank
from pyro_dgm.nets.filterbank import Filters

Bank = Callable[[tuple[int, int], int], Callable[[Tensor], Filters]]


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


# ---- implementations: the true one and its mutants


def true(image_size: tuple[int, int], size: int) -> Callable[[Tensor], Filters]:
    return GaussianFilterbank(image_size, size).double()


def of_numbers(change: Callable[[Tensor], Tensor]) -> Bank:
    return lambda image_size, size: lambda numbers: true(image_size, size)(change(numbers))


def of_filters(change: Callable[[Filters], Filters]) -> Bank:
    return lambda image_size, size: lambda numbers: change(true(image_size, size)(numbers))


def unnormalised(image_size: tuple[int, int], size: int) -> Callable[[Tensor], Filters]:
    """Gaussian weights with peak one, and their sums left as they are."""

    def weigh(numbers: Tensor) -> Filters:
        filters = true(image_size, size)(numbers)
        return Filters(filters.y / filters.y.amax(-1, True), filters.x / filters.x.amax(-1, True), filters[2])

    return weigh


def divided(image_size: tuple[int, int], size: int) -> Callable[[Tensor], Filters]:
    """The formula as it is printed: exp, then a division by the sum, and nothing cut."""

    def weigh(numbers: Tensor) -> Filters:
        g_x, g_y, log_variance, log_stride, log_intensity = numbers.unbind(-1)
        stride = (max(image_size) - 1) / (size - 1) * log_stride.exp()
        offsets = (torch.arange(size) - (size - 1) / 2) * stride[..., None]
        sides = []
        for length, g in zip(image_size, (g_y, g_x), strict=True):
            means = (length + 1) / 2 * (g + 1)[..., None] + offsets
            distances = torch.arange(1, length + 1) - means[..., None]
            weights = (-(distances**2) / (2 * log_variance.exp()[..., None, None])).exp()
            sides.append(weights / weights.sum(-1, keepdim=True))
        return Filters(*sides, log_intensity.exp())

    return weigh


swapped_axes = of_filters(lambda filters: Filters(filters.x, filters.y, filters.intensity))
no_intensity = of_filters(lambda filters: filters._replace(intensity=torch.ones_like(filters.intensity)))
backwards = of_filters(lambda filters: filters._replace(x=filters.x.flip(-2)))
scale_for_variance = of_numbers(lambda numbers: numbers * torch.tensor([1, 1, 0.5, 1, 1]))
off_by_half_a_pixel = of_numbers(lambda numbers: numbers + torch.tensor([1 / 7, 1 / 7, 0, 0, 0]))


# ---- the laws


def law_rows_are_the_formula(bank: Bank) -> None:
    """Each weight is that of a loop over filters and pixels, at random numbers, also for images that are not square."""
    for (height, width), size in itertools.product([(6, 6), (7, 5)], [1, 2, 3]):
        numbers = 0.5 * random(4, 5)
        filters = bank((height, width), size)(numbers)
        for k, row in enumerate(numbers.tolist()):
            g_x, g_y = (width + 1) / 2 * (row[0] + 1), (height + 1) / 2 * (row[1] + 1)
            variance, stride, intensity = (math.exp(value) for value in row[2:])
            stride *= (max(height, width) - 1) / max(size - 1, 1)
            for found, center, length in ((filters.y[k], g_y, height), (filters.x[k], g_x, width)):
                assert found.shape == (size, length)
                for i in range(1, size + 1):
                    mu = center + (i - size / 2 - 0.5) * stride
                    weights = [math.exp(-((a - mu) ** 2) / (2 * variance)) for a in range(1, length + 1)]
                    for a, weight in enumerate(weights):
                        assert abs(found[i - 1, a].item() - weight / sum(weights)) < 1e-12
            assert abs(filters.intensity[k].item() - intensity) < 1e-12


def law_a_full_grid_of_narrow_filters_is_the_identity(bank: Bank) -> None:
    filters = bank((6, 6), 6)(torch.tensor([0, 0, -8.0, 0, 0], dtype=torch.float64))
    image = random(2, 6, 6)
    assert (filters.read(image) - image).abs().max() < 1e-12
    assert (filters.write(image) - image).abs().max() < 1e-12


def law_a_constant_image_gives_a_constant_glimpse(bank: Bank) -> None:
    numbers = random(10, 5)
    glimpse = bank((7, 5), 3)(numbers).read(torch.full((1, 7, 5), 2.5, dtype=torch.float64))
    assert (glimpse - 2.5 * numbers[:, 4].exp()[:, None, None, None]).abs().max() < 1e-12


def law_the_glimpse_moves_with_its_center(bank: Bank) -> None:
    """Moved one pixel down and two to the right, image and grid give the same glimpse, away from the borders."""
    image = torch.zeros(1, 20, 20, dtype=torch.float64)
    image[:, 7:12, 7:12] = random(5, 5)
    moved = image.roll((1, 2), (-2, -1))
    numbers = torch.tensor([0.02, -0.03, -2.0, math.log(0.1), 0.3], dtype=torch.float64)
    center = numbers + torch.tensor([2 * 2 / 21, 2 * 1 / 21, 0, 0, 0], dtype=torch.float64)
    filters = bank((20, 20), 3)
    assert (filters(numbers).read(image) - filters(center).read(moved)).abs().max() < 1e-12
    assert (filters(numbers).read(image) - filters(numbers).read(moved)).abs().max() > 0.1


def law_writing_undoes_the_intensity_of_reading(bank: Bank) -> None:
    """<read(x), w> = gamma^2 <x, write(w)>."""
    numbers, image, patch = random(4, 5), random(4, 1, 7, 5), random(4, 1, 3, 3)
    filters = bank((7, 5), 3)(numbers)
    left = (filters.read(image) * patch).sum((-3, -2, -1))
    right = (image * filters.write(patch)).sum((-3, -2, -1)) * (2 * numbers[:, 4]).exp()
    assert (left - right).abs().max() < 1e-10


def law_extreme_numbers_stay_finite(bank: Bank) -> None:
    """Glimpses, patches and gradients are finite, and rows sum to one, at all 3^5 corners up to 10^30."""
    for largest in (10.0, 1e3, 1e30):
        corners = list(itertools.product((-largest, 0.0, largest), repeat=5))
        numbers = torch.tensor(corners, dtype=torch.float64, requires_grad=True)
        filters = bank((7, 5), 3)(numbers)
        read, written = filters.read(random(1, 7, 5)), filters.write(random(1, 3, 3))
        (read.sum() + written.sum()).backward()
        assert read.isfinite().all() and written.isfinite().all() and numbers.grad.isfinite().all()
        for rows in (filters.y, filters.x):
            assert (rows.sum(-1) - 1).abs().max() < 1e-12


LAWS = [
    (
        law_rows_are_the_formula,
        [
            swapped_axes,
            unnormalised,
            backwards,
            scale_for_variance,
            off_by_half_a_pixel,
            no_intensity,
        ],
    ),
    (
        law_a_full_grid_of_narrow_filters_is_the_identity,
        [backwards, of_filters(lambda f: f._replace(y=f.y.roll(1, -1)))],
    ),
    (law_a_constant_image_gives_a_constant_glimpse, [unnormalised, no_intensity]),
    (law_the_glimpse_moves_with_its_center, [swapped_axes]),
    (law_writing_undoes_the_intensity_of_reading, [no_intensity]),
    (law_extreme_numbers_stay_finite, [divided, unnormalised]),
]


@pytest.mark.parametrize("law", [law for law, _ in LAWS])
def test_law_holds(law: Callable[[Bank], None]) -> None:
    law(true)


@pytest.mark.parametrize(("law", "mutant"), [(law, mutant) for law, mutants in LAWS for mutant in mutants])
def test_law_catches_mutant(law: Callable[[Bank], None], mutant: Bank) -> None:
    with pytest.raises(AssertionError):
        law(mutant)


def test_float32_stays_finite_at_extremes_too() -> None:
    numbers = torch.tensor(list(itertools.product((-1e30, 0.0, 1e30), repeat=5)), requires_grad=True)
    filters = GaussianFilterbank((28, 28), 5)(numbers)
    (filters.read(torch.rand(1, 28, 28)).sum() + filters.write(torch.randn(1, 5, 5)).sum()).backward()
    assert numbers.grad.isfinite().all()


def test_half_precision_numbers_aim_filters_of_full_precision() -> None:
    numbers = torch.randn(3, 5).bfloat16()
    bank = GaussianFilterbank((28, 28), 5)
    for found, expected in zip(bank(numbers), bank(numbers.float()), strict=True):
        assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_the_gradient_is_the_derivative() -> None:
    bank, image, patch = true((7, 5), 3), random(2, 1, 7, 5), random(2, 1, 3, 3)
    numbers = random(2, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda numbers: (bank(numbers).read(image), bank(numbers).write(patch)), (numbers,)
    )


# ---- the pieces that read and write


READS = [lambda: AttentiveRead((3, 7, 5), 4, 2), lambda: FullRead((3, 7, 5))]
WRITES = [lambda: AttentiveWrite((2, 3, 7, 5), 4, 2), lambda: FullWrite((2, 3, 7, 5), 4)]


@pytest.mark.parametrize("make", READS)
def test_reading_broadcasts_data_errors_and_states(make: Callable[[], torch.nn.Module]) -> None:
    read = make().double()
    x, error, h = random(6, 3, 7, 5), random(2, 6, 3, 7, 5), random(2, 6, 4)
    found = read(x, error, h)
    assert found.shape == (2, 6, read.out_features)
    for k, i in itertools.product(range(2), range(6)):
        assert (found[k, i] - read(x[i], error[k, i], h[k, i])).abs().max() < 1e-12
    assert read(x, error[0], h[0, 0]).shape == (6, read.out_features)  # the first step of a guide


@pytest.mark.parametrize("make", WRITES)
def test_writing_keeps_leading_dimensions(make: Callable[[], torch.nn.Module]) -> None:
    write, h = make().double(), random(2, 6, 4)
    found = write(h)
    assert found.shape == (2, 6, 2, 3, 7, 5)
    assert (found[1, 4] - write(h[1, 4])).abs().max() < 1e-12


def test_attention_reads_data_and_error_with_the_same_filters() -> None:
    read = AttentiveRead((1, 7, 5), 4, 2).double()
    x, error, h = random(1, 7, 5), random(1, 7, 5), random(4)
    filters = read.filterbank(read.aim(h))
    by_hand = torch.cat([filters.read(x).flatten(), filters.read(error).flatten()])
    assert torch.equal(read(x, error, h), by_hand)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AttentiveRead((64,), 4, 2), ("data_shape of AttentiveRead", "(64,)", "FullRead")),
        (lambda: AttentiveWrite((1, 64), 4, 2), ("data_shape of AttentiveWrite", "(1, 64)", "FullWrite")),
        (lambda: AttentiveRead((1, 8, 6), 4, 9), ("size of AttentiveRead: 9", "1 to 8", "FullRead")),
        (lambda: AttentiveWrite((1, 8, 6), 4, 0), ("size of AttentiveWrite: 0", "FullWrite")),
        (lambda: GaussianFilterbank((0, 6), 1), ("image_size",)),
        (lambda: GaussianFilterbank((8, 6), 9), ("size of GaussianFilterbank: 9",)),
        (lambda: GaussianFilterbank((8, 6), 3)(torch.zeros(2, 4)), ("GaussianFilterbank input", "(2, 4)")),
        (
            lambda: AttentiveRead((1, 8, 6), 4, 2)(torch.zeros(8, 6), torch.zeros(8, 6), torch.zeros(4)),
            ("AttentiveRead input", "unsqueeze(-3)"),
        ),
    ],
)
def test_refused_in_one_line(make: Callable[[], object], words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput) as caught:
        make()
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
