"""Laws of the draws of an InferenceData in float64, each with the mutants that it must catch.

A law is a function without arguments of what stands in ``inference_data`` and its parts while it runs; a mutant is one
of those modules with a part replaced, mostly the assembly of the groups. ``LAWS`` lists each law with its mutants.
Laws that stand among the tests of the diagnostic come from there, and only their mutants are planted here. Statistical
laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 for each number.
"""

import numpy as np
import pytest
import torch

from pyro_dgm.diagnostics import draws
from pyro_dgm.objectives.sites import latent_sites
from pyro_dgm.objectives.traces import prior_of
from tests.diagnostics import test_diagnostics_inference_data as stated
from tests.laws.gaussian_pair import Gaussians, edited, planted, renamed
from tests.laws.listed import as_tests_in_place

Z_LIMIT = 4.9


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


# ---- the mutants


def drawn(change, true=draws._predicted):
    """Predictions of other latents."""

    def mutant(model, batch, trace):
        trace = trace.copy()
        for site in latent_sites(trace).values():
            site["value"] = change(site)
        return true(model, batch, trace)

    return planted(draws, _predicted=mutant)


def from_prior(model, guide, *args, true=draws.take_draws, **options):
    return true(model, prior_of(model), *args, **options)


SWAPPED = renamed(prior="posterior", posterior="prior")
PRIOR_FROM_GUIDE = renamed(prior="posterior", prior_predictive="posterior_predictive")
PREDICTIONS_SWAPPED = renamed(
    prior_predictive="posterior_predictive", posterior_predictive="prior_predictive"
)
OF_ANOTHER_DRAW = drawn(lambda site: site["value"].roll(1, 0))
OF_THE_PRIOR = drawn(lambda site: site["fn"].sample().expand_as(site["value"]))
DATA_THEMSELVES = edited(
    "posterior_predictive", lambda values, made: 0 * values + made["observed_data"][values.name]
)
NO_NOISE = edited("posterior_predictive", lambda values, made: 0 * values + values.mean("draw"))


# ---- the laws


def normal(values, loc, scale):
    """Whether 4.9 standard errors hold the mean and the spread of independent draws (chain, draw, ...)."""
    z = ((values - loc) / scale).values[0]
    assert (np.abs(z.mean(0)) < Z_LIMIT / len(z) ** 0.5).all()
    assert (np.abs(z.var(0) - 1) < Z_LIMIT * (2 / len(z)) ** 0.5 + 1e-3).all()


def law_draws_have_their_distributions():
    """5,000 draws of guide and prior have the moments that they should, and predictions given their own latents."""
    for seed in range(2):
        pair = Gaussians(seed)
        idata, scale, x = pair.take(5000), pair.scale.numpy(), pair.x.numpy()
        for i, name in enumerate("uv"):
            center = x @ pair.slope[i].numpy() + pair.shift[i].item()
            normal(idata.posterior[name], center, scale[4 + i])
            normal(idata.prior[name], pair.loc[i].item(), scale[i])
        for latents, predictions in (
            (idata.posterior, idata.posterior_predictive),
            (idata.prior, idata.prior_predictive),
        ):
            mean = np.stack([latents["u"], latents["v"]], -1) @ pair.loadings.numpy()
            normal(predictions["x"], mean, scale[2])
            normal(predictions["y"], latents["u"] - latents["v"], scale[3])


LAWS = [
    (
        law_draws_have_their_distributions,
        {
            "prior and posterior exchanged": SWAPPED,
            "posterior drawn from the prior": planted(take_draws=from_prior),
            "prior drawn from the guide": PRIOR_FROM_GUIDE,
            "predictions exchanged": PREDICTIONS_SWAPPED,
            "predictions of another draw": OF_ANOTHER_DRAW,
            "predictions of the prior's latents": OF_THE_PRIOR,
            "data for predictions": DATA_THEMSELVES,
            "one prediction for all": NO_NOISE,
        },
    ),
]
STATED = [
    (
        stated.test_predictions_belong_to_the_stored_draws,
        {"another draw": OF_ANOTHER_DRAW, "prior's latents": OF_THE_PRIOR, "data": DATA_THEMSELVES},
    ),
    (stated.test_the_prior_is_that_of_the_model, {"exchanged": SWAPPED, "of the guide": PRIOR_FROM_GUIDE}),
]
test_law_holds, test_law_catches_mutant = as_tests_in_place(LAWS, STATED)
