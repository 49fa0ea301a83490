"""Whether ranks are uniform: normal scores and their tests, and the ECDF with its envelope."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch

_MOST_POINTS = 50  # where the ECDF is looked at; its envelope is a recursion over them


@dataclass(frozen=True)
class ScoreTest:
    """What :func:`score_test` returns.

    Args:
        mean: (units,), significance of the mean of the scores, a standard normal under the null; positive if ranks
            are too high.
        dispersion: (units,), the same of their variance; positive if ranks crowd at both ends.
        p_values: (units,), of the larger of the two.
    """

    mean: np.ndarray
    dispersion: np.ndarray
    p_values: np.ndarray


def normal_scores(ranks: np.ndarray, num_samples: int) -> np.ndarray:
    r"""Normal scores :math:`\Phi^{-1}((r + 1/2) / (S + 1))` of ranks r = 0..S.

    Args:
        ranks: integers of any shape.
        num_samples: number S of draws that were ranked against.

    Example:
        >>> normal_scores(np.arange(3), 2).round(3).tolist()
        [-0.967, 0.0, 0.967]
    """
    return _quantile((ranks + 0.5) / (num_samples + 1))


def score_test(ranks: np.ndarray, num_samples: int) -> ScoreTest:
    r"""Test of uniform ranks by the mean and the variance of their normal scores.

    Both are compared with what the discrete uniform distribution on 0..S gives, by the saddlepoint approximation
    (Barndorff-Nielsen's :math:`r^*`) with its exact cumulants, which holds far into the tails. The two are
    independent in large samples, so the p-value of a unit is :math:`1 - (1 - \min(p_1, p_2))^2`.

    Args:
        ranks: (replications, units), integers from 0 to S.
        num_samples: number S of draws that were ranked against.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> crowded = np.floor(100 * rng.beta([1, 0.7], [1, 0.7], size=(1000, 2))).astype(int)
        >>> good, bad = score_test(crowded, 99).p_values
        >>> bool(good > 1e-6), bool(bad < 1e-6)
        (True, True)

    Reference:
        Barndorff-Nielsen, "Approximate interval probabilities", 1990.
        Cook, Gelman and Rubin, "Validation of software for Bayesian models using posterior quantiles", 2006.
    """
    num = len(ranks)
    support = normal_scores(np.arange(num_samples + 1), num_samples)
    scores = normal_scores(ranks, num_samples)
    mean = _significance(support, scores.mean(0), num)
    # About their own mean, so that a shift alone does not count as dispersion.
    dispersion = _significance(support**2, scores.var(0, ddof=1), num - 1)
    worst = torch.from_numpy(-np.maximum(abs(mean), abs(dispersion)))
    smaller = np.minimum(2 * torch.special.log_ndtr(worst).exp().numpy(), 1.0)
    with np.errstate(divide="ignore"):
        return ScoreTest(mean, dispersion, -np.expm1(2 * np.log1p(-smaller)))


def ecdf_difference(ranks: np.ndarray, num_samples: int) -> tuple[np.ndarray, np.ndarray]:
    r"""ECDF of the ranks minus the uniform CDF.

    Args:
        ranks: (replications, units), integers from 0 to S.
        num_samples: number S of draws that were ranked against.

    Returns:
        Points (points,) in (0, 1), and the difference (points, units) there.

    Example:
        >>> points, difference = ecdf_difference(np.array([[0], [0], [1], [3]]), 3)
        >>> points.tolist(), difference[:, 0].tolist()
        ([0.25, 0.5, 0.75], [0.25, 0.25, 0.0])
    """
    cuts = _cuts(num_samples)
    ordered = np.sort(ranks, axis=0)
    below = np.stack([np.searchsorted(column, cuts, side="left") for column in ordered.T], axis=1)
    points = cuts / (num_samples + 1)
    return points, below / len(ranks) - points[:, None]


@functools.lru_cache(maxsize=16)
def ecdf_envelope(num: int, num_samples: int, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Simultaneous envelope of :func:`ecdf_difference` under uniform ranks.

    Pointwise binomial intervals of equal tails, as wide as it takes for an ECDF to lie in all of them with
    probability at least ``confidence``. That probability is exact, by a recursion from point to point.

    Args:
        num: number of replications.
        num_samples: number S of draws that were ranked against.
        confidence: probability that the difference stays inside at all points, in (0, 1).

    Returns:
        Lower and upper limits, each (points,); a difference equal to a limit is inside.

    Example:
        >>> lower, upper = ecdf_envelope(100, 99, 0.95)
        >>> bool((lower < 0).all()), round(float(upper.max()), 2)
        (True, 0.14)

    Reference:
        Säilynoja, Bürkner and Vehtari, "Graphical test for discrete uniformity and its applications in goodness-of-fit
        evaluation and multiple sample comparison", 2022.
    """
    points = _cuts(num_samples) / (num_samples + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, num + 1)))])
    counts = np.arange(num + 1)
    pmf = _binomial(counts, num, points[:, None], log_factorial)  # (points, counts)
    at_most, at_least = pmf.cumsum(1), pmf[:, ::-1].cumsum(1)[:, ::-1]

    def limits(tail: float) -> tuple[np.ndarray, np.ndarray]:
        return (at_most > tail).argmax(1), num - (at_least > tail)[:, ::-1].argmax(1)

    # The tail of each interval: Bonferroni's is small enough, that of a single point too large.
    small, large = (1 - confidence) / (2 * len(points)), (1 - confidence) / 2
    for _ in range(12):
        middle = math.sqrt(small * large)
        enough = _inside(*limits(middle), points, num, log_factorial) >= confidence
        small, large = (middle, large) if enough else (small, middle)
    lower, upper = limits(small)
    return lower / num - points, upper / num - points


