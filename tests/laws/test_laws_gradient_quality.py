"""Laws of gradient quality, each with the mutants that it must catch.

A law is a function of one implementation of ``measure(program, x, objective, reference, repeats) -> networks``, where
``networks`` gives a ``NetworkGradient`` by name; ``LAWS`` lists each law with the true implementations and its planted
mutants. A law that a mutant passes is a defect of the law.
Statistical laws compare with 4.9 standard errors, a false-alarm rate of 1e-6 each.
"""

import dataclasses
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import kl_divergence

from pyro_dgm.diagnostics.gradient_noise import gradient_quality
from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO
from pyro_dgm.program import Program
from tests.laws.listed import as_tests

D, L = 6, 3
Z_LIMIT = 4.9


class Wide(nn.Module):
    """Diagonal normal, 1.6 times as wide as the posterior's marginals: its weights have a finite variance."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(L, D))
        self.log_scale = nn.Parameter(torch.zeros(L))

    def forward(self, x):
        return dist.Normal(x @ self.weight.T, self.log_scale.exp()).to_event(1)


def ppca(error):
    """A pair whose guide is ``error`` off in its weights, and one datum."""
    torch.manual_seed(0)
    program = PPCA(D, L, posterior=Wide()).double()
    with torch.no_grad():
        program.loadings.normal_().mul_(0.7)
        program.mean.zero_()
        exact = program.exact_posterior(torch.eye(D, dtype=torch.float64))
        program.posterior.weight.copy_(exact.mean.T + error * torch.randn(L, D))
        program.posterior.log_scale.copy_((1.6 * exact.stddev[0]).log())
        return program, program.model(n=1)


class Known(Program):
    """Forty parameters u whose gradient is normal with mean ``mean[u]`` and standard deviation ``scale[u]``."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.ones(40, dtype=torch.float64))
        self.mean = torch.linspace(-1.0, 2.0, 40, dtype=torch.float64)
        self.scale = torch.linspace(0.5, 1.5, 40, dtype=torch.float64)

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(self.value.sum(), 1.0), obs=x)

    def loss(self, model, guide, x):
        return (self.value * (self.mean + self.scale * torch.randn_like(self.mean))).sum()

    def exact(self, model, guide, x):
        return (self.value * self.mean).sum()


def measured(program, x, objective, reference, repeats):
    return gradient_quality(
        program.model,
        program.guide,
        x,
        objective=objective,
        reference=reference,
        num_repeats=repeats,
        reference_repeats=None if reference is None else 2,
    ).networks


def by_hand(
    program, x, objective, reference, repeats, *, power=1, of_mean=False, absolute=False, within=False
):
    """The same numbers from all gradients at once, so that a mutant differs from the truth in one place."""

    def gradients(loss, number):
        program.zero_grad()
        rows = []
        for _ in range(number):
            loss(program.model, program.guide, x).backward()
            rows.append(
                {
                    name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
                    for name, leaf in program.named_parameters()
                }
            )
            program.zero_grad()
        return rows

    drawn = gradients(objective, repeats)
    wanted = gradients(reference or objective, 2 if reference else repeats)
    networks = {}
    for role in ("model", "guide"):
        names = [name for name in drawn[0] if name.startswith("posterior.") == (role == "guide")]
        if not names:
            continue
        g, r = (
            torch.stack([torch.cat([row[name].flatten() for name in names]) for row in rows])
            for rows in (drawn, wanted)
        )
        mean, scale = (g.abs() if absolute else g).mean(0), g.std(0)
        if of_mean:
            scale = scale / math.sqrt(repeats)
        if within:  # as if the parameters were the repeats
            scale = g.std(1).mean().expand_as(mean)
        along = g @ g.mean(0)
        target = r.mean(0)
        networks[role] = Numbers(
            signal_to_noise=(mean.abs() / scale**power).mean().item(),
            signal_to_noise_along_mean=(along.mean() / along.std() ** power).item(),
            variance=(scale**2).sum().item(),
            relative_bias=((mean - target).norm() / target.norm()).item(),
            relative_bias_of_noise=math.sqrt(
                ((scale**2).sum() / repeats + r.var(0).sum() / len(r)) / target.norm() ** 2
            ),
            cosine=(mean @ target / mean.norm() / target.norm()).item(),
            relative_norm=(mean.norm() / target.norm()).item(),
        )
    return networks


@dataclasses.dataclass
class Numbers:
    signal_to_noise: float
    signal_to_noise_along_mean: float
    variance: float
    relative_bias: float
    relative_bias_of_noise: float
    cosine: float
    relative_norm: float


def mutant(**change):
    return lambda *arguments: by_hand(*arguments, **change)


def instead(change):
    """An estimator of another gradient than the one that was asked for."""

    def measure(program, x, objective, reference, repeats):
        return measured(program, x, change(objective), reference, repeats)

    return measure


# ---- the laws


