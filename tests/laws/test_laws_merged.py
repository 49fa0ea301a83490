"""Laws of the pieces that LadderVAE has by default, and of the product of normals that its guide is made of.

A law is a function of one way to make a thing; ``LAWS`` lists each law with the true ways and the mutants that it must
catch. All laws are exact, in float64.
"""

from functools import partial

import pyro.distributions as dist
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal, MergedNormal, NormalObservation, merged_normal
from pyro_dgm.models import LadderVAE
from pyro_dgm.objectives import log_weights
from pyro_dgm.objectives.divergence import site_divergences
from tests.laws.linear_chain import Chain, TakeLatent
from tests.laws.listed import as_tests

# ---- laws of the pieces: functions that make a program


def law_default_pieces_are_exact_where_the_chain_is_diagonal(make):
    """The default conditionals and the merging by precision are the exact posterior of independent chains."""
    for num_layers in (1, 2, 4):
        program, x, truth = make(num_layers)
        torch.manual_seed(0)
        with torch.no_grad():
            log_w = log_weights(program.model, program.guide, x, num_particles=5)
        assert (log_w - truth).abs().max() < 1e-8


def diagonal_ladder(num_layers, *, merged=MergedNormal, program=LadderVAE):
    """Independent chains of three units in LadderVAE with its own pieces, data, and log p(x)."""
    torch.manual_seed(num_layers)
    chain = Chain(num_layers, num_layers, dims=[3] * (num_layers + 1))
    chain.slopes = [torch.diag(slope.diagonal()) for slope in chain.slopes]
    chain.noises = [torch.diag(noise.diagonal()) for noise in chain.noises]
    chain.noises[-1] = torch.eye(3).double()
    chain.shifts[-1] = torch.zeros(3).double()
    chain.messages = chain._messages()

    class Repeat(nn.Module):
        def forward(self, x):
            return [x] * num_layers

    conditionals = [DiagonalNormal(3, 3) for _ in range(num_layers - 1)]
    posteriors = [merged(3, 3) for _ in range(num_layers)]
    decoder = nn.Sequential(nn.Linear(3, 3), nn.Unflatten(-1, (1, 3)))
    program = program(
        (3,),
        [3] * num_layers,
        width=3,
        encoder=Repeat(),
        blocks=[TakeLatent() for _ in range(num_layers)],
        conditionals=conditionals,
        posteriors=posteriors,
        decoder=decoder,
        observation=NormalObservation((3,)),
    ).double()
    with torch.no_grad():
        for layer, piece in enumerate(conditionals, 1):
            fill(piece, chain.slopes[layer], chain.shifts[layer], chain.noises[layer].diagonal().sqrt())
        for piece, (j, g, c) in zip(posteriors, chain.messages, strict=True):
            piece.head.weight.copy_(torch.cat([g, torch.zeros_like(g)]))
            piece.head.bias.copy_(torch.cat([c, j.diagonal().expm1().log()]))
        decoder[0].weight.copy_(chain.slopes[0])
        decoder[0].bias.copy_(chain.shifts[0])
        scale = chain.noises[0].diagonal().sqrt()
        program.observation.log_scale.copy_((scale - program.observation.scale_floor).log())
    loc, cov = chain.shifts[-1], chain.noises[-1]
    for slope, shift, noise in zip(
        chain.slopes[::-1], chain.shifts[-2::-1], chain.noises[-2::-1], strict=True
    ):
        loc, cov = slope @ loc + shift, slope @ cov @ slope.T + noise
    return program, chain.x, dist.MultivariateNormal(loc, cov).log_prob(chain.x)


def fill(piece, slope, shift, scale):
    """Sets a DiagonalNormal to Normal(slope h + shift, scale)."""
    piece.head.weight.copy_(torch.cat([slope, torch.zeros_like(slope)]))
    piece.head.bias.copy_(torch.cat([shift, (scale - piece.scale_floor).expm1().log()]))


def merged_by(merge):
    """MergedNormal with another product."""

    class Mutant(MergedNormal):
        def forward(self, p, d):
            shift, raw = self.head(d).chunk(2, dim=-1)
            return merge(p, shift, nn.functional.softplus(raw))

    return Mutant


# ---- laws of the product: functions of ``merge(p, shift, precision) -> distribution``


