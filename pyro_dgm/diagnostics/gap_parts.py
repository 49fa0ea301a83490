"""What is found of the gap between log p(x) and the ELBO, and its difference between two parts of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class InferenceGap:
    r"""The gap between log p(x) and the ELBO of a guide, and its two parts, for each datum, in nats.

    With :math:`q^*` the best member of the guide's family for one datum:

    .. math:: \log p(x) - \mathcal L[q] = \underbrace{\log p(x) - \mathcal L[q^*]}_\text{approximation}
              + \underbrace{\mathcal L[q^*] - \mathcal L[q]}_\text{amortisation}

    Arrays are (N,) in float64. Where a latent lies outside the plate of the data, N is one: the whole data set counts
    as one datum, and the amortisation gap is what the optimisation of the guide has left over.

    Args:
        log_p: estimate of log p(x), in expectation a lower bound.
        log_p_standard_error: its Monte Carlo standard error, to first order.
        elbo: bound of the guide.
        elbo_standard_error: its Monte Carlo standard error.
        best_elbo: bound of the best member that was found.
        best_elbo_standard_error: its Monte Carlo standard error.
        amortisation_standard_error: of ``best_elbo - elbo``, which have their noise in common.
        estimator: what ``log_p`` comes from: ``"iwae"``, ``"ais"``, or ``"exact"`` without latents.
        k_hat: shape of the tail of the importance weights; above 0.7 they are not to be trusted.
        num_particles: importance weights per datum.
        joint: whether the whole data set is the one datum.
    """

    log_p: np.ndarray
    log_p_standard_error: np.ndarray
    elbo: np.ndarray
    elbo_standard_error: np.ndarray
    best_elbo: np.ndarray
    best_elbo_standard_error: np.ndarray
    amortisation_standard_error: np.ndarray
    estimator: np.ndarray
    k_hat: np.ndarray
    num_particles: int
    joint: bool

    @property
    def approximation(self) -> np.ndarray:
        """What the family lacks, log p(x) - best ELBO; also what the search for the best member missed."""
        return self.log_p - self.best_elbo

    @property
    def amortisation(self) -> np.ndarray:
        """What the guide is short of the best member of its family, best ELBO - ELBO."""
        return self.best_elbo - self.elbo

    @property
    def total(self) -> np.ndarray:
        """log p(x) - ELBO, an estimate of KL(q || p(z | x))."""
        return self.log_p - self.elbo

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean and standard error of each quantity; the error is over the data, of one datum its Monte Carlo error."""
        log_p, best = self.log_p_standard_error, self.best_elbo_standard_error
        errors = {
            "log_p": log_p,
            "elbo": self.elbo_standard_error,
            "best_elbo": best,
            "approximation": np.hypot(log_p, best),
            "amortisation": self.amortisation_standard_error,
            "total": np.hypot(log_p, self.elbo_standard_error),
        }
        return {
            name: {"mean": float(values.mean()), "standard_error": _error_of_mean(values, error)}
            for name, error in errors.items()
            for values in (getattr(self, name),)
        }


def gap_difference(train: InferenceGap, test: InferenceGap) -> dict[str, dict[str, float]]:
    """What the gaps on test data are larger by than on training data: the encoder's overfitting in ``amortisation``.

    Args:
        train: gaps on data that the guide was trained on.
        test: gaps on data that it was not.

    Returns:
        Mean and standard error of each quantity, by the names of the summary, test minus train.

    Example:
        >>> import torch
        >>> from pyro_dgm.diagnostics import inference_gap
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=40).detach()
        >>> train, test = (
        ...     inference_gap(ppca.model, ppca.guide, half, num_particles=30, steps=1) for half in (x[:20], x[20:])
        ... )
        >>> difference = gap_difference(train, test)["amortisation"]
        >>> abs(difference["mean"]) < 1e-4  # an exact posterior overfits nothing
        True

    Reference:
        Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders", 2018.
    """
    left, right = train.summary(), test.summary()
    return {
        name: {
            "mean": right[name]["mean"] - left[name]["mean"],
            "standard_error": math.hypot(right[name]["standard_error"], left[name]["standard_error"]),
        }
        for name in left
    }


def _error_of_mean(values: np.ndarray, monte_carlo_error: np.ndarray) -> float:
    if len(values) == 1:
        return float(monte_carlo_error[0])
    return float(values.std(ddof=1) / math.sqrt(len(values)))
