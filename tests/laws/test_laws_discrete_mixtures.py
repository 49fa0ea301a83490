"""Laws of distributions of grey levels with several modes: masses that sum to one, and the logistic mixture by hand.

In float64 over all 256 and all 65,536 values, at random parameters of several scales. A mutant leaves the tails of the
darkest and the brightest level out, forgets that weights are normalised, or counts a level too few.
"""

import torch
from pyro.distributions import Categorical, MixtureSameFamily

from pyro_dgm.distributions import DiscretizedLogisticMixtureObservation, GridCategorical
from pyro_dgm.distributions.discretized_logistic import DiscretizedLogistic
from tests.laws.listed import as_tests

SCALES = (0.0, 1.0, 5.0, 30.0)


def mixture(levels, *, component=DiscretizedLogistic):
    """A function from a scale of parameters to a mixture of five components."""

    def made(scale):
        observation = DiscretizedLogisticMixtureObservation((1,), levels, num_components=5).double()
        raw = scale * torch.randn(3, 15, 1, dtype=torch.float64)
        p = observation(raw).base_dist
        logistic = p.component_distribution
        components = component(logistic.loc, logistic.scale, levels=levels)
        return MixtureSameFamily(p.mixture_distribution, components), levels

    return made


def categorical(levels):
    def made(scale):
        return GridCategorical(scale * torch.randn(3, 1, levels, dtype=torch.float64)), levels

    return made


class WithoutTails(DiscretizedLogistic):
    """The darkest and the brightest level have the width of the others."""

    def log_prob(self, value):
        steps = self.levels - 1
        above, below = ((value + s * 0.5 / steps - self.loc) / self.scale for s in (1, -1))
        return (torch.sigmoid(above) - torch.sigmoid(below)).clamp(min=1e-300).log()


class Unnormalised(MixtureSameFamily):
    def log_prob(self, value):
        log_weights = self.mixture_distribution.logits + 0.01
        return (self.component_distribution.log_prob(value[..., None]) + log_weights).logsumexp(-1)


def unnormalised(levels):
    def made(scale):
        p, _ = mixture(levels)(scale)
        return Unnormalised(p.mixture_distribution, p.component_distribution), levels

    return made


def a_level_less(make):
    def made(scale):
        p, levels = make(scale)
        return p, levels - 1

    return made


def masses_sum_to_one(make):
    for seed, scale in enumerate(SCALES):
        torch.manual_seed(seed)
        p, levels = make(scale)
        grid = torch.arange(levels, dtype=torch.float64) / (p_steps(p))
        total = p.log_prob(grid[:, None, None].expand(-1, *p.batch_shape)).logsumexp(0)
        assert total.abs().max() < 1e-10


def p_steps(p):
    component = getattr(p, "component_distribution", p)
    return component.levels - 1


def the_mass_is_the_sum_of_the_components(make):
    """p(k) = sum_j pi_j [F_j(k + 1/2) - F_j(k - 1/2)], by distribution functions."""
    for seed in range(3):
        torch.manual_seed(seed)
        p, levels = make(1.0)
        steps, logistic = levels - 1, p.component_distribution
        k = torch.randint(1, steps, (50, *p.batch_shape)).double()  # neither end
        edges = [(k[..., None] + half) / steps for half in (0.5, -0.5)]
        above, below = (torch.sigmoid((edge - logistic.loc) / logistic.scale) for edge in edges)
        by_hand = (p.mixture_distribution.probs * (above - below)).sum(-1)
        assert ((p.log_prob(k / steps).exp() - by_hand).abs() < 1e-13).all()


class Wider(DiscretizedLogistic):
    def log_prob(self, value):
        return super().log_prob(value) + 1e-6


TRUE = {"256": mixture(256), "65536": mixture(65536)}
test_law_holds, test_law_catches_mutant = as_tests(
    [
        (
            masses_sum_to_one,
            {**TRUE, "categorical": categorical(256)},
            {
                "without_tails": mixture(256, component=WithoutTails),
                "without_tails_of_16_bits": mixture(65536, component=WithoutTails),
                "unnormalised": unnormalised(256),
                "a_level_less": a_level_less(categorical(256)),
            },
        ),
        (
            the_mass_is_the_sum_of_the_components,
            TRUE,
            {"unnormalised": unnormalised(256), "wider": mixture(256, component=Wider)},
        ),
    ]
)


def test_float32_sums_to_one_within_what_is_stated():
    """In float32: 1e-5 over 256 levels, 2e-3 over 65,536 (an edge of a bin is known to 6e-8 of 1.5e-5)."""
    for levels, tolerance in ((256, 1e-5), (65536, 2e-3)):
        worst = 0.0
        for seed in range(5):
            torch.manual_seed(seed)
            observation = DiscretizedLogisticMixtureObservation((1,), levels, num_components=5)
            p = observation(torch.randn(3, 15, 1)).base_dist
            grid = (torch.arange(levels, dtype=torch.float64) / (levels - 1)).float()
            total = p.log_prob(grid[:, None, None].expand(-1, 3, 1)).double().logsumexp(0)
            worst = max(worst, total.abs().max().item())
        assert worst < tolerance


def test_a_categorical_law_of_torch():
    torch.manual_seed(0)
    logits = torch.randn(4, 7, dtype=torch.float64)
    k = torch.randint(7, (5, 4))
    ours, theirs = GridCategorical(logits), Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(k / 6), theirs.log_prob(k), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.mean, (theirs.probs * torch.arange(7) / 6).sum(-1))
