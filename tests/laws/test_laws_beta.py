"""Laws of the weighed divergence (beta), each with the mutants that it must catch.

A law is a function of ``measure(objective, pair, x, **around) -> (report, {parameter: gradient})``. Mutants are faults
planted in the library, or formulas with one change. All laws are exact: the noise is the same on both sides, or
discrete latents are enumerated.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, Linear, PyroELBO, Weight, elbo
from pyro_dgm.objectives.traces import Given
from pyro_dgm.program import Pair
from tests.laws.listed import as_tests, planted
from tests.laws.path_pairs import PAIRS, Chain, Looped, Separate, normal
from tests.laws.weighed_pairs import (
    MASK,
    Labels,
    assert_equal,
    by_hand,
    formulas,
    gradients_of,
    largest,
    measure,
    seeded,
    without,
)

pytestmark = pytest.mark.filterwarnings("ignore:this model or guide does not take")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def late(beta, steps):
    objective = ELBO(2, beta=beta)
    for _ in range(steps):
        objective.beta.advance()
    return objective


# ---- the laws


def law_the_loss_is_beta_kl_minus_likelihood(measure):
    """Value, gradient and what is told equal the formula, Monte Carlo and analytic, one particle and three."""
    for seed, (name, make) in enumerate(PAIRS.items()):
        pair = make(seed)
        for objective in (
            ELBO(beta=4.0),
            ELBO(3, beta=0.3),
            ELBO(3, beta=0.0),
            late(Linear(20), 7),
            *([] if name == "shared parameters" else [ELBO(3, beta=2.5, kl="analytic")]),
        ):
            for around in ({}, {"mask": MASK}, {"scale": 0.25}, {"mask": MASK, "scale": torch.tensor(3.0)}):
                assert_equal(
                    seeded(measure, objective, pair, pair.x, **around),
                    seeded(by_hand, objective, pair, pair.x, **around),
                )


def law_one_is_the_elbo(measure):
    """beta = 1, a number or a schedule, and no free bits: the plain ELBO to the last bit, and Pyro's to 1e-12."""
    for make in PAIRS.values():
        pair = make(1)
        for number in (1, 3):
            plain = seeded(measure, ELBO(number), pair, pair.x)
            for beta in (1.0, 1, torch.ones_like, lambda step: 1.0):
                found = seeded(measure, ELBO(number, beta=beta, free_bits=0.0), pair, pair.x)
                assert all(torch.equal(found[0][name], value) for name, value in plain[0].items())
                assert all(torch.equal(found[1][name], value) for name, value in plain[1].items())
        found = seeded(measure, ELBO(), pair, pair.x)
        pair.zero_grad()
        torch.manual_seed(11)
        loss = PyroELBO(Trace_ELBO())(pair.model, pair.guide, pair.x)
        loss.backward()
        assert abs(found[0]["loss"].item() - loss.item()) <= 1e-12 * abs(loss.item())
        gap = {name: found[1][name] - value for name, value in gradients_of(pair).items()}
        assert largest(gap) <= 1e-12 * largest(found[1])


SETTINGS = [
    {},
    {"beta": 4.0},
    {"beta": 0.0},
    {"beta": Linear(10)},
    {"free_bits": 0.5},
    {"free_bits": 0.5, "free_bits_per": "site", "beta": 2.0},
    {"gradient": "stl", "beta": 0.5},
]


def law_the_untouched_bound_is_told(measure):
    """With the exact posterior ``elbo`` is log p(x) to 1e-10 in each setting, by closed form for the first pair; in
    evaluation mode so is the loss."""
    for make in (Separate, Chain, Looped):
        pair = make(5)
        pair.become_exact()
        with torch.no_grad():  # the ratio is p(x) at any z
            z = {name: torch.randn(1, len(pair.x), *event) for name, event in pair.sites.items()}
            log_p = (pair.log_p(pair.x, z) - pair.log_q(pair.x, z)).sum()
            if make is Separate:
                loc = pair.w * pair.m + pair.b
                scale = ((pair.w * pair.t.exp()) ** 2 + (2 * pair.s).exp()).log() / 2
                assert (normal(pair.x, loc, scale).sum() - log_p).abs() < 1e-10
        for setting in SETTINGS:
            for number in (1, 3):
                objective = ELBO(number, **setting)
                report, _ = measure(objective, pair, pair.x)
                assert (report["elbo"] - log_p).abs() < 1e-10
                report, _ = measure(objective.eval(), pair, pair.x)
                assert (report["elbo"] - log_p).abs() < 1e-10 and (report["loss"] + log_p).abs() < 1e-10


def law_evaluation_is_plain(measure):
    """In evaluation mode the loss of each setting is that of the plain ELBO to the last bit, whatever the guide."""
    for make in PAIRS.values():
        pair = make(6)
        plain, gradient = seeded(measure, ELBO(3), pair, pair.x)
        for setting in SETTINGS:
            found, other = seeded(measure, ELBO(3, **setting).eval(), pair, pair.x)
            assert torch.equal(found["loss"], plain["loss"]) and torch.equal(found["loss"], -found["elbo"])
            if "gradient" not in setting:
                assert all(torch.equal(other[name], value) for name, value in gradient.items())


