"""Laws of importance weights on Gaussian pairs in float64, each with the mutants that it must catch.

A law is a function without arguments of what stands in ``importance_weights`` while it runs; a mutant is that module
with a part replaced. ``LAWS`` lists each law with its mutants. Laws that stand among the tests of the diagnostic come
from there, and only their mutants are planted here. Statistical laws compare with 4.9 standard errors, a false-alarm
rate of 1e-6 for each number.
"""

import math
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch

from pyro_dgm.diagnostics import importance_weights as module
from pyro_dgm.diagnostics.draw_table import Variable
from tests.diagnostics import test_diagnostics_importance as stated
from tests.laws.listed import as_tests_in_place

Z_LIMIT = 4.9
DRAWS = 4000


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


def gaussians(rng, draws, mean, scale, log_z):
    """z from N(mean, scale^2), and its log-weights against exp(log_z) N(0, 1)."""
    noise = rng.standard_normal((draws, *mean.shape))
    z = mean + scale * noise
    return z, log_z - 0.5 * z**2 + 0.5 * noise**2 + np.log(scale)


# ---- the mutants


def planted(**replacements):
    """The module with some of its parts replaced, as a context."""
    return partial(mock.patch.multiple, module, **replacements)


def smoothed(**parts):
    """Smoothing with fields computed otherwise, from the log-weights."""
    true = module.smooth

    def smooth(values):
        return replace(true(values), **{name: change(true, values) for name, change in parts.items()})

    return planted(smooth=smooth)


def elbo_of_weighted_draws(true=module.of_draws):
    def of_draws(log_weight, latents):
        weights = np.exp(module.smooth(log_weight.values).log_weights)
        return replace(true(log_weight, latents), elbo=(weights * log_weight.values).sum(0))

    return planted(of_draws=of_draws)


def changes(*, divided=True, absolute=True, ways="both", around="weighted", power=1, over="max"):
    """Shift and stretch written plainly, with a change in one place."""

    def mutant(draws, weights):
        weights = weights[..., None]
        center, deviation = draws.mean(0), draws.std(0)
        mean = (weights * draws).sum(0)
        spread = (weights * (draws - (mean if around == "weighted" else center)) ** 2).sum(0) ** 0.5
        shift = (mean - center) / (deviation**power if divided else 1)
        wider, narrower = spread / deviation, deviation / spread
        stretch = {"both": np.maximum(wider, narrower), "wider": wider, "narrower": narrower}[ways]
        shift = np.abs(shift) if absolute else shift
        return getattr(shift, over)(axis=-1), getattr(stretch, over)(axis=-1)

    return planted(_changes=mutant)


def by_first_dimension(log_weight, latents, true=module.of_draws):
    """The datum is taken to be the first dimension after that of the draws, whatever its name."""
    named = {name: Variable(one.values, ("data", *one.dims[1:])) for name, one in latents.items() if one.dims}
    return true(log_weight, {name: one for name, one in named.items() if one.values.ndim > 1})


RECIPROCAL = smoothed(log_weights=lambda smooth, values: smooth(-values).log_weights)
SQUARED = smoothed(log_weights=lambda smooth, values: smooth(2 * values).log_weights)
EQUAL = smoothed(log_weights=lambda smooth, values: np.full(values.shape, -math.log(len(values))))
SUM_FOR_MEAN = smoothed(log_mean=lambda smooth, values: smooth(values).log_mean + math.log(len(values)))
MEAN_OF_LOGS = smoothed(log_mean=lambda smooth, values: values.mean(0))
NOT_ROOTED = smoothed(
    log_mean_standard_error=lambda smooth, values: smooth(values).log_mean_standard_error ** 2
)
OF_ONE_DRAW = smoothed(
    log_mean_standard_error=lambda smooth, values: smooth(values).log_mean_standard_error * len(values) ** 0.5
)
SIGN_OF_K = smoothed(k_hat=lambda smooth, values: -smooth(values).k_hat)
K_OF_RECIPROCALS = smoothed(k_hat=lambda smooth, values: smooth(-values).k_hat)
UNNORMALISED = planted(effective_sample_size=lambda values: 1 / np.exp(2 * values).sum(0))
NOT_SQUARED = planted(effective_sample_size=lambda values: np.exp(values - values.max(0)).sum(0))
FORMULAS = {
    "reciprocal weights": RECIPROCAL,
    "squared weights": SQUARED,
    "equal weights": EQUAL,
    "sum for mean": SUM_FOR_MEAN,
    "mean of logarithms": MEAN_OF_LOGS,
    "standard error not rooted": NOT_ROOTED,
    "standard error of one draw": OF_ONE_DRAW,
    "weighted ELBO": elbo_of_weighted_draws(),
    "ESS of unnormalised weights": UNNORMALISED,
    "ESS not squared": NOT_SQUARED,
    "shift not divided": changes(divided=False),
    "shift by the variance": changes(power=2),
    "shift with its sign": changes(absolute=False),
    "stretch only if wider": changes(ways="wider"),
    "stretch only if narrower": changes(ways="narrower"),
    "stretch around the guide": changes(around="guide"),
}


# ---- the laws


