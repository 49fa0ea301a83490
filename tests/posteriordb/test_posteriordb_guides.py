"""The flags of importance weights agree with the truth on posteriors whose means and deviations are known.

Quick: all Laplace approximations, and two guides that SVI trains. Slow: all posteriors under all guides.
"""

import dataclasses

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm.diagnostics.importance_weights import Importance, importance
from tests.posteriordb.models import POSTERIORS
from tests.posteriordb.variational import GUIDES, contradictions, fit, judge, laplace


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


SCHOOLS, HEIGHT, REGRESSION = (
    POSTERIORS[name]
    for name in ("eight_schools-eight_schools_noncentered", "earnings-logearn_height", "sblri-blr")
)
QUICK = [
    *((name, "AutoLaplaceApproximation") for name in POSTERIORS),
    (SCHOOLS.name, "AutoNormal"),
    (REGRESSION.name, "AutoMultivariateNormal"),
]


def law_flags_agree_with_the_truth(cell):
    """Neither flag is true where the reference contradicts it; see ``contradictions`` for the limits."""
    assert contradictions(cell) == []


@pytest.mark.parametrize(("name", "guide_name"), QUICK)
def test_the_flags_agree_with_the_truth(name, guide_name):
    posterior = POSTERIORS[name]
    law_flags_agree_with_the_truth(judge(posterior, fit(posterior, guide_name, num_steps=600)))


@pytest.mark.slow
@pytest.mark.parametrize("guide_name", GUIDES)
@pytest.mark.parametrize("name", POSTERIORS)
def test_the_flags_agree_with_the_truth_everywhere(name, guide_name):
    posterior = POSTERIORS[name]
    law_flags_agree_with_the_truth(judge(posterior, fit(posterior, guide_name)))


def test_both_flags_are_true_of_a_good_guide():
    """A Laplace approximation of a regression on 1,192 data is as good as exact; or flags that are never true pass."""
    cell = judge(HEIGHT, laplace(HEIGHT))
    assert cell.reweighted_reliable
    assert cell.usable_as_is
    law_flags_agree_with_the_truth(cell)


def planted(*, shift=0.0, scale=1.0):
    """A guide for log earnings that is ``shift`` deviations off in each latent, and ``scale`` times as wide."""
    guide = laplace(HEIGHT)
    with torch.no_grad():
        factor = guide.scale[..., None] * guide.scale_tril
        guide.loc += shift * (factor @ factor.T).diagonal().sqrt()
        guide.scale *= scale
    return judge(HEIGHT, guide)


def test_a_guide_half_a_deviation_off_is_reliable_but_not_usable_as_is():
    """Known failure of k-hat alone: it certifies the reweighted draws, which are right, and not the guide's own."""
    guide = laplace(HEIGHT)
    with torch.no_grad():  # sigma, all but independent of the rest
        guide.loc[2] += 0.5 * (guide.scale[2] * guide.scale_tril[2]).norm()
    cell = judge(HEIGHT, guide)
    assert cell.k_hat < 0.5
    assert cell.reweighted_reliable
    assert not cell.usable_as_is
    assert np.abs(cell.guide.mean_error).max() > 0.4
    law_flags_agree_with_the_truth(cell)


@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_a_guide_of_the_wrong_width_is_not_usable_as_is(scale):
    """Right means, and k-hat about 1 - scale^2: only the reweighted deviations tell."""
    cell = planted(scale=scale)
    assert cell.reweighted_reliable
    assert not cell.usable_as_is
    law_flags_agree_with_the_truth(cell)


def test_a_mode_that_no_draw_visited_cannot_be_seen():
    """The limit of all weights: half the posterior is missing, k-hat is negative and both flags are true."""

    def model(x):
        shares = dist.Categorical(torch.ones(2))
        pyro.sample("z", dist.MixtureSameFamily(shares, dist.Normal(torch.tensor([-20.0, 20.0]), 1.0)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(20.0, 1.1))

    found = importance(model, guide, torch.zeros(2), num_samples=4000)
    assert found.k_hat < 0.1
    assert found.reweighted_reliable
    assert found.usable_as_is  # and yet the true mean is 0
    assert "cannot be seen" in Importance.reweighted_reliable.__doc__


# ---- mutants of the flags, each contradicted somewhere

MUTANTS = {
    "always reliable, a funnel's mode": (
        lambda: judge(SCHOOLS, laplace(SCHOOLS)),
        {"reweighted_reliable": True},
    ),
    "always usable, a funnel's mode": (lambda: judge(SCHOOLS, laplace(SCHOOLS)), {"usable_as_is": True}),
    "usable where reliable, half a deviation off": (lambda: planted(shift=0.5), {"usable_as_is": True}),
    "usable where the means agree, too narrow": (lambda: planted(scale=0.6), {"usable_as_is": True}),
    "usable where the means agree, too wide": (lambda: planted(scale=1.5), {"usable_as_is": True}),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_law_catches_a_mutant(name):
    make, flags = MUTANTS[name]
    cell = dataclasses.replace(make(), **{"reweighted_reliable": False, "usable_as_is": False} | flags)
    with pytest.raises(AssertionError):
        law_flags_agree_with_the_truth(cell)
