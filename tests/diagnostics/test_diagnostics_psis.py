"""k-hat and effective sample size: closed forms, and the cases in which there is nothing to fit."""

import math

import numpy as np
import pytest

from pyro_dgm.diagnostics.psis import effective_sample_size, import_arviz, k_hat_threshold, pareto_k


def test_it_is_arviz_where_a_tail_can_be_fitted():
    log_weights = np.random.default_rng(0).standard_normal((500, 3, 2))
    _, expected = import_arviz().psislw(np.moveaxis(log_weights, 0, -1))
    np.testing.assert_array_equal(pareto_k(log_weights), expected)


@pytest.mark.parametrize("k", [0.1, 0.5, 0.9])
def test_pareto_weights_have_their_own_k(k):
    """Mean of 40 k-hats of 20,000 draws within 0.05: standard error (1 + k) / sqrt(40 * 425) < 0.015, bias < 0.01."""
    log_weights = k * np.random.default_rng(1).exponential(size=(20_000, 40))
    assert abs(pareto_k(log_weights).mean() - k) < 0.05


NOTHING_TO_FIT = {
    "20 draws": (np.random.default_rng(2).standard_normal(20), math.nan),
    "one draw": (np.zeros(1), math.nan),
    "equal": (np.full(200, -1234.5), -math.inf),
    "equal but for rounding": (-90 + 1e-5 * np.random.default_rng(3).standard_normal(200), -math.inf),
    "the largest shared by half": (np.where(np.arange(200) % 2, -1.0, 3.0), -math.inf),
    "the largest a rarity": (np.where(np.arange(200) == 7, 9.0, 0.0), math.nan),
    "a NaN": (np.where(np.arange(200) == 7, math.nan, 0.0), math.nan),
    "infinite": (np.where(np.arange(200) == 7, math.inf, 0.0), math.nan),
    "no weight at all": (np.full(200, -math.inf), math.nan),
}


@pytest.mark.parametrize("name", NOTHING_TO_FIT)
def test_where_there_is_nothing_to_fit(name):
    """Beside a good column, which keeps its own k-hat."""
    log_weights, expected = NOTHING_TO_FIT[name]
    good = np.random.default_rng(4).standard_normal(len(log_weights))
    both = pareto_k(np.column_stack([log_weights, good]))
    np.testing.assert_array_equal(both[0], expected)
    np.testing.assert_array_equal(both[1], pareto_k(good))
    assert math.isfinite(both[1]) or len(good) <= 20


def test_draws_that_a_model_rules_out_do_no_harm():
    log_weights = np.random.default_rng(5).standard_normal(1000)
    log_weights[:300] = -math.inf
    assert abs(pareto_k(log_weights)) < 1


@pytest.mark.parametrize("shift", [0.0, -1e4, 1e4])
def test_effective_sample_size(shift):
    log_weights = shift + np.log([[1.0, 1.0, 1e-300], [1.0, 3.0, 1.0], [1.0, 2.0, 1e-300]])
    np.testing.assert_allclose(effective_sample_size(log_weights), [3.0, 36 / 14, 1.0])
    assert math.isnan(effective_sample_size(np.array([math.nan, 0.0])))
    assert math.isnan(effective_sample_size(np.full(3, -math.inf)))


def test_threshold():
    """Vehtari et al. (2024): 0.7 from 2200 draws on."""
    assert k_hat_threshold(100) == 0.5
    assert k_hat_threshold(2100) < 0.7 == k_hat_threshold(2200)
    assert k_hat_threshold(1) < 0
