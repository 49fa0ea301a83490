"""Laws of simulation and calibration on pairs with exact posteriors, each with the mutants that it must catch.

A law is a function of one implementation of ``calibrate(model, guide, batch, ...) -> Calibration`` or of
``draw(model, batch) -> Simulation``. Uniformity is tested by the inequality of Dvoretzky, Kiefer, Wolfowitz and
Massart, P(D > e) <= 2 exp(-2 m e^2), with a false-alarm rate of 1e-6 each; moments with 4.9 standard errors.
"""

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.diagnostics import simulated_calibration as module
from pyro_dgm.diagnostics.ranking import Ranks, values_of
from pyro_dgm.diagnostics.simulation import simulate
from pyro_dgm.diagnostics.uniformity import ScoreTest, score_test
from pyro_dgm.models import PPCA
from tests.laws.listed import as_tests

Z_LIMIT = 4.9
CALLS, UNITS = 40, 12  # p-values of independent units, 480 in all


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


def ppca(seed, latent_dim):
    """PPCA whose units are independent given x: the loadings are orthogonal."""
    torch.manual_seed(seed)
    program = PPCA(latent_dim + 2, latent_dim)
    with torch.no_grad():
        loadings, _ = torch.linalg.qr(torch.randn(latent_dim + 2, latent_dim))
        program.loadings.copy_(loadings * torch.linspace(0.5, 2.0, latent_dim))
        program.mean.normal_()
    return program


def wrong(program, shift, scale):
    """Guide that is the exact posterior, moved by ``shift`` of its standard deviations and stretched."""

    def guide(x):
        q = program.exact_posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(q.mean + shift * q.stddev, scale * q.stddev).to_event(1))

    return guide


def discrete_model(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(torch.full((UNITS,), 0.3)).to_event(1))
        pyro.sample("x", dist.Normal(1.5 * k, 1.0).to_event(1), obs=x)


def discrete_posterior(x):
    logits = math.log(0.3 / 0.7) + 1.5 * x - 1.5**2 / 2
    with pyro.plate("data", len(x)):
        pyro.sample("k", dist.Bernoulli(logits=logits).to_event(1))


# ---- what the laws are about, and the mutants


def calibrate(model, guide, *batch, **options):
    return module.calibration(model, guide, *batch, **options)


def planted(**replacements):
    """The implementation with some of its parts replaced."""

    def mutant(model, guide, *batch, **options):
        with mock.patch.multiple(module, **replacements):
            return module.calibration(model, guide, *batch, **options)

    return mutant