def law_moments_of_a_known_gradient(measure):
    """Ratio, ratio along the mean, variance and bias of a normal gradient, within 4.9 standard errors."""
    program, repeats = Known(), 2000
    found = measure(program, torch.zeros(3), program.loss, program.exact, repeats)["model"]
    ratio = program.mean.abs() / program.scale
    # A ratio has variance (1 + ratio^2 / 2) / R; the absolute value at zero only narrows it.
    error = (1 + ratio**2 / 2).sum().div(repeats).sqrt().item() / 40
    assert (
        abs(found.signal_to_noise - ratio.mean().item()) < Z_LIMIT * error + math.sqrt(1 / repeats) * 2 / 40
    )
    along = (program.mean**2).sum() / (program.mean**2 * program.scale**2).sum().sqrt()
    # Half of the repeats; the other half's direction is off by less than one part in a thousand.
    assert (
        abs(found.signal_to_noise_along_mean / along - 1)
        < Z_LIMIT * math.sqrt((1 / along**2 + 0.5) / (repeats / 2)) + 1e-3
    )
    total = (program.scale**2).sum()
    assert abs(found.variance - total) < Z_LIMIT * (2 * program.scale**4).sum().div(repeats).sqrt()
    noise = (total / repeats).sqrt() / program.mean.norm()
    assert abs(found.relative_bias_of_noise / noise - 1) < 0.05
    assert found.relative_bias < 2 * noise  # a sum of 40 squares, so less than twice its root mean square
    assert found.cosine > 0.99


def law_the_gradient_of_the_elbo_is_that_of_its_closed_form(measure):
    """For a wrong guide the reference is log p(x) - KL(q || p(z | x)): no bias beyond 4.9 times that of noise."""
    program, x = ppca(0.3)
    x = x.expand(64, D)

    def exact(model, guide, x):
        q = program.posterior(x)
        dense = dist.MultivariateNormal(q.mean, torch.diag_embed(q.variance))
        return kl_divergence(dense, program.exact_posterior(x)).sum() - program.log_prob(x).sum()

    found = measure(program, x, ELBO(), exact, 400)
    for role in ("model", "guide"):
        one = found[role]
        assert one.relative_bias < Z_LIMIT * one.relative_bias_of_noise
        assert one.relative_bias_of_noise < 0.02, "more noise than the law can see through"
        assert abs(one.relative_norm - 1) < Z_LIMIT * one.relative_bias_of_noise
        assert one.cosine > 0.98


def slopes(measure, particles, repeats):
    """Change of the ratio by decade of particles. Many data raise it above its noise floor."""
    program, _ = ppca(0.1)
    x = program.model(n=256).detach()
    ratios = [
        measure(program, x, IWAE(number), None, count)
        for number, count in zip(particles, repeats, strict=True)
    ]
    decades = math.log10(particles[-1] / particles[0])
    return {
        role: math.log10(ratios[-1][role].signal_to_noise / ratios[0][role].signal_to_noise) / decades
        for role in ("model", "guide")
    }


def law_more_particles_help_the_model_and_harm_the_guide(measure):
    """Signal-to-noise of IWAE rises with K for the model and falls for the guide, in one decade: 0.5 +- 0.2 each.

    Over 12 seeds of the noise the slopes were 0.47 +- 0.01 and -0.51 +- 0.04, of which 4.9 standard errors are 0.2;
    the law below has the accuracy that it takes to tell a slope of 0.5 within 0.15.
    """
    assert slopes(measure, (10, 100), (150, 200)) == pytest.approx({"model": 0.5, "guide": -0.5}, abs=0.2)


def law_they_do_so_as_the_square_root(measure):
    """As K^1/2 for the model and as K^-1/2 for the guide, from 10 to 1,000 particles: slopes within 0.15.

    With half of these repeats and two seeds the slopes were 0.49, 0.49 and -0.48, -0.44.
    """
    assert slopes(measure, (10, 1000), (400, 400)) == pytest.approx({"model": 0.5, "guide": -0.5}, abs=0.15)


TRUTH = {"gradient_quality": measured, "by hand": by_hand}
LAWS = [
    (
        law_moments_of_a_known_gradient,
        TRUTH,
        {
            "variance for standard deviation": mutant(power=2),
            "standard error for standard deviation": mutant(of_mean=True),
            "absolute gradients": mutant(absolute=True),
            "spread over parameters": mutant(within=True),
        },
    ),
    (
        law_the_gradient_of_the_elbo_is_that_of_its_closed_form,
        TRUTH | {"Pyro": instead(lambda objective: PyroELBO(pyro.infer.Trace_ELBO()))},
        {
            "another bound": instead(lambda objective: IWAE(10)),
            "a tenth too long": instead(lambda objective: lambda *args: 1.1 * objective(*args)),
            "absolute gradients": mutant(absolute=True),
            "ascent for descent": instead(lambda objective: lambda *args: -objective(*args)),
        },
    ),
    (
        law_more_particles_help_the_model_and_harm_the_guide,
        {"gradient_quality": measured},
        {
            "mean of ELBOs": instead(lambda objective: ELBO(objective.num_particles)),
            "variance for standard deviation": mutant(power=2),
            "always ten particles": instead(lambda objective: IWAE(10)),
        },
    ),
    (
        law_they_do_so_as_the_square_root,
        {"gradient_quality": measured},
        {"always ten particles": instead(lambda objective: IWAE(10))},
    ),
]


def takes_minutes(law, name):
    return law is law_they_do_so_as_the_square_root or (
        law is law_more_particles_help_the_model_and_harm_the_guide
        and name in ("always ten particles", "variance for standard deviation")
    )


test_law_holds, test_law_catches_mutant = as_tests(LAWS, slow=takes_minutes)
