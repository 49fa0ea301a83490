"""Laws of the numbers of an InferenceData in float64, each with the mutants that it must catch.

A law is a function without arguments of what stands in ``inference_data`` and its parts while it runs; a mutant is one
of those modules with a part replaced, mostly the assembly of the groups. ``LAWS`` lists each law with its mutants.
Laws that stand among the tests of the diagnostic come from there, and only their mutants are planted here.
"""

from functools import partial

import numpy as np
import pytest
import torch
from pyro.infer.mcmc.api import AbstractMCMC
from pyro.poutine import Trace

from pyro_dgm.diagnostics import draws, inference_data
from pyro_dgm.objectives import divergence_terms
from tests.diagnostics import test_diagnostics_inference_data as stated
from tests.laws.gaussian_pair import DATA, Gaussians, assembled, edited, planted, renamed, rolled
from tests.laws.listed import as_tests_in_place


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)  # tests/conftest.py sets it back


class Chains(AbstractMCMC):
    """A finished run of three chains with known draws and divergences."""

    def __init__(self, seed):
        torch.manual_seed(seed)
        self.draws = {name: torch.randn(3, 7, DATA) for name in "uv"}
        self.places = {f"chain {chain}": [chain, 6 - chain] for chain in range(3)}

    def run(self, *args):
        raise AssertionError("it has been run")

    def get_samples(self, num_samples=None, group_by_chain=False):
        return self.draws if group_by_chain else {n: value.flatten(0, 1) for n, value in self.draws.items()}

    def diagnostics(self):
        return {"divergences": self.places}


# ---- the mutants


def other_order(variables, attrs, num_chains, true=inference_data._dataset):
    """Draws of all chains one by one in place of chain after chain."""
    made = true(variables, attrs, num_chains)
    turned = {}
    for name, one in made.items():
        if num_chains:
            turned[name] = (one.dims, one.values.swapaxes(0, 1).reshape(one.shape))
    return made.assign(turned)


STATS = ("log_weight", "log_likelihood_x", "log_likelihood_y")
LIKELIHOODS = STATS[1:]
EDITED = partial(edited, "sample_stats")


def without_guide(runs, layout, true=draws.weigh, **options):
    return true([(model_trace, Trace()) for model_trace, _ in runs], layout, **options)


def turned_around(q, p, true=divergence_terms.closed_form):
    return true(p, q)


def other_dims(made):
    """Plates that have each other's names."""
    names = {"groups": "data", "data": "groups"}
    return {name: made[name].rename(names) for name in ("posterior", "observed_data", "posterior_predictive")}


# ---- the laws


def law_numbers_belong_to_the_stored_draws():
    """At random parameters: likelihoods and weights of each stored draw, KL of each site, and sums, to 1e-10."""
    for seed in range(3):
        pair = Gaussians(seed)
        idata = pair.take(20)
        for name, values in pair.exact(idata).items():
            dims = ("data",) if values.ndim == 1 else ("chain", "draw", "data")
            assert idata.sample_stats[name].dims == dims
            np.testing.assert_allclose(idata.sample_stats[name], values, atol=1e-10, err_msg=name)
        np.testing.assert_array_equal(idata.observed_data["x"], pair.x)
        np.testing.assert_array_equal(idata.observed_data["y"], pair.y)
        assert idata.posterior_predictive["x"].dims == ("chain", "draw", "data", "x_dim_0")


def law_chains_stay_apart():
    """Draws, likelihoods and divergences of three chains are where the run has them, to 1e-10."""
    for seed in range(2):
        pair, run = Gaussians(seed), Chains(seed)
        idata = inference_data.to_inferencedata(pair.model, run, pair.x, pair.y)
        for name, values in run.draws.items():
            np.testing.assert_array_equal(idata.posterior[name], values)
        for name in ("log_likelihood_x", "log_likelihood_y"):
            np.testing.assert_allclose(idata.sample_stats[name], pair.exact(idata)[name], atol=1e-10)
        diverging = np.argwhere(idata.sample_stats["diverging"].values).tolist()
        assert diverging == [[0, 0], [0, 6], [1, 1], [1, 5], [2, 2], [2, 4]]


def divergence():
    stated.test_the_divergence_of_each_site(None)


LAWS = [
    (
        law_numbers_belong_to_the_stored_draws,
        {
            **{f"{name} of another draw": EDITED(rolled("draw"), name) for name in STATS},
            **{f"{name} of another datum": EDITED(rolled("data"), name) for name in STATS},
            **{f"{name} negative": EDITED(lambda values, made: -values, name) for name in STATS},
            "log-weight without the guide": planted(draws, weigh=without_guide),
            "KL(p || q)": planted(divergence_terms, closed_form=turned_around),
            "likelihood for the weight": EDITED(
                lambda values, made: sum(made["sample_stats"][name] for name in LIKELIHOODS), "log_weight"
            ),
            "sum over the data": EDITED(
                lambda values, made: 0 * values + values.sum("data"), "log_likelihood_y"
            ),
            "KL of the sites exchanged": assembled(
                lambda made: {
                    "sample_stats": made["sample_stats"].assign(
                        kl_u=made["sample_stats"]["kl_v"], kl_v=made["sample_stats"]["kl_u"]
                    )
                }
            ),
            "KL summed over the data": EDITED(lambda values, made: 0 * values + values.sum(), "kl_u"),
            "ELBO for log p": EDITED(lambda values, made: made["sample_stats"]["elbo"], "log_p"),
            "data rolled": edited("observed_data", rolled("data")),
            "predictions for data": edited(
                "observed_data", lambda values, made: made["posterior_predictive"][values.name][0, 0]
            ),
            "prior and posterior exchanged": renamed(prior="posterior", posterior="prior"),
        },
    ),
    (
        law_chains_stay_apart,
        {
            "draw by draw": planted(_dataset=other_order),
            "divergences of another chain": EDITED(rolled("chain"), "diverging"),
            "divergences a step late": EDITED(rolled("draw"), "diverging"),
            "likelihoods of another chain": EDITED(rolled("chain"), *LIKELIHOODS),
        },
    ),
]
STATED = [
    (
        stated.test_weights_are_those_of_the_stored_draws,
        {
            "another draw": EDITED(rolled("draw"), "log_weight"),
            "negative": EDITED(lambda values, made: -values, "log_weight"),
        },
    ),
    (
        stated.test_log_likelihood_is_the_density_of_the_stored_draws,
        {"another draw": EDITED(rolled("draw"), "log_likelihood_x")},
    ),
    (
        divergence,
        {"summed over the data": EDITED(lambda values, made: 0 * values + values.sum(), "kl_z")},
    ),
    (stated.test_nested_plates_name_the_dimensions, {"plates exchanged": assembled(other_dims)}),
    (
        stated.test_effective_sample_size_is_that_of_the_weights,
        {"draws for their effective number": EDITED(lambda values, made: 0 * values + 60, "ess")},
    ),
]
test_law_holds, test_law_catches_mutant = as_tests_in_place(LAWS, STATED)