def law_product_is_the_density_of_the_product(merge):
    """log q - log p - (eta z - tau z^2 / 2) is one constant for each datum, whatever z; also at small scales."""
    torch.manual_seed(0)
    for smallest in (1.0, 1e-3):
        loc, scale = torch.randn(6, 3).double(), smallest * (torch.rand(6, 3).double() + 0.1)
        shift, precision = torch.randn(6, 3).double() / smallest, torch.rand(6, 3).double() / smallest**2
        p = dist.Normal(loc, scale).to_event(1)
        z = torch.randn(20, 6, 3).double()
        factor = (shift * z - 0.5 * precision * z**2).sum(-1)
        difference = merge(p, shift, precision).log_prob(z) - p.log_prob(z) - factor
        assert difference.std(0).max() < 1e-12 * p.log_prob(z).abs().max()


def as_normals(p, shift, precision):
    """Locs and scales of both factors."""
    return p.base_dist.loc, p.base_dist.scale, shift / precision, precision.rsqrt()


def sum_of_scales(p, shift, precision):
    """Variances add, as for a sum of independent variables; the loc is right."""
    _, s, _, t = as_normals(p, shift, precision)
    return dist.Normal(merged_normal(p, shift, precision).mean, (s**2 + t**2).sqrt()).to_event(1)


def swapped_weights(p, shift, precision):
    """Each loc counts with its own variance."""
    a, s, b, t = as_normals(p, shift, precision)
    return dist.Normal((a * s**2 + b * t**2) / (s**2 + t**2), s * t / (s**2 + t**2).sqrt()).to_event(1)


def weights_of_scales(p, shift, precision):
    """Precisions are inverse scales, not inverse squares."""
    a, s, b, t = as_normals(p, shift, precision)
    return dist.Normal((a * t + b * s) / (s + t), s * t / (s + t)).to_event(1)


PRODUCT_MUTANTS = {f.__name__: f for f in (sum_of_scales, swapped_weights, weights_of_scales)}


def test_a_flat_factor_leaves_the_prior_and_two_like_factors_halve_the_variance():
    p = dist.Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])).to_event(1)
    flat = merged_normal(p, torch.zeros(2), torch.zeros(2))
    assert torch.equal(flat.mean, p.mean)
    assert torch.equal(flat.base_dist.scale, p.base_dist.scale)
    twice = merged_normal(p, p.mean / p.variance, 1 / p.variance)
    assert torch.allclose(twice.mean, p.mean)
    assert torch.allclose(twice.variance, p.variance / 2)


def law_a_guide_that_hears_nothing_is_the_prior(program):
    """Where q-hat is flat, q is p at every layer of the default networks: both go down one path."""
    torch.manual_seed(0)
    ladder = program((5,), (4, 3, 2), width=8).double()
    with torch.no_grad():
        for posterior in ladder.posteriors:
            posterior.head.weight.zero_()
            posterior.head.bias.zero_().chunk(2)[1].fill_(-100.0)  # a precision of 4e-44
    found = site_divergences(ladder.model, ladder.guide, torch.ones(4, 5).double(), num_particles=20)
    assert max(site.per_datum.abs().max().item() for site in found.values()) < 1e-10


class GuideOfItsOwnPath(LadderVAE):
    """h of the guide forgets the layers above."""

    def _top_down(self, take, features=None):
        h, p = self.top, self.prior()
        for i in reversed(range(len(self.blocks))):
            if i < len(self.conditionals):
                p = self.conditionals[i](h)
            z = take(f"z{i + 1}", p if features is None else self.posteriors[i](p, features[i]))
            h = self.blocks[i](h if features is None else self.top, z)
        return h


LAWS = [
    (
        law_default_pieces_are_exact_where_the_chain_is_diagonal,
        {"LadderVAE": diagonal_ladder},
        {
            name: partial(diagonal_ladder, merged=merged_by(product))
            for name, product in PRODUCT_MUTANTS.items()
        },
    ),
    (law_product_is_the_density_of_the_product, {"ours": merged_normal}, PRODUCT_MUTANTS),
    (law_a_guide_that_hears_nothing_is_the_prior, {"LadderVAE": LadderVAE}, {"own path": GuideOfItsOwnPath}),
]
test_law_holds, test_law_catches_mutant = as_tests(LAWS)
