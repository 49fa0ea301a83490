"""Laws of the sliced Wasserstein distance in float64, each with the mutants that it must catch.

A law is a function of one implementation ``sliced_wasserstein(left, right)``, each (draws, batch, dimensions);
``LAWS`` lists each law with its planted mutants. Statistical laws compare with 4.9 standard errors, a
false-alarm rate of 1e-6 for each number.
"""

import math

import numpy as np
import pytest
import torch

from pyro_dgm.diagnostics.sliced import sliced_wasserstein
from tests.diagnostics import test_diagnostics_nuts as stated
from tests.laws.listed import as_tests

Z_LIMIT = 4.9
DIRECTIONS = 100


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


def by_hand(
    left,
    right,
    *,
    unit=True,
    ordered=True,
    order_dim=0,
    power=1,
    reduce="mean",
    over="mean",
    absolute=True,
    axes=False,
    together=False,
):
    """The same distance written plainly, so that a mutant differs from the truth in one place."""
    size = left.shape[-1]
    directions = torch.randn(size, DIRECTIONS if size > 1 else 1)
    if axes:
        directions = torch.eye(size)
    if unit:
        directions = directions / directions.norm(dim=0)
    a, b = left @ directions, right @ directions  # (draws, batch, directions)
    if ordered:
        a, b = (values.sort(dim=order_dim)[0] for values in (a, b))
    apart = (a - b).abs() if absolute else a - b
    found = getattr(getattr(apart**power, reduce)(0) ** (1 / power), over)(-1)
    return found.mean().expand_as(found) if together else found


def mutant(**change):
    return lambda left, right: by_hand(left, right, **change)


# ---- the laws


def law_of_one_dimension_it_is_that_of_ordered_draws(sliced_wasserstein):
    """Mean distance of ordered draws, to 1e-12, for draws in any order."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        left, right = rng.standard_normal((50, 3, 1)), rng.normal(0.3, 2.0, (50, 3, 1))
        found = sliced_wasserstein(torch.from_numpy(left), torch.from_numpy(right)).numpy()
        exact = np.abs(np.sort(left, axis=0) - np.sort(right, axis=0)).mean((0, 2))
        np.testing.assert_allclose(found, exact, rtol=1e-12)


def law_the_order_of_draws_does_not_matter(sliced_wasserstein):
    """Draws and the same draws in another order are no distance apart, to 1e-12."""
    torch.manual_seed(0)
    left = torch.randn(200, 3, 4)
    assert sliced_wasserstein(left, left[torch.randperm(200)]).abs().max() < 1e-12


def law_a_stretch_is_seen_as_the_mean_length(sliced_wasserstein):
    """a against c a, normal in any dimension: |c - 1| E|u' a| = |c - 1| sqrt(2 / pi), within 4.9 standard errors.

    |u' a| has variance 1 - 2 / pi over the draws, and the mean over directions at most the error of one.
    """
    for seed, size in enumerate((1, 2, 5)):
        torch.manual_seed(seed)
        left, factor = torch.randn(4000, 2, size), torch.rand(()) + 1.5
        found = sliced_wasserstein(left, factor * left) / (factor - 1)
        error = math.sqrt((1 - 2 / math.pi) / len(left))
        assert (found - math.sqrt(2 / math.pi)).abs().max() < Z_LIMIT * error


def law_a_shift_of_one_datum_is_seen_there(sliced_wasserstein):
    """A shift by d in D dimensions is E|u_1| d at the datum that was shifted, and nothing at the others.

    Within 4.9 standard errors of the directions, for which Var u_1 = 1 / D.
    """
    for seed, size in enumerate((2, 3, 6)):
        torch.manual_seed(seed)
        left = torch.randn(500, 3, size)
        right = left.clone()
        right[:, 1, size // 2] += 4.0
        found = sliced_wasserstein(left, right)
        expected = math.gamma(size / 2) / (math.gamma((size + 1) / 2) * math.sqrt(math.pi))
        error = math.sqrt((1 / size - expected**2) / DIRECTIONS)
        assert abs(found[1] / 4 - expected) < Z_LIMIT * error
        assert found[0].abs() < 1e-12 and found[2].abs() < 1e-12


def shifted_normals(sliced_wasserstein):
    """The law that stands among the tests of the diagnostic."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stated, "sliced_wasserstein", sliced_wasserstein)
        stated.test_sliced_wasserstein_of_shifted_normals()


NOT_UNIT = mutant(unit=False)
NOT_ORDERED = mutant(ordered=False)
ACROSS_DATA = mutant(order_dim=1)
SECOND_POWER = mutant(power=2)
SUM = mutant(reduce="sum")
LARGEST = mutant(over="amax")
WITH_SIGN = mutant(absolute=False)
AXES = mutant(axes=True)
TOGETHER = mutant(together=True)
TRUE = {"sliced_wasserstein": sliced_wasserstein, "by hand": by_hand}
LAWS = [
    (
        law_of_one_dimension_it_is_that_of_ordered_draws,
        TRUE,
        {
            "not a unit vector": NOT_UNIT,
            "not ordered": NOT_ORDERED,
            "ordered across data": ACROSS_DATA,
            "second power": SECOND_POWER,
            "sum for mean": SUM,
            "with its sign": WITH_SIGN,
            "one for all data": TOGETHER,
        },
    ),
    (
        law_the_order_of_draws_does_not_matter,
        TRUE,
        {"not ordered": NOT_ORDERED, "ordered across data": ACROSS_DATA},
    ),
    (
        law_a_stretch_is_seen_as_the_mean_length,
        TRUE,
        {"not a unit vector": NOT_UNIT, "second power": SECOND_POWER, "sum for mean": SUM},
    ),
    (
        law_a_shift_of_one_datum_is_seen_there,
        TRUE,
        {
            "not a unit vector": NOT_UNIT,
            "largest direction": LARGEST,
            "axes alone": AXES,
            "with its sign": WITH_SIGN,
            "one for all data": TOGETHER,
        },
    ),
    (
        shifted_normals,
        TRUE,
        {"not a unit vector": NOT_UNIT, "largest direction": LARGEST, "axes alone": AXES},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
