"""Laws of the gradients along paths (sticking the landing, doubly reparameterised), each with mutants that it catches.

A law is a function of ``gradients(objective, pair, x) -> (loss, {parameter: gradient})``, whose mutants plant a fault
in the library, or answer with another objective. All laws hold in every sample: the noise is the same on both sides.
"""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.objectives import ELBO, IWAE, iwae
from pyro_dgm.objectives.paths import Paths
from pyro_dgm.program import Program
from tests.laws.gradients_along_paths import FAULTS, SQUARE, changed, gradients, instead, largest, of_kind
from tests.laws.listed import as_tests, planted
from tests.laws.path_pairs import PAIRS, Chain, Separate

pytestmark = pytest.mark.filterwarnings("ignore:this model or guide does not take")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def by_hand(objective, pair, x, *, mask=None):
    """The same of the formulas: draws and densities without Pyro, the two parts of the gradient one by one."""
    num_particles, kind = objective.num_particles, objective.gradient
    paths = pair.draw(x, pair.noise(x, num_particles))
    fixed = {name: value.detach().requires_grad_() for name, value in paths.items()}
    seen = torch.ones(len(x)) if mask is None else mask.double()
    log_p, log_q = pair.log_p(x, fixed) * seen, pair.log_q(x, fixed) * seen
    log_w = log_p - log_q
    if isinstance(objective, IWAE):
        bound = (log_w.logsumexp(0) - math.log(num_particles)).sum()
        weights = log_w.detach().softmax(0)
    else:
        bound, weights = log_w.mean(0).sum(), torch.full_like(log_w, 1 / num_particles).detach()
    along = torch.autograd.grad(
        ((weights**2 if kind == "dreg" else weights) * log_w).sum(), list(fixed.values()), retain_graph=True
    )
    surrogate = (weights * log_p).sum() + sum(
        (a * z).sum() for a, z in zip(along, paths.values(), strict=True)
    )
    if kind in ("standard", "pathwise"):
        surrogate = surrogate - (weights * log_q).sum()
    pair.zero_grad()
    (-surrogate).backward()
    return -bound.detach(), {name: parameter.grad.clone() for name, parameter in pair.named_parameters()}


OBJECTIVES = [
    *(ELBO(number, gradient=kind) for number in (1, 3) for kind in ("pathwise", "stl")),
    *(IWAE(number, gradient=kind) for number in (1, 4) for kind in ("standard", "stl", "dreg")),
]


# ---- the laws


def law_they_are_the_formulas(gradients):
    """Loss and every gradient equal the formulas with the same noise to 1e-12, with and without a mask."""
    for seed, make in enumerate(PAIRS.values()):
        pair = make(seed)
        for objective in OBJECTIVES:
            for mask in (None, torch.tensor([True, False, True, True])):
                torch.manual_seed(seed)
                loss, found = gradients(objective, pair, pair.x, mask=mask)
                torch.manual_seed(seed)
                expected, formula = by_hand(objective, pair, pair.x, mask=mask)
                assert (loss - expected).abs() <= 1e-12 * expected.abs()
                error = {name: found[name] - formula[name] for name in formula}
                assert largest(error) <= 1e-12 * largest(formula)


def law_at_the_posterior_nothing_is_left(gradients):
    """With the exact posterior the guide's gradient is zero to 1e-10 in every sample; the ordinary one is not."""
    for seed, make in enumerate((Separate, PAIRS["two sites"], PAIRS["two sites in a loop"])):
        pair = make(seed)
        pair.become_exact()
        for objective in OBJECTIVES:
            _, found = gradients(objective, pair, pair.x)
            of_guide = {name: found[name] for name in pair.own}
            if objective.gradient in ("stl", "dreg"):
                assert largest(of_guide) < 1e-10
            else:
                assert largest(of_guide) > 1e-2
            assert largest(found) > 1e-2  # that of the model is as ever


def law_the_model_notices_nothing(gradients):
    """For the parameters that only the model has, all kinds give one gradient with the same noise."""
    for make in (Separate, Chain):
        pair = make(7)
        for number in (1, 4):
            rows = []
            for kind in ("standard", "stl", "dreg"):
                torch.manual_seed(3)
                _, found = gradients(IWAE(number, gradient=kind), pair, pair.x)
                rows.append({name: value for name, value in found.items() if name not in pair.own})
            for row in rows[1:]:
                gap = {name: value - rows[0][name] for name, value in row.items()}
                assert largest(gap) < 1e-12 * largest(rows[0])


class Bounded(Program):
    """x ~ U(0, z): a draw below x has no density."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.tensor([1.0, 1.0]))
        self.x = torch.tensor([0.9, 0.2])

    def model(self, x):
        with pyro.plate("data", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            fn = dist.Uniform(0.0, z.abs() + 1e-3, validate_args=False)
            self.densities = fn.log_prob(x)
            pyro.sample("x", fn, obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", 2):
            pyro.sample("z", dist.Normal(self.loc, 0.5))


def law_draws_without_density_weigh_nothing(gradients):
    """Draws at which p(x | z) = 0 leave loss and gradient finite, and in all kinds the same loss."""
    losses = []
    for kind in ("standard", "stl", "dreg"):
        pair = Bounded()
        torch.manual_seed(0)
        loss, found = gradients(IWAE(20, gradient=kind), pair, pair.x)
        losses.append(loss.item())
        assert math.isfinite(losses[-1]) and found["loc"].isfinite().all() and found["loc"].all()
    assert losses == pytest.approx(losses[:1] * 3, rel=1e-12)
    assert pair.densities.isneginf().any(), "every draw has a density, and the law says nothing"


along = Paths.along


def first_site_alone(self, log_q):
    kept, self._points = self._points, dict(list(self._points.items())[:1])
    found = along(self, log_q)
    self._points = kept
    return found


LAWS = [
    (
        law_they_are_the_formulas,
        {"ours": gradients},
        FAULTS
        | SQUARE
        | {
            "second site forgotten": planted(gradients, Paths, along=first_site_alone),
            "weights of the next datum": planted(
                gradients, iwae, _spread=changed(lambda weights: weights.roll(1, 1))
            ),
            "mask forgotten": lambda objective, pair, x, mask=None: gradients(objective, pair, x),
            "standard for all": of_kind("standard"),
            "mean for sum": instead(lambda one: lambda *args: one(*args) / 4),
        },
    ),
    (
        law_at_the_posterior_nothing_is_left,
        {"ours": gradients, "formulas": by_hand},
        FAULTS | {"standard for all": of_kind("standard")},
    ),
    (
        law_the_model_notices_nothing,
        {"ours": gradients, "formulas": by_hand},
        {
            "weights squared for the model too": planted(
                gradients, iwae, _weighed=lambda w, log_density: (w**2 * log_density).sum()
            )
        },
    ),
    (
        law_draws_without_density_weigh_nothing,
        {"ours": gradients},
        {
            "zero times minus infinity": planted(
                gradients, iwae, _weighed=lambda w, log_density: (w * log_density).sum()
            )
        },
    ),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