def law_scores_are_weighed_too(measure):
    """Discrete latents: the mean over all draws equals the gradient of beta KL - E log p(x | z), to 1e-10."""
    for number, beta in ((1, 1.0), (1, 0.3), (2, 3.0)):
        values = torch.cartesian_prod(*[torch.arange(6)] * number).reshape(-1, number).T.contiguous()
        table = Labels(values.shape[1])
        k, b = values // 2, (values % 2).double()
        objective = ELBO(number, beta=beta)
        objective(table.model, table.guide, table.x)  # looks at the pair, which draws as it likes
        with torch.no_grad():
            one = Labels(1)
            log_q = torch.log_softmax(one.k[0], -1)[k] + dist.Bernoulli(logits=one.b[0][k]).log_prob(b)
            weights = log_q.sum(0).exp()
        squeeze = (lambda value: value[0]) if number == 1 else (lambda value: value)
        with Given({"k": squeeze(k), "b": squeeze(b)}):
            _, found = measure(objective, table, table.x)

        k, b = torch.arange(3)[:, None], torch.tensor([0.0, 1.0])
        log_q = torch.log_softmax(one.k[0], -1)[:, None] + dist.Bernoulli(logits=one.b[0][:, None]).log_prob(
            b
        )
        log_prior = torch.log_softmax(one.prior, -1)[:, None]
        log_prior = log_prior + dist.Bernoulli(logits=one.odds[:, None]).log_prob(b)
        log_likelihood = dist.Normal(one.means, 0.8).log_prob(one.x)
        assert k.shape[0] * b.shape[0] == log_q.numel()
        (log_q.exp() * (beta * (log_q - log_prior) - log_likelihood)).sum().backward()
        for name in ("k", "b"):  # of the model, whose parameters the data share, other laws tell
            mean = (weights[:, None] * found[name]).sum(0)
            assert (mean - getattr(one, name).grad[0]).abs().max() < 1e-10


# ---- the mutants


def telling(change):
    def mutant(*args, **around):
        report, gradients = measure(*args, **around)
        return report | change(report), gradients

    return mutant


weight, terms = Weight.forward, elbo.monte_carlo_terms


def unweighed_scores(model_trace, guide_trace):
    """Score-function terms of the whole bound in the likelihood's part, where beta does not reach them."""
    found = terms(model_trace, guide_trace)
    plain = found.likelihood - found.divergence
    divergence = found.divergence.detach()
    return elbo.Terms(plain + divergence, divergence)


LAWS = [
    (
        law_the_loss_is_beta_kl_minus_likelihood,
        {"ours": measure},
        {
            "beta of the likelihood": formulas(beta_of="likelihood"),
            "beta squared": planted(measure, Weight, forward=lambda self: weight(self) ** 2),
            "no beta": planted(measure, Weight, forward=lambda self: 1.0),
            "no mask": without("mask"),
            "no scale": without("scale"),
            "the loss for the bound": telling(lambda report: {"elbo": -report["loss"].detach()}),
            "the weighed divergence": telling(
                lambda report: {"kl": (report["loss"] + report["elbo"]).detach()}
            ),
        },
    ),
    (
        law_one_is_the_elbo,
        {"ours": measure},
        {
            "nearly one": planted(measure, Weight, forward=lambda self: weight(self) * (1 + 1e-9)),
            "analytic": lambda objective, *args: measure(ELBO(objective.num_particles, kl="analytic"), *args),
        },
    ),
    (
        law_the_untouched_bound_is_told,
        {"ours": measure},
        {
            "the loss for the bound": telling(lambda report: {"elbo": -report["loss"].detach()}),
            "always in training": lambda objective, *args: measure(objective.train(), *args),
        },
    ),
    (
        law_evaluation_is_plain,
        {"ours": measure},
        {"always in training": lambda objective, *args: measure(objective.train(), *args)},
    ),
    (
        law_scores_are_weighed_too,
        {"ours": measure},
        {
            "no beta": planted(measure, Weight, forward=lambda self: 1.0),
            "scores without beta": planted(measure, elbo, monte_carlo_terms=unweighed_scores),
            "no scores": planted(
                measure,
                elbo,
                monte_carlo_terms=lambda *traces: (
                    lambda found: elbo.Terms(found.likelihood.detach().requires_grad_(), found.divergence)
                )(terms(*traces)),
            ),
        },
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)


# ---- what is no latent at all, and precision


@pytest.mark.parametrize("setting", SETTINGS)
def test_without_latents_all_settings_are_the_likelihood(setting):
    loc = nn.Parameter(torch.zeros(()))

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    x = torch.randn(5)
    program = Pair(model, lambda x: None)
    report = ELBO(2, **setting).report(program.model, program.guide, x)
    report["loss"].backward()
    assert report["loss"].item() == pytest.approx(-dist.Normal(0.0, 1.0).log_prob(x).sum().item(), rel=1e-12)
    assert report["kl"] == 0.0 and loc.grad.item() == pytest.approx(-x.sum().item(), rel=1e-12)


def test_float32_stays_float32():
    """A schedule counts in float64; the loss keeps the type of the program."""
    torch.set_default_dtype(torch.float32)
    program = PPCA(4, 2)
    for beta in (0.5, Linear(10)):
        loss = ELBO(beta=beta, free_bits=0.1)(program.model, program.guide, torch.randn(3, 4))
        assert loss.dtype == torch.float32 and math.isfinite(loss.item())
