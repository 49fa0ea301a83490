"""Laws of the weighed divergence (beta) and of free bits, each with the mutants that it must catch.

A law is a function of ``measure(objective, pair, x, **around) -> (report, {parameter: gradient})``; ``around`` is a
mask or a scale that surrounds model and guide. Mutants are faults planted in the library, or formulas with one change.
All laws are exact: the noise is the same on both sides, or discrete latents are enumerated.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, Linear, PyroELBO, Weight, elbo
from pyro_dgm.objectives.traces import Given
from pyro_dgm.program import Pair, Program
from tests.laws.listed import planted, true_and_mutants
from tests.laws.path_pairs import PAIRS, Chain, Looped, Nested, Separate, Vamp, normal

pytestmark = pytest.mark.filterwarnings("ignore:this model or guide does not take")
MASK = torch.tensor([True, False, True, True])


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def measure(objective, pair, x, *, mask=None, scale=None):
    model, guide = pair.model, pair.guide
    if mask is not None:
        model, guide = poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask)
    if scale is not None:
        model, guide = poutine.scale(model, scale), poutine.scale(guide, scale)
    pair.zero_grad()
    report = objective.report(model, guide, x)
    report["loss"].backward()
    assert not report["elbo"].requires_grad and not report["kl"].requires_grad
    return report, gradients_of(pair)


def gradients_of(pair):
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in pair.named_parameters()
    }


def normal_kl(loc, log_scale, prior_loc, prior_log_scale):
    ratio = 2 * (log_scale - prior_log_scale)
    return 0.5 * (ratio.exp() + ((loc - prior_loc) / prior_log_scale.exp()) ** 2 - 1 - ratio)


def divergences(pair, x, z):
    """Divergence of each latent site, (particles or 1, batch, units), in closed form where there is one."""
    if isinstance(pair, Vamp):
        return {"z": (pair.log_q(x, z) - pair.log_prior(z["z"]))[..., None]}
    if isinstance(pair, Separate):
        return {"z": normal_kl(pair.v * x + pair.c, pair.r, pair.m, pair.t)[None]}
    if isinstance(pair, Nested):
        return {"z": normal_kl(x @ pair.e, pair.r, pair.m, pair.t)[None, :, None]}
    center = x @ pair.i + pair.g * z["y"] + pair.j
    return {
        "y": normal_kl(x @ pair.e + pair.f, pair.r, pair.m, pair.t)[None, :, None],
        "z": normal_kl(center, pair.l, pair.a * z["y"] + pair.k, pair.h)[..., None],
    }


def likelihood_of(pair, x, z):
    """log p(x | z): the joint density without those of the latents."""
    if isinstance(pair, Separate):
        return pair.log_p(x, z) - pair.log_prior(z["z"])
    if isinstance(pair, Nested):
        return pair.log_p(x, z) - normal(z["z"], pair.m, pair.t)
    prior = normal(z["y"], pair.m, pair.t) + normal(z["z"], pair.a * z["y"] + pair.k, pair.h)
    return pair.log_p(x, z) - prior


def by_hand(objective, pair, x, *, mask=None, scale=None, groups=None, of_mean=max, beta_of="kl"):
    """The same numbers of the formulas; the last three arguments are where mutants sit."""
    scale = 1.0 if scale is None else scale
    seen = torch.ones(len(x)) if mask is None else mask.double()
    z = pair.draw(x, pair.noise(x, objective.num_particles))
    likelihood = (likelihood_of(pair, x, z) * seen).mean(0).sum()
    closed = {name: kl * seen[:, None] for name, kl in divergences(pair, x, z).items()}
    drawn = ((pair.log_q(x, z) - pair.log_p(x, z) + likelihood_of(pair, x, z)) * seen).mean(0).sum()
    divergence = sum(kl.mean(0).sum() for kl in closed.values()) if objective.kl == "analytic" else drawn
    trained, least = divergence, objective.free_bits
    if least > 0:
        of_group = (groups or GROUPS)[objective.free_bits_per]
        means = [mean for kl in closed.values() for mean in of_group(kl)]
        trained = len(x) * sum(of_mean(mean, mean.new_tensor(least)) for mean in means)
    beta = objective.beta()
    weighed = trained - beta * likelihood if beta_of == "likelihood" else beta * trained - likelihood
    loss = scale * weighed
    pair.zero_grad()
    loss.backward()
    told = {"loss": loss, "elbo": scale * (likelihood - divergence), "kl": scale * divergence}
    return {name: value.detach() for name, value in told.items()}, gradients_of(pair)


GROUPS = {
    "unit": lambda kl: kl.mean((0, 1)).unbind(),
    "site": lambda kl: [kl.mean((0, 1)).sum()],
}


def seeded(measure, *args, **around):
    torch.manual_seed(11)
    return measure(*args, **around)


def largest(gradients):
    return max(gradient.abs().max().item() for gradient in gradients.values())


def assert_equal(found, expected):
    """Two measurements are the same to 1e-11 of their size."""
    for name, value in expected[0].items():
        size = max(abs(part.item()) for part in expected[0].values())
        assert abs(found[0][name].item() - value.item()) <= 1e-11 * size, name
    gap = {name: found[1][name] - value for name, value in expected[1].items()}
    assert largest(gap) <= 1e-11 * largest(expected[1])


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


def law_free_bits_are_the_larger_of_threshold_and_mean(measure):
    """The loss is beta sum_g N max(lambda, mean KL_g) - likelihood, by unit and by site, one particle and three."""
    below = above = 0
    for seed, make in enumerate(PAIRS.values()):
        pair = make(seed)
        for per in ("unit", "site"):
            z = pair.draw(pair.x, pair.noise(pair.x, 3))
            means = [mean for kl in divergences(pair, pair.x, z).values() for mean in GROUPS[per](kl)]
            least = max(0.01, 1.1 * sum(mean.item() for mean in means) / len(means))
            below += sum(bool(mean < least) for mean in means)
            above += sum(bool(mean > least) for mean in means)
            for objective in (
                ELBO(free_bits=least, free_bits_per=per),
                ELBO(3, free_bits=least, free_bits_per=per),
                ELBO(3, free_bits=least / 2, free_bits_per=per, beta=2.0),
                ELBO(3, free_bits=100.0, free_bits_per=per),
            ):
                for around in ({}, {"mask": MASK}, {"scale": torch.tensor(0.25)}):
                    found = seeded(measure, objective, pair, pair.x, **around)
                    assert_equal(found, seeded(by_hand, objective, pair, pair.x, **around))
    assert below > 3 and above > 3, "all groups are on one side, and the law says little"


def law_what_is_free_has_no_gradient(measure):
    """A unit below the threshold has exactly zero gradient from its divergence, one above it the ordinary gradient."""
    pair = Separate(2)
    pair.assign(w=0.0)  # the likelihood has no part in the guide's gradient then
    kl = divergences(pair, pair.x, None)["z"].mean((0, 1))
    order = kl.argsort()
    threshold = (kl[order[0]] + kl[order[1]]).item() / 2  # one below, two above
    ordinary = seeded(measure, ELBO(kl="analytic"), pair, pair.x)[1]
    found = seeded(measure, ELBO(free_bits=threshold, free_bits_per="unit"), pair, pair.x)[1]
    for name in ("v", "c", "r", "m", "t"):
        assert found[name][order[0]] == 0.0
        assert (found[name] - ordinary[name])[order[1:]].abs().max() <= 1e-12 * ordinary[name].abs().max()
        assert (found[name][order[1:]] != 0.0).all()
    low, high = (
        seeded(measure, ELBO(free_bits=kl.sum().item() + gap, free_bits_per="site"), pair, pair.x)[1]
        for gap in (-1e-6, 1e-6)
    )
    for name in ("v", "c", "r"):
        assert (low[name] - ordinary[name]).abs().max() <= 1e-12 * ordinary[name].abs().max()
        assert (high[name] == 0.0).all()


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


class Labels(Program):
    """k ~ Cat, b ~ Bernoulli of k, x ~ N of both; each datum has a table of its own for the guide."""

    def __init__(self, num_data):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        for name, shape in (("prior", (3,)), ("odds", (3,)), ("means", (3, 2))):
            setattr(self, name, nn.Parameter(torch.randn(shape, generator=generator)))
        for name, shape in (("k", (3,)), ("b", (3,))):
            value = torch.randn(shape, generator=generator).expand(num_data, *shape)
            setattr(self, name, nn.Parameter(value.clone()))
        self.x = torch.full((num_data,), 0.4)

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.prior))
            b = pyro.sample("b", dist.Bernoulli(logits=self.odds[k]))
            pyro.sample("x", dist.Normal(self.means[k, b.long()], 0.8), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(logits=self.k))
            logits = self.b.expand(*k.shape, 3).gather(-1, k[..., None])[..., 0]
            pyro.sample("b", dist.Bernoulli(logits=logits))


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


def formulas(**change):
    return lambda *args, **around: by_hand(*args, **around, **change)


def with_options(**options):
    def mutant(objective, pair, x, **around):
        made = ELBO(objective.num_particles, kl=objective.kl, **options)
        return measure(made, pair, x, **around)

    return mutant


def without(name):
    return lambda *args, **around: measure(*args, **{key: v for key, v in around.items() if key != name})


def telling(change):
    def mutant(*args, **around):
        report, gradients = measure(*args, **around)
        return report | change(report), gradients

    return mutant


free, weight = elbo.free_divergence, Weight.forward
terms = elbo.monte_carlo_terms


def freed(change):
    return planted(measure, elbo, free_divergence=change)


def unweighed_scores(model_trace, guide_trace):
    """Score-function terms of the whole bound in the likelihood's part, where beta does not reach them."""
    found = terms(model_trace, guide_trace)
    plain = found.likelihood - found.divergence
    divergence = found.divergence.detach()
    return elbo.Terms(plain + divergence, divergence)


