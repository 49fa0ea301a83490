"""Every tool says in one line what is wrong with a pair or its data, and names the site."""

import contextlib
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_dgm.diagnostics import (
    calibration,
    collapse,
    gradient_quality,
    importance,
    inference_gap,
    nuts_reference,
    to_inferencedata,
)
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO

X = torch.tensor([0.3, -1.2, 2.0, 0.7])
TOOLS = {
    "calibration": calibration,
    "collapse": collapse,
    "gradient_quality": lambda *pair: gradient_quality(*pair, objective=ELBO(), num_repeats=4),
    "importance": importance,
    "inference_gap": inference_gap,
    "nuts_reference": nuts_reference,
    "to_inferencedata": to_inferencedata,
}


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(pyro.param("prior", torch.zeros(())), 1.0))
        pyro.sample("x", dist.Normal(z, 1.0, validate_args=False), obs=x)


def mixture(x):
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        z = pyro.sample("z", dist.Normal(k, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, pyro.param("scale", torch.ones(())), validate_args=False))


def guide_of_more(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.5 * x, pyro.param("scale", torch.ones(()))))
        pyro.sample("other", dist.Normal(0.0, 1.0))


def nothing(x):
    pass


@pytest.mark.parametrize("tool", TOOLS)
def test_a_latent_that_the_guide_lacks(tool):
    with pytest.raises(InvalidInput, match="site 'z'"):
        TOOLS[tool](model, nothing, X)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_site_that_the_model_lacks(tool):
    with pytest.raises(InvalidInput, match="guide site that the model lacks in site 'other'.*try infer"):
        TOOLS[tool](model, guide_of_more, X)


@pytest.mark.parametrize("tool", [tool for tool in TOOLS if tool != "nuts_reference"])  # which sums it out
def test_a_discrete_latent_that_is_not_marked(tool):
    unmarked = poutine.infer_config(mixture, config_fn=lambda site: {"enumerate": None})
    with pytest.raises(
        InvalidInput, match="without a guide in site 'k'.*try to add it, or pyro.infer.config_enumerate"
    ):
        TOOLS[tool](unmarked, guide, X)


def test_an_objective_that_cannot_sum_out():
    with pytest.raises(InvalidInput, match="without a guide in site 'k'.*TraceEnum_ELBO"):
        TOOLS["gradient_quality"](mixture, guide, X)


@pytest.mark.parametrize(
    "tool", [tool for tool in TOOLS if tool not in ("nuts_reference", "gradient_quality")]
)
def test_a_discrete_latent_whose_conditional_cannot_be_built(tool):
    def counted(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Binomial(2, 0.5), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(k, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(InvalidInput, match="site 'k': Binomial; expected Bernoulli or Categorical"):
        TOOLS[tool](counted, guide, X)


def unplated(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def half_plated(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize("validates", [True, False])
@pytest.mark.parametrize("tool", TOOLS)
def test_a_batch_outside_any_plate(tool, validates):
    def unplated_guide(x):
        pyro.sample("z", dist.Normal(0.5 * x, pyro.param("scale", torch.ones(()))))

    pyro.enable_validation(validates)
    for pair, site in (((unplated, unplated_guide), "z"), ((half_plated, guide), "x")):
        expected = (
            rf"a batch outside any plate in site '{site}': log-densities of shape \[4\].*try pyro.plate"
        )
        with pytest.raises(InvalidInput, match=expected):
            TOOLS[tool](*pair, X)


@pytest.mark.parametrize("tool", TOOLS)
def test_no_data(tool):
    with pytest.raises(InvalidInput):
        TOOLS[tool](model, guide, torch.zeros(0))


@pytest.mark.parametrize("objective", [IWAE(2), PyroELBO(pyro.infer.RenyiELBO(alpha=0, num_particles=2))])
def test_a_site_that_is_not_reparameterised_under_a_path_wise_gradient(objective):
    def bernoulli(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(k, 1.0), obs=x)

    def its_guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(logits=x * pyro.param("scale", torch.ones(()))))

    def fixed(x):
        with pyro.plate("data", len(x)):
            pyro.sample("k", dist.Bernoulli(0.5))

    with contextlib.suppress(
        RuntimeError
    ):  # a guide without gradients may pass, and another is looked at again
        objective(bernoulli, fixed, X)
    with pytest.raises(InvalidInput, match="not reparameterised in site 'k'.*try ELBO"):
        gradient_quality(bernoulli, its_guide, X, objective=objective)
    assert gradient_quality(bernoulli, its_guide, X, objective=ELBO(), num_repeats=4)


COUNTS = {
    "calibration": ("num_samples", "num_replications"),
    "collapse": ("num_samples",),
    "importance": ("num_samples", "rows"),
    "inference_gap": ("num_particles", "steps"),
    "nuts_reference": ("num_samples", "warmup", "num_chains"),
    "to_inferencedata": ("num_samples",),
}


@pytest.mark.parametrize(
    ("tool", "count"), [(tool, count) for tool, counts in COUNTS.items() for count in counts]
)
def test_none_of_something(tool, count):
    with pytest.raises(InvalidInput, match=r"0; expected an integer >= \d+"):
        TOOLS[tool](model, guide, X, **{count: 0})


@pytest.mark.parametrize("tool", ["importance", "inference_gap", "to_inferencedata"])
def test_nan_in_the_data(tool):
    pyro.enable_validation(False)
    with pytest.raises(InvalidInput, match="NaN in the data"):
        TOOLS[tool](model, guide, torch.tensor([0.0, math.nan, 1.0]))
