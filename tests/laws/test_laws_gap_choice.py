"""Laws of the choice between importance weights and annealing for log p(x), each with the mutants that it must catch.

A law is a function of ``choose(k_hat, error, annealed_error) -> estimators``, arrays by datum, of 10,000 weights: the
real choice, with weights and annealing that give these errors in place of what they would find.
"""

import math
from unittest import mock

import numpy as np
import torch

from pyro_dgm.diagnostics import gaps
from pyro_dgm.models import PPCA
from tests.laws.listed import as_tests, planted

S = 10_000
LIMIT = 0.7  # of k-hat, for so many draws


def choose(k_hat, error, annealed_error):
    k_hat, error, annealed_error = (np.asarray(values, float) for values in (k_hat, error, annealed_error))
    zeros = np.zeros(len(k_hat))
    names = ("elbo", "elbo_standard_error", "best_elbo", "best_elbo_standard_error")
    weighed = {name: zeros.copy() for name in ("log_p", *names, "amortisation_standard_error")}
    weighed |= {"k_hat": k_hat, "log_p_standard_error": error.copy()}
    weighed["estimator"] = np.full(len(k_hat), "iwae", dtype="<U5")

    def annealed(piece, chosen, **options):
        return zeros[chosen] + 1.0, annealed_error[chosen]

    program = PPCA(2, 1)
    with mock.patch.multiple(gaps, bounds=lambda *_, **__: weighed, annealed_log_p=annealed):
        found = gaps.inference_gap(program.model, program.guide, torch.zeros(len(k_hat), 2), num_particles=S)
    taken = found.estimator == "ais"
    assert np.array_equal(found.log_p, np.where(taken, 1.0, 0.0))
    assert np.array_equal(found.log_p_standard_error, np.where(taken, annealed_error, error))
    return found.estimator.tolist()


def law_weights_that_stand_are_kept(choose):
    """Where k-hat is fine, or unknown with many effective draws, a smaller error of annealing changes nothing."""
    assert choose([-math.inf, 0.3, LIMIT - 0.01, math.nan], [0.05] * 4, [1e-6] * 4) == ["iwae"] * 4


def law_errors_of_failed_weights_are_enlarged(choose):
    """Annealing is taken exactly where its error is below S^(k - 1/2) times that of the weights."""
    k_hat, error = np.array([0.75, 0.75, 0.9, 0.9, 1.3, 1.3]), 0.02
    limit = error * S ** (k_hat - 0.5)
    nearly = np.array([0.99, 1.01] * 3)
    assert choose(k_hat, np.full(6, error), limit * nearly) == ["ais", "iwae"] * 3


def law_unknown_tails_with_few_draws_are_not_trusted(choose):
    """Without a k-hat, an error that means fewer than 100 effective draws gives way to any annealing."""
    assert choose([math.nan, math.nan], [0.5, 0.05], [0.6, 0.6]) == ["ais", "iwae"]


def with_error(rule):
    return planted(choose, gaps, error_by_tail=rule)


MUTANTS = {
    "errors as they are": with_error(lambda error, k_hat, number: np.where(np.isnan(k_hat), math.inf, error)),
    "whole exponent": with_error(
        lambda error, k_hat, number: np.where(np.isnan(k_hat), math.inf, error * float(number) ** k_hat)
    ),
    "exponent 1 - k": with_error(
        lambda error, k_hat, number: np.where(np.isnan(k_hat), math.inf, error * number ** (1 - k_hat))
    ),
}
UNKNOWN_AS_KNOWN = with_error(lambda error, k_hat, number: np.where(np.isnan(k_hat), error, math.inf))
ALL_FAIL = planted(choose, gaps, failed=lambda error, k_hat, number: np.ones(len(k_hat), bool))
NONE_FAIL = planted(choose, gaps, failed=lambda error, k_hat, number: np.zeros(len(k_hat), bool))

LAWS = [
    (law_weights_that_stand_are_kept, {"choose": choose}, {"all fail": ALL_FAIL}),
    (law_errors_of_failed_weights_are_enlarged, {"choose": choose}, {**MUTANTS, "none fails": NONE_FAIL}),
    (
        law_unknown_tails_with_few_draws_are_not_trusted,
        {"choose": choose},
        {"unknown as known": UNKNOWN_AS_KNOWN, "all fail": ALL_FAIL, "none fails": NONE_FAIL},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
