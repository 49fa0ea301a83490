"""Wrong arguments of objectives, and pairs that an option does not fit: refused in one line that names the piece."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ELBO, IWAE, Cyclical, Linear, PyroELBO, Renyi, Sigmoid, log_weights
from tests.laws.path_pairs import Chain, Separate, Vamp

NAN, INF = math.nan, math.inf

ARGUMENTS = {
    **{
        f"{kind.__name__}, K = {number}": (lambda kind=kind, number=number: kind(number), "num_particles")
        for kind in (ELBO, IWAE, Renyi)
        for number in (0, -1, NAN, 2.5, INF)
    },
    **{
        f"free_bits = {value}": (lambda value=value: ELBO(free_bits=value), "free_bits")
        for value in (-0.1, NAN, INF)
    },
    **{
        f"beta = {value!r}": (lambda value=value: ELBO(beta=value), "beta")
        for value in (-1.0, NAN, INF, "half", None, [1.0, 2.0])
    },
    "negative schedule": (lambda: ELBO(beta=Linear(10, start=-1.0)), "start of Linear"),
    "negative end": (lambda: ELBO(beta=Cyclical(10, end=-1.0)), "end of Cyclical"),
    "schedule of no steps": (lambda: ELBO(beta=Sigmoid(0)), "steps of Sigmoid"),
    "function below zero": (lambda: ELBO(beta=lambda step: 1.0 - step), "beta"),
    "unknown kl": (lambda: ELBO(kl="exact"), "kl"),
    "unknown group": (lambda: ELBO(free_bits=1.0, free_bits_per="datum"), "free_bits_per"),
    "unknown gradient of ELBO": (lambda: ELBO(gradient="dreg"), "gradient"),
    "unknown gradient of IWAE": (lambda: IWAE(2, gradient="pathwise"), "gradient"),
    "stl and analytic": (lambda: ELBO(gradient="stl", kl="analytic"), "gradient"),
    "stl and free bits": (lambda: ELBO(gradient="stl", free_bits=0.5), "gradient"),
    **{
        f"alpha = {value}": (lambda value=value: Renyi(2, alpha=value), "alpha") for value in (NAN, INF, -INF)
    },
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_are_refused_at_construction(name):
    build, where = ARGUMENTS[name]
    with pytest.raises(InvalidInput, match=f" in {where}: .*; expected ") as caught:
        build()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_what_was_given_is_told():
    for build, message in (
        (lambda: ELBO(beta=NAN), "bad weight in beta: nan; expected a number >= 0, always"),
        (lambda: IWAE(0), "no particles in num_particles: 0; expected an integer >= 1; try 1"),
        (lambda: ELBO(kl="exact"), "unknown option in kl: 'exact'; expected 'monte_carlo' or 'analytic'"),
    ):
        with pytest.raises(InvalidInput) as caught:
            build()
        assert str(caught.value) == message


def test_weights_need_particles():
    pair = Separate(0)
    with pytest.raises(InvalidInput, match="num_particles: 0"):
        log_weights(pair.model, pair.guide, pair.x, num_particles=0)


def refused(objective, model, guide, x, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        objective(model, guide, x)
    assert "\n" not in str(caught.value) and "; try " in str(caught.value)


def test_a_mixture_prior_has_no_closed_form():
    pair = Vamp(0)
    ELBO()(pair.model, pair.guide, pair.x)
    refused(ELBO(kl="analytic"), pair.model, pair.guide, pair.x, "no closed-form divergence in site 'z'")
    refused(
        PyroELBO(TraceMeanField_ELBO()),
        pair.model,
        pair.guide,
        pair.x,
        "no closed-form divergence in site 'z'",
    )


def test_a_structured_guide_in_another_order_has_no_closed_form():
    pair = Chain(0)

    def guide(x):  # z first, then y given z
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, 0], 1.0))
            pyro.sample("y", dist.Normal(z, 1.0))

    ELBO()(pair.model, guide, pair.x)
    refused(ELBO(kl="analytic"), pair.model, guide, pair.x, "different order of sites .*: y, z against z, y")
    refused(
        PyroELBO(TraceMeanField_ELBO()),
        pair.model,
        guide,
        pair.x,
        "no bound in PyroELBO: Failed to verify mean field",
    )


@pytest.mark.parametrize("objective", [IWAE(2), Renyi(2), IWAE(2, gradient="dreg")])
def test_weights_do_not_take_scores(objective):
    logit = torch.zeros(4, requires_grad=True)

    def model(x):
        with pyro.plate("data", 4):
            b = pyro.sample("b", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(b, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", 4):
            pyro.sample("b", dist.Bernoulli(logits=logit))

    refused(objective, model, guide, torch.zeros(4), "not reparameterised in site 'b'.*; try ELBO")