FREE = {
    "smaller of the two": formulas(of_mean=min),
    "sum of the two": formulas(of_mean=lambda mean, least: mean + least),
    "by site for by unit": freed(lambda runs, least, groups: free(runs, least, "site")),
    "by unit for by site": freed(lambda runs, least, groups: free(runs, least, "unit")),
    "each datum by itself": formulas(
        groups={
            "unit": lambda kl: kl.mean(0).flatten().unbind(),
            "site": lambda kl: kl.mean(0).sum(-1).unbind(),
        }
    ),
    "each particle by itself": freed(
        lambda runs, least, groups: sum(free([run], least, groups) for run in runs)
    ),
    "first particle alone": freed(lambda runs, least, groups: free(runs[:1], least, groups) * len(runs)),
    "nothing free": freed(lambda runs, least, groups: free(runs, 0.0, groups)),
}
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
        law_free_bits_are_the_larger_of_threshold_and_mean,
        {"ours": measure},
        FREE | {"no mask": without("mask"), "no scale": without("scale")},
    ),
    (
        law_what_is_free_has_no_gradient,
        {"ours": measure},
        {name: FREE[name] for name in ("sum of the two", "by site for by unit", "by unit for by site")}
        | {name: FREE[name] for name in ("smaller of the two", "each datum by itself", "nothing free")},
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
TRUE, MUTANTS = true_and_mutants(LAWS)


@pytest.mark.parametrize(("law", "measure"), TRUE)
def test_law_holds(law, measure):
    law(measure)


@pytest.mark.parametrize(("law", "mutant"), MUTANTS)
def test_law_catches_mutant(law, mutant):
    with pytest.raises(AssertionError):
        law(mutant)


# ---- refusals, and what is no latent at all


@pytest.mark.parametrize("per", ["unit", "site"])
def test_free_bits_refuse_a_scale_for_each_datum(per):
    pair = Separate(0)
    scale = torch.tensor([1.0, 2.0, 1.0, 1.0])
    model, guide = poutine.scale(pair.model, scale), poutine.scale(pair.guide, scale)
    ELBO(beta=2.0)(model, guide, pair.x)
    with pytest.raises(InvalidInput, match=r"^a scale for each datum in site 'z'; .* try free_bits=0$"):
        ELBO(free_bits=0.1, free_bits_per=per)(model, guide, pair.x)


def test_free_bits_refuse_two_scales():
    pair = Separate(0)
    with pytest.raises(
        InvalidInput, match=r"^different scales in model and guide in site 'z'; .*free_bits=0$"
    ):
        ELBO(free_bits=0.1)(poutine.scale(pair.model, 0.5), pair.guide, pair.x)


def test_free_bits_refuse_what_needs_a_score():
    table = Labels(4)
    with pytest.raises(
        InvalidInput, match=r"not reparameterised in site 'k'.*no score-function term; try ELBO"
    ):
        ELBO(free_bits=0.1)(table.model, table.guide, table.x)


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