def prior_draws(guide, batch, num_samples, layout, size):
    yield {"z": torch.randn(num_samples, len(batch[0]), size // len(batch[0]))}


def shared_draws(guide, batch, num_samples, layout, size):
    q = guide.__self__.exact_posterior(batch[0])
    yield {"z": q.mean + q.stddev * torch.randn(num_samples, 1, q.mean.shape[-1])}


class Swapped(Ranks):
    """A draw from the guide ranked among draws from the prior."""

    def add(self, draws):
        self.truth = self.units.rows(draws)[0]
        super().add({name: torch.randn_like(value) for name, value in draws.items()})


class UnbrokenTies(Ranks):
    def result(self):
        self.equal.zero_()
        return super().result()


class HalfTies(Ranks):
    def result(self):
        self.below += (self.equal / 2).floor()
        self.equal.zero_()
        return super().result()


def without_one(ranks, num_samples):
    return score_test(np.minimum(ranks, num_samples - 1), num_samples - 1)


def only(part):
    def test(ranks, num_samples):
        found = score_test(ranks, num_samples)
        z = torch.from_numpy(-abs(getattr(found, part)))
        p_values = 2 * torch.special.ndtr(z).numpy()
        zero = {name: 0 * found.mean for name in ("mean", "dispersion") if name != part}
        return ScoreTest(**{part: getattr(found, part), **zero, "p_values": p_values})

    return test


OTHER_DATUM = planted(
    values_of=lambda sites: {name: value.roll(1, 0) for name, value in values_of(sites).items()}
)
WITHOUT_ONE = planted(score_test=without_one)
SHARED = planted(guide_draws=shared_draws)
PRIOR = planted(guide_draws=prior_draws)
SWAPPED = planted(Ranks=Swapped)
NO_DISPERSION = planted(score_test=only("mean"))
NO_MEAN = planted(score_test=only("dispersion"))


def kept_data(model, batch):
    found = simulate(model, batch)
    return replace(found, batch=batch)


def other_latents(model, batch):
    return replace(simulate(model, batch), latents=simulate(model, batch).latents)


def without_noise(model, batch):
    found = simulate(model, batch)
    return replace(found, batch=(found.observed["x"]["fn"].base_dist.mean,))


# ---- the laws


def largest_distance(p_values):
    """Kolmogorov's distance to the uniform distribution, and what it exceeds with a probability of at most 1e-6."""
    ordered, num = np.sort(p_values), len(p_values)
    steps = np.arange(num + 1) / num
    distance = max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max())
    return distance, math.sqrt(math.log(2 / 1e-6) / (2 * num))


def p_values_of(calibrate, model, guide, x):
    found, outside = [], 0
    for seed in range(CALLS):
        torch.manual_seed(1000 + seed)
        result = calibrate(model, guide, x, num_replications=200, num_samples=10, confidence=0.95)
        found.append(result.p_values)
        outside += result.outside_envelope.sum()
    return np.concatenate(found), outside


def law_exact_posterior_has_uniform_p_values(calibrate):
    """480 p-values of the exact posterior, 200 replications each, are uniform, and 5 % of the units or fewer leave
    the envelope, within 4.9 standard errors."""
    program = ppca(0, UNITS)
    p_values, outside = p_values_of(calibrate, program.model, program.guide, torch.zeros(100, UNITS + 2))
    distance, limit = largest_distance(p_values)
    assert distance < limit
    assert outside / len(p_values) < 0.05 + Z_LIMIT * math.sqrt(0.05 * 0.95 / len(p_values))


def law_exact_discrete_posterior_has_uniform_p_values(calibrate):
    """The same for latents that are zero or one."""
    p_values, outside = p_values_of(calibrate, discrete_model, discrete_posterior, torch.zeros(100, UNITS))
    distance, limit = largest_distance(p_values)
    assert distance < limit
    assert outside / len(p_values) < 0.05 + Z_LIMIT * math.sqrt(0.05 * 0.95 / len(p_values))


def law_wrong_scale_is_caught(calibrate):
    """A guide 20 % too narrow or too wide has p < 1e-6 at 1,000 replications of one unit, and is called what it is."""
    for scale, direction in ((0.8, "too narrow"), (1.2, "too wide")):
        program = ppca(1, 1)
        found = calibrate(program.model, wrong(program, 0.0, scale), torch.zeros(1000, 3))
        assert found.p_value < 1e-6
        assert found.directions == (direction,)
        assert found.outside_envelope.all()


def law_bias_is_caught(calibrate):
    """A guide 0.3 standard deviations off has p < 1e-6 at 1,000 replications of one unit, and is called what it is."""
    for shift, direction in ((0.3, "biased high"), (-0.3, "biased low")):
        program = ppca(2, 1)
        found = calibrate(program.model, wrong(program, shift, 1.0), torch.zeros(1000, 3))
        assert found.p_value < 1e-6
        assert found.directions == (direction,)
        assert found.outside_envelope.all()


def law_simulations_have_the_moments_of_the_model(draw):
    """Means and second moments of (x, z) are those of PPCA, each within 4.9 standard errors of 20,000 draws."""
    program = ppca(3, 2)
    found = draw(program.model, (torch.full((20_000, 4), 7.0),))
    z = found.latents["z"]["value"]
    with torch.no_grad():
        joint = torch.cat([found.batch[0] - program.mean, z], dim=1)  # (draws, D + L)
        covariance = torch.eye(6)
        covariance[:4, :4] = program.marginal().covariance_matrix
        covariance[:4, 4:], covariance[4:, :4] = program.loadings, program.loadings.T
    products = joint[:, :, None] * joint[:, None, :]
    for values, truth in ((joint, torch.zeros(6)), (products, covariance)):
        error = (values.mean(0) - truth).abs()
        assert (error < Z_LIMIT * values.std(0) / math.sqrt(len(values))).all()


LAWS = [
    (
        law_exact_posterior_has_uniform_p_values,
        {"calibrate": calibrate},
        {"another datum": OTHER_DATUM, "S for S + 1": WITHOUT_ONE, "shared draws": SHARED},
    ),
    (
        law_exact_discrete_posterior_has_uniform_p_values,
        {"calibrate": calibrate},
        {"unbroken ties": planted(Ranks=UnbrokenTies), "half of the ties": planted(Ranks=HalfTies)},
    ),
    (
        law_wrong_scale_is_caught,
        {"calibrate": calibrate},
        {"no dispersion": NO_DISPERSION, "against the prior": PRIOR, "swapped": SWAPPED},
    ),
    (
        law_bias_is_caught,
        {"calibrate": calibrate},
        {"no mean": NO_MEAN, "against the prior": PRIOR, "swapped": SWAPPED},
    ),
    (
        law_simulations_have_the_moments_of_the_model,
        {"simulate": simulate},
        {"data kept": kept_data, "latents of another draw": other_latents, "no noise": without_noise},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
