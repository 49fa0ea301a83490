"""Pareto smoothed importance sampling: how far the weights of a few draws can be trusted."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

# Weights that agree to a tenth of a percent count as equal: below that lies the rounding of single precision.
_EQUAL = 1e-3
_FEWEST_DRAWS = 21  # arviz takes the largest fifth for the tail, and fits no tail of fewer than five


def import_arviz() -> Any:
    """arviz, imported when it is first needed (it takes seconds), without its daily notice that arviz 1 will differ."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing", FutureWarning)
        import arviz
    return arviz


@dataclass(frozen=True)
class Smoothed:
    """Pareto smoothed importance weights.

    Args:
        log_weights: (draws, ...), the logarithms of weights that sum to one over the draws.
        k_hat: (...), see :func:`smooth`.
        log_mean: (...) in nats, the logarithm of the mean of the smoothed weights: an estimate of log p(x).
        log_mean_standard_error: (...), its Monte Carlo standard error, to first order; means little where k-hat is
            above the threshold.
    """

    log_weights: np.ndarray
    k_hat: np.ndarray
    log_mean: np.ndarray
    log_mean_standard_error: np.ndarray


def smooth(log_weights: np.ndarray) -> Smoothed:
    r"""Pareto smoothed weights and the shape k of their tail, by arviz's ``psislw``.

    A generalized Pareto distribution is fitted to the largest weights, which its quantiles then replace. The weights
    have about 1/k finite moments: k < 0 says that they are bounded, k > 0.5 that their variance is infinite, k > 1
    their mean. Two cases are settled before the fit, whose answer to them is infinity or noise; the weights then stay
    as they are:

    - fewer than 21 draws, weights that are NaN or all zero, or fewer than 5 draws above the cut where the tail
      begins (a discrete latent): k-hat is NaN, not estimated;
    - the whole tail is one value, to a tenth of a percent (the exact posterior, no latents): minus infinity.

    Args:
        log_weights: (draws, ...) in nats, of independent draws.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> log_w = -0.5 * rng.standard_normal((1000, 3)) ** 2
        >>> smoothed = smooth(log_w)
        >>> bool(np.allclose(np.exp(smoothed.log_weights).sum(0), 1)), smoothed.k_hat.shape
        (True, (3,))

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024.
    """
    num_draws, shape = len(log_weights), log_weights.shape[1:]
    rows = log_weights.reshape(num_draws, -1).T.astype(np.float64)  # (data, draws)
    k_hat = np.full(len(rows), math.nan)
    largest = rows.max(axis=1, initial=-math.inf)
    usable = np.isfinite(largest)  # NaN and +inf spread to the maximum
    with np.errstate(all="ignore"):  # weights of zero are -inf here
        if num_draws >= _FEWEST_DRAWS and usable.any():
            found, fitted = import_arviz().psislw(rows[usable], normalize=False)
            k_hat[usable] = np.where(np.isposinf(fitted), math.nan, fitted)
            tail = math.ceil(min(num_draws / 5, 3 * math.sqrt(num_draws))) + 1  # with the cut itself
            cut = np.partition(rows, num_draws - tail, axis=1)[:, num_draws - tail]
            k_hat[cut > largest - _EQUAL] = -math.inf
            fits = np.isfinite(k_hat)
            rows[fits] = found[fits[usable]]
        total = _logsumexp(rows)
        rows = rows - total[:, None]
        variance = np.exp(_logsumexp(2 * rows)) - 1 / num_draws
    return Smoothed(
        rows.T.reshape(log_weights.shape),
        k_hat.reshape(shape),
        (total - math.log(num_draws)).reshape(shape),
        np.sqrt(np.maximum(variance, 0)).reshape(shape),
    )


def _logsumexp(rows: np.ndarray) -> np.ndarray:
    largest = rows.max(axis=1)
    return np.asarray(largest + np.log(np.exp(rows - largest[:, None]).sum(axis=1)))


def pareto_k(log_weights: np.ndarray) -> np.ndarray:
    r"""Shape k of a generalized Pareto distribution fitted to the largest weights; see :func:`smooth`.

    Args:
        log_weights: (draws, ...) in nats, of independent draws.

    Returns:
        Array (...) of k-hats.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> log_pareto = rng.exponential(size=(20_000, 2)) * [0.2, 0.9]  # k = 0.2, 0.9
        >>> bool(np.abs(pareto_k(log_pareto) - [0.2, 0.9]).max() < 0.15)
        True

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024.
    """
    return smooth(log_weights).k_hat


def effective_sample_size(log_weights: np.ndarray) -> np.ndarray:
    r"""Kish's effective sample size :math:`(\sum_s w_s)^2 / \sum_s w_s^2` of the raw weights.

    Args:
        log_weights: (draws, ...) in nats.

    Returns:
        Array (...) from 1 to the number of draws; NaN where the weights are NaN or all zero.

    Example:
        >>> effective_sample_size(np.log([[1.0, 1.0], [1.0, 3.0]])).round(3).tolist()
        [2.0, 1.6]

    Reference:
        Kong, Liu and Wong, "Sequential imputations and Bayesian missing data problems", 1994.
    """
    log_weights = log_weights.astype(np.float64)
    with np.errstate(invalid="ignore"):
        weights = np.exp(log_weights - log_weights.max(axis=0))
        return weights.sum(axis=0) ** 2 / (weights**2).sum(axis=0)


def k_hat_threshold(num_draws: int) -> float:
    r"""Largest k-hat that so many draws can stand, :math:`\min(1 - 1 / \log_{10} S, 0.7)`.

    Args:
        num_draws: number S of draws.

    Example:
        >>> [round(k_hat_threshold(number), 3) for number in (100, 200, 1000, 10_000)]
        [0.5, 0.565, 0.667, 0.7]

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024.
    """
    return min(1 - 1 / math.log10(max(num_draws, 2)), 0.7)