def law_few_draws_have_plain_sums():
    """20 draws, too few to smooth, at random parameters: every number is its plain sum over the weights, to 1e-10.

    One latent lies in a plate outside that of the data, one in none.
    """
    for seed in range(4):
        rng = np.random.default_rng(seed)
        parameters = rng.normal(0, 1.5, 30), rng.uniform(0.4, 2.0, 30), rng.normal(0, 5, 30)
        z, log_weight = gaussians(rng, 20, *parameters)
        other = rng.standard_normal((20, 30, 3)) + z[..., None]
        found = module.of_draws(
            Variable(log_weight, ("data",)),
            {
                "z": Variable(z, ("data",)),
                "other": Variable(other.swapaxes(1, 2), ("groups", "data")),
                "all": Variable(1e3 * rng.standard_normal(20), ()),
            },
        )
        weights = np.exp(log_weight)
        units = np.concatenate([z[..., None], other], axis=-1)
        mean, scale = units.mean(0), units.std(0)
        moments = [(weights[..., None] * units**power).sum(0) / weights.sum(0)[:, None] for power in (1, 2)]
        ratio = np.log((moments[1] - moments[0] ** 2) ** 0.5 / scale)
        np.testing.assert_allclose(found.log_p, np.log(weights.mean(0)), rtol=1e-10)
        error = weights.std(0) / weights.mean(0) / 20**0.5
        np.testing.assert_allclose(found.log_p_standard_error, error, rtol=1e-10)
        np.testing.assert_allclose(found.ess, 20 / (1 + 20 * error**2), rtol=1e-10)
        np.testing.assert_allclose(found.elbo, log_weight.mean(0), rtol=1e-10)
        np.testing.assert_allclose(found.shift, np.abs((moments[0] - mean) / scale).max(-1), rtol=1e-10)
        np.testing.assert_allclose(found.stretch, np.exp(np.abs(ratio).max(-1)), rtol=1e-9)
        assert np.isnan(found.k_hat).all()


def law_many_draws_have_the_closed_forms():
    """Smoothed weights of N(m, s^2) against e^c N(0, 1) at random parameters: means of log p, ELBO, ESS,
    shift and stretch over 200 data are c, c - KL, S / E[w^2], |m| / s and s or 1 / s, within 4.9 standard errors.

    So is the spread of log p in its own standard errors. Ratios have a bias of the order of 1 / S.
    """
    for seed in range(2):
        rng = np.random.default_rng(seed)
        scale = (0.95, 1.3)[seed] + rng.uniform(-0.01, 0.01)  # far narrower, and the ESS is no longer normal
        mean, log_z = (1, -1)[seed] * rng.uniform(0.2, 0.4), rng.normal(0, 5)
        z, log_weight = gaussians(rng, DRAWS, np.full(200, mean), scale, log_z)
        found = module.of_draws(Variable(log_weight, ("data",)), {"z": Variable(z, ("data",))})
        past = 2 * scale**2 - 1
        truths = {
            "log_p": log_z,
            "elbo": log_z - 0.5 * (scale**2 + mean**2 - 1) + math.log(scale),
            "ess": DRAWS * past**0.5 / scale**2 * math.exp(-(mean**2) / past),
            "shift": abs(mean) / scale,
            "stretch": max(scale, 1 / scale),
        }
        for name, truth in truths.items():
            values = getattr(found, name)
            error = Z_LIMIT * values.std() / 200**0.5 + 5 * (truth if name == "ess" else 1) / DRAWS
            assert abs(values.mean() - truth) < error, name
        spread = ((found.log_p - log_z) / found.log_p_standard_error).std()
        assert abs(spread - 1) < Z_LIMIT / 400**0.5 + 0.02


def law_a_wide_guide_is_reliable_and_not_usable_as_is():
    """1.5 times as wide: weights are bounded, and they change the standard deviation by a third."""
    rng = np.random.default_rng(0)
    z, log_weight = gaussians(rng, DRAWS, np.zeros(50), 1.5, 0.0)
    found = module.of_draws(Variable(log_weight, ("data",)), {"z": Variable(z, ("data",))})
    assert found.reweighted_reliable.all()
    assert (found.shift < 0.2).all()
    assert not found.usable_as_is.any()


def narrow():
    stated.test_k_hat_of_too_narrow_a_guide(0.5)


LAWS = [
    (
        law_few_draws_have_plain_sums,
        FORMULAS
        | {
            "mean over the latents": changes(over="mean"),
            "the first dimension for the data": planted(of_draws=by_first_dimension),
        },
    ),
    (law_many_draws_have_the_closed_forms, FORMULAS),
    (
        law_a_wide_guide_is_reliable_and_not_usable_as_is,
        {
            "any stretch": planted(_LARGEST_STRETCH=math.inf),
            "stretch only if wider": changes(ways="wider"),
            "nothing is reliable": planted(k_hat_threshold=lambda number: -math.inf),
        },
    ),
]
STATED = [
    (narrow, {"k-hat with the other sign": SIGN_OF_K, "k-hat of the reciprocals": K_OF_RECIPROCALS}),
    (
        stated.test_half_a_deviation_off_is_repaired_by_weights_and_not_usable_as_is,
        {"any shift": planted(_LARGEST_SHIFT=math.inf), "squared weights": SQUARED},
    ),
    (
        stated.test_too_narrow_is_neither,
        {"any k-hat": planted(k_hat_threshold=lambda number: math.inf)},
    ),
    (stated.test_the_worst_latent_decides, {"mean over the latents": changes(over="mean")}),
    (
        stated.test_log_p_and_its_standard_error,
        {"sum for mean": SUM_FOR_MEAN, "mean of logarithms": MEAN_OF_LOGS, "not rooted": NOT_ROOTED},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests_in_place(LAWS, STATED)
