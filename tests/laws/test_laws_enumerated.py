"""Laws of discrete latents that a guide leaves to enumeration, in float64 at random parameters, against sums over all
their values written out by hand.

A law is a function of one implementation of ``complete(model, guide, batch) -> guide``; each names the mutants that it
must catch. The statistical law compares with 4.9 standard errors, a false-alarm rate of 1e-6 per number.
"""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_dgm.objectives import enumerated, log_weights
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.sites import latent_sites
from pyro_dgm.objectives.traces import Given
from tests.laws.discrete_pairs import PAIRS, K, N


def draws(pair, guide, particles):
    """Values by site of a plate of particles, (particles, ...)."""
    with pyro.plate("many", particles, dim=-3):
        return {
            name: site["value"] for name, site in latent_sites(poutine.trace(guide).get_trace(pair.x)).items()
        }


def the_weights_have_them_summed_out(complete, make):
    pair = make()
    guide = complete(pair.model, pair.guide, (pair.x,))
    values = {}
    for name, site in latent_sites(poutine.trace(pair.guide).get_trace(pair.x)).items():
        values[name] = site["value"]
    with Given(values):
        log_w = log_weights(pair.model, guide, pair.x, joint=pair.joint)
    expected = pair.log_joint(values).logsumexp(0) - pair.log_q(values)
    torch.testing.assert_close(log_w.squeeze(), expected.squeeze(), rtol=0, atol=1e-12)


def particles_have_weights_of_their_own(complete, make):
    """As many particles at once as one by one, given the same draws of the guide; no noise comes from k."""
    pair = make()
    guide = complete(pair.model, pair.guide, (pair.x,))
    torch.manual_seed(1)
    together = log_weights(pair.model, guide, pair.x, joint=pair.joint, num_particles=2000)
    torch.manual_seed(2)
    again = log_weights(pair.model, guide, pair.x, joint=pair.joint, num_particles=2000)
    if not latent_sites(poutine.trace(pair.guide).get_trace(pair.x)):
        torch.testing.assert_close(
            together, pair.log_joint({}).logsumexp(0).expand(2000, N), rtol=0, atol=1e-12
        )
        return
    error = (together.var(0) + again.var(0)).div(2000).sqrt()
    assert ((together.mean(0) - again.mean(0)).abs() < 4.9 * error).all()


def the_bound_is_pyros(complete, make):
    """Mean of the weights against TraceEnum_ELBO, whose k is summed out and never drawn."""
    pair = make()
    guide = complete(pair.model, pair.guide, (pair.x,))
    number = 4000
    log_w = log_weights(pair.model, guide, pair.x, joint=pair.joint, num_particles=number)
    log_w = log_w if pair.joint else log_w.sum(1)
    bound = pyro.infer.TraceEnum_ELBO(num_particles=number, vectorize_particles=True, max_plate_nesting=2)
    theirs = -bound.loss(pair.model, pair.guide, pair.x)
    error = max(log_w.std().item() * (2 / number) ** 0.5, 1e-9)
    assert abs(log_w.mean().item() - theirs) < 4.9 * error


def draws_follow_the_conditional(complete, make):
    """Frequencies of each value of the mixture's k at one z against p(k | z, x), within 4.9 standard errors."""
    pair = make()
    guide = complete(pair.model, pair.guide, (pair.x,))
    values = {"z": torch.randn(N).double()}
    number = 20_000
    with Given(values):
        k = draws(pair, guide, number)["k"].squeeze()
    assert k.shape[:2] == (number, N)
    if k.dim() == 3:
        k = k.argmax(-1)
    exact = pair.log_joint(values).softmax(0)  # (K, N)
    for value in range(K):
        found = (k == value).double().mean(0)
        error = (exact[value] * (1 - exact[value]) / number).sqrt()
        assert ((found - exact[value]).abs() < 4.9 * error).all()


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize(
    "law", [the_weights_have_them_summed_out, particles_have_weights_of_their_own, the_bound_is_pyros]
)
def test_law(law, make):
    for seed in range(3):
        torch.manual_seed(seed)
        law(complete_guide, make)


@pytest.mark.parametrize("make", [PAIRS["mixture"], PAIRS["one-hot"]], ids=["mixture", "one-hot"])
def test_draws_follow_the_conditional(make):
    draws_follow_the_conditional(complete_guide, make)


def from_the_prior(model, guide, batch):
    """k as the model draws it, whatever z and x are."""
    completed = complete_guide(model, guide, batch)

    def mutant(x):
        with poutine.trace() as capture:
            guide(x)
        values = {name: site["value"] for name, site in capture.trace.nodes.items()}
        with poutine.block(hide_fn=lambda site: site["name"] not in completed.names), Given(values):
            model(x)

    return mutant


class Forgetful(enumerated._Conditional):
    """Conditionals that do not know the values drawn before them."""

    def _pyro_post_sample(self, msg):
        super()._pyro_post_sample({**msg, "value": torch.zeros_like(msg["value"])})


class Backwards(enumerated._Conditional):
    """Values in reverse order."""

    def _pyro_sample(self, msg):
        super()._pyro_sample(msg)
        if isinstance(msg["fn"], dist.Categorical):
            msg["fn"] = dist.Categorical(logits=msg["fn"].logits.flip(-1))


def with_other_conditionals(kind):
    def complete(model, guide, batch):
        completed = complete_guide(model, guide, batch)

        def mutant(x):
            true = enumerated._Conditional
            enumerated._Conditional = kind
            try:
                completed(x)
            finally:
                enumerated._Conditional = true

        return mutant

    return complete


MUTANTS = [
    (the_weights_have_them_summed_out, from_the_prior, "mixture"),
    (the_weights_have_them_summed_out, from_the_prior, "nested plates, mask"),
    (the_weights_have_them_summed_out, from_the_prior, "one label for all"),
    (draws_follow_the_conditional, from_the_prior, "mixture"),
    (the_weights_have_them_summed_out, with_other_conditionals(Forgetful), "nested plates, mask"),
    (the_weights_have_them_summed_out, with_other_conditionals(Forgetful), "Markov chain"),
    (particles_have_weights_of_their_own, from_the_prior, "no guide"),
    (draws_follow_the_conditional, with_other_conditionals(Backwards), "mixture"),
    (the_bound_is_pyros, with_other_conditionals(Backwards), "Markov chain"),
]


@pytest.mark.parametrize(("law", "mutant", "pair"), MUTANTS)
def test_a_mutant_is_caught(law, mutant, pair):
    with pytest.raises(AssertionError):
        law(mutant, PAIRS[pair])