def _quantile(probability: np.ndarray) -> np.ndarray:
    return torch.special.ndtri(torch.as_tensor(probability, dtype=torch.float64)).numpy()


def _cuts(num_samples: int) -> np.ndarray:
    """Numbers of ranks below the points where the ECDF is looked at."""
    number = min(num_samples + 1, _MOST_POINTS)
    return np.arange(1, number) * (num_samples + 1) // number


def _significance(support: np.ndarray, means: np.ndarray, num: int) -> np.ndarray:
    """Means of ``num`` draws from a uniform distribution on ``support``, turned into standard normals (units,)."""
    low, high = np.full(len(means), -1e4), np.full(len(means), 1e4)
    for _ in range(80):  # the tilt whose mean is the one found, by bisection
        tilt = (low + high) / 2
        below = _cumulants(support, tilt)[1] < means
        low, high = np.where(below, tilt, low), np.where(below, high, tilt)
    tilt = (low + high) / 2
    log_mgf, _, variance = _cumulants(support, tilt)
    root = np.sign(tilt) * np.sqrt(2 * num * np.maximum(tilt * means - log_mgf, 0.0))
    with np.errstate(all="ignore"):
        corrected = root + np.log(tilt * np.sqrt(num * variance) / root) / root
    # At the mean the formula is 0 / 0; its limit is there.
    centred = support - support.mean()
    skewness = (centred**3).mean() / (centred**2).mean() ** 1.5
    near = root + skewness / (6 * math.sqrt(num))
    # At the ends of the support the tilted variance is zero, and the root alone says enough.
    return np.where(abs(root) < 1e-2, near, np.where(np.isfinite(corrected), corrected, root))


def _cumulants(support: np.ndarray, tilt: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log of the moment generating function, mean and variance of tilted distributions, each (units,)."""
    exponent = tilt[:, None] * support
    largest = exponent.max(1, keepdims=True)
    weights = np.exp(exponent - largest)
    total = weights.sum(1)
    mean = weights @ support / total
    variance = (weights * (support - mean[:, None]) ** 2).sum(1) / total
    return largest[:, 0] + np.log(total / len(support)), mean, variance


def _binomial(
    count: np.ndarray, num: np.ndarray | int, probability: np.ndarray | float, log_factorial: np.ndarray
) -> np.ndarray:
    """Probability of ``count`` successes in ``num`` trials; zero outside 0..num."""
    possible = (count >= 0) & (count <= num)
    count = np.where(possible, count, 0)
    log_p = log_factorial[num] - log_factorial[count] - log_factorial[num - count]
    log_p = log_p + count * np.log(probability) + (num - count) * np.log1p(-probability)
    return np.where(possible, np.exp(log_p), 0.0)


def _inside(
    lower: np.ndarray, upper: np.ndarray, points: np.ndarray, num: int, log_factorial: np.ndarray
) -> float:
    """Probability that the counts below all points lie within the limits."""
    counts, probabilities, before = np.zeros(1, dtype=int), np.ones(1), 0.0
    for low, high, point in zip(lower, upper, points, strict=True):
        reached = np.arange(low, high + 1)
        step = _binomial(
            reached - counts[:, None], num - counts[:, None], (point - before) / (1 - before), log_factorial
        )
        counts, probabilities, before = reached, probabilities @ step, point
    return float(probabilities.sum())
