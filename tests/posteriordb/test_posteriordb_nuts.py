"""Pyro's NUTS through ``to_inferencedata`` against the reference draws of posteriordb.

Quick: one posterior. Slow: all eight. Chains long enough that 4.9 standard errors are less than what is allowed.
"""

import numpy as np
import pyro
import pytest
import torch

from pyro_dgm.diagnostics import to_inferencedata
from pyro_dgm.diagnostics.psis import import_arviz
from tests.posteriordb.chains import run_nuts
from tests.posteriordb.models import POSTERIORS

az = import_arviz()
# torch.jit.trace is deprecated, but it halves the time; few cores run the chains one after the other.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:num_chains=:UserWarning"),
    pytest.mark.filterwarnings("ignore:no draws from the prior:UserWarning"),  # flat ones
]
QUICK = ("sblri-blr",)


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def scalars_of(posterior, idata):
    """Stan's quantities of the group ``posterior``, (chains, draws, K)."""
    chains, draws = (idata.posterior.sizes[dim] for dim in ("chain", "draw"))
    latents = {
        str(name): variable.values.reshape(chains * draws, *variable.shape[2:])
        for name, variable in idata.posterior.items()
    }
    return posterior.scalars(latents).reshape(chains, draws, -1)


def law_chains_have_the_reference_moments(posterior, scalars):
    """Each mean within 0.1 reference sd, each sd within 10 %, each R-hat under 1.01."""
    facts, draws = posterior.facts, scalars.reshape(-1, scalars.shape[-1])
    assert np.abs((draws.mean(0) - facts["mean"]) / facts["sd"]).max() < 0.1
    assert np.abs(draws.std(0) / facts["sd"] - 1).max() < 0.1
    r_hat = az.rhat(az.convert_to_dataset({"scalars": scalars}))["scalars"].values
    assert r_hat.shape == facts["mean"].shape
    assert (r_hat < 1.01).all()


def check(name, **lengths):
    pyro.enable_validation(False)  # each density runs some 10,000 times
    posterior = POSTERIORS[name]
    chains = run_nuts(posterior, **lengths)
    idata = to_inferencedata(posterior.model, chains, *posterior.batch)
    scalars = scalars_of(posterior, idata)
    assert scalars.shape[:2] == (lengths["num_chains"], lengths["num_samples"])
    law_chains_have_the_reference_moments(posterior, scalars)


@pytest.mark.parametrize("name", QUICK)
def test_nuts_has_the_reference_moments(name):
    check(name, num_samples=600, warmup_steps=100, num_chains=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", POSTERIORS)
def test_nuts_has_the_reference_moments_everywhere(name):
    check(name, num_samples=1000, warmup_steps=300, num_chains=4)


def stand_in(posterior, num_draws=1000, num_chains=4):
    """Normal draws with the reference's own mean and covariance, in chains."""
    facts = posterior.facts
    covariance = facts["correlation"] * np.outer(facts["sd"], facts["sd"])
    random = np.random.default_rng(0)
    return random.multivariate_normal(facts["mean"], covariance, size=(num_chains, num_draws))


MUTANTS = {
    "a mean 0.2 sd off": lambda draws, sd: draws + 0.2 * sd,
    "a tenth and a half too wide": lambda draws, sd: draws.mean((0, 1)) + 1.15 * (draws - draws.mean((0, 1))),
    "a tenth and a half too narrow": lambda draws, sd: (
        draws.mean((0, 1)) + 0.85 * (draws - draws.mean((0, 1)))
    ),
    "one chain elsewhere": lambda draws, sd: draws + 0.3 * sd * np.array([1, -1, 0, 0])[:, None, None],
}


def test_the_law_passes_draws_of_the_reference():
    posterior = POSTERIORS["arK-arK"]
    law_chains_have_the_reference_moments(posterior, stand_in(posterior))


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_catches_a_mutant(name):
    posterior = POSTERIORS["arK-arK"]
    draws = MUTANTS[name](stand_in(posterior), posterior.facts["sd"])
    with pytest.raises(AssertionError):
        law_chains_have_the_reference_moments(posterior, draws)
