"""Laws of free bits, each with the mutants that it must catch.

A law is a function of ``measure(objective, pair, x, **around) -> (report, {parameter: gradient})``. Mutants are faults
planted in the library, or formulas with one change. All laws are exact: the noise is the same on both sides.
"""

import pytest
import torch
from pyro import poutine

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ELBO, elbo
from tests.laws.listed import as_tests, planted
from tests.laws.path_pairs import PAIRS, Separate
from tests.laws.weighed_pairs import (
    GROUPS,
    MASK,
    Labels,
    assert_equal,
    by_hand,
    divergences,
    formulas,
    measure,
    seeded,
    without,
)

pytestmark = pytest.mark.filterwarnings("ignore:this model or guide does not take")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


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


free = elbo.free_divergence


def freed(change):
    return planted(measure, elbo, free_divergence=change)


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
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)


# ---- refusals


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
