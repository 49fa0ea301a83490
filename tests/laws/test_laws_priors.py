"""Laws of learned priors: mixtures of diagonal normals, the divergence from them, and the VampPrior.

A law is a function of one implementation; ``LAWS`` lists each with the true implementation and its planted mutants,
which must all fail. Identities are in float64 to 1e-10; the float32 law states its own tolerance.
"""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal, DiagonalNormalMixture, MixturePrior, VampPrior
from pyro_dgm.models import gmvae
from pyro_dgm.nets import GatedMLP
from pyro_dgm.objectives import ELBO, log_weights

K, D = 7, 3
Z_LIMIT = 4.9  # standard errors: a false-alarm rate of 1e-6


def parameters(seed, *, batch=(), smallest=0.3):
    """Random logits, means and scales in float64; scales between one and two times ``smallest``."""
    torch.manual_seed(seed)
    logits, loc = torch.randn(*batch, K).double(), 2 * torch.randn(*batch, K, D).double()
    return logits, loc, smallest * (1 + torch.rand(*batch, K, D).double())


def by_hand(logits, loc, scale, z):
    """log sum_k pi_k prod_d N(z_d | mu_kd, s_kd^2), each factor written out."""
    residual = (z.unsqueeze(-2) - loc) / scale
    log_normal = (-0.5 * residual**2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
    return (log_normal + logits.log_softmax(-1)).logsumexp(-1)


# ---- log p(z): implementations of density(logits, loc, scale, z)


def density(logits, loc, scale, z):
    return DiagonalNormalMixture(logits, loc, scale).log_prob(z)


def expanded_density(logits, loc, scale, z):
    mixture = DiagonalNormalMixture(logits, loc, scale)
    return mixture.expand(z.shape[:-1]).log_prob(z)


def unnormalised_weights(logits, loc, scale, z):
    return by_hand(logits, loc, scale, z) + logits.logsumexp(-1)


def variance_for_scale(logits, loc, scale, z):
    return by_hand(logits, loc, scale**2, z)


def no_log_scale(logits, loc, scale, z):
    joint = dist.Normal(loc, scale).to_event(1).log_prob(z.unsqueeze(-2)) + scale.log().sum(-1)
    return (joint + logits.log_softmax(-1)).logsumexp(-1)


def mean_of_logs(logits, loc, scale, z):
    joint = dist.Normal(loc, scale).to_event(1).log_prob(z.unsqueeze(-2))
    return (joint * logits.softmax(-1)).sum(-1)


def wrong_cross_term(logits, loc, scale, z):
    return by_hand(logits, -loc, scale, z)


def weights_by_position(logits, loc, scale, z):
    """Right for equal weights only: the largest weight always goes to the first component."""
    return by_hand(logits.sort(-1, descending=True).values, loc, scale, z)


MUTANT_DENSITIES = {
    "unnormalised weights": unnormalised_weights,
    "variance for scale": variance_for_scale,
    "no log scale": no_log_scale,
    "mean of logs": mean_of_logs,
    "sign of the cross term": wrong_cross_term,
}


def law_density_is_that_of_torch_and_by_hand(density):
    """Equal to ``MixtureSameFamily`` and to the sum by hand, to 1e-10, for z with any leading shape."""
    for seed in range(3):
        logits, loc, scale = parameters(seed)
        theirs = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(logits=logits),
            torch.distributions.Independent(torch.distributions.Normal(loc, scale), 1),
        )
        for shape in ((), (5,), (4, 5), (2, 4, 5)):
            z = 3 * torch.randn(*shape, D).double()
            found = density(logits, loc, scale, z)
            assert found.shape == shape
            assert (found - by_hand(logits, loc, scale, z)).abs().max() < 1e-10
            assert (found - theirs.log_prob(z)).abs().max() < 1e-10


def law_density_is_normalised(density):
    """The sum over a grid of spacing 0.05 is one to 1e-6, for two dimensions and scales of at least 0.3."""
    torch.manual_seed(0)
    logits, loc, scale = torch.randn(K).double(), torch.randn(K, 2).double(), 0.3 + torch.rand(K, 2).double()
    axis = torch.arange(-12.0, 12.0, 0.05).double()
    total = density(logits, loc, scale, torch.cartesian_prod(axis, axis)).exp().sum() * 0.05**2
    assert abs(total - 1) < 1e-6


def law_components_have_no_order(density):
    """Components in another order give the same density, to 1e-10."""
    logits, loc, scale = parameters(0)
    order, z = torch.randperm(K), torch.randn(9, D).double()
    moved = density(logits[order], loc[order], scale[order], z)
    assert (density(logits, loc, scale, z) - moved).abs().max() < 1e-10


def law_float32_survives_small_scales(density):
    """With 500 components of scale 0.01 in 40 dimensions, draws have log p within 1e-4 of float64.

    Measured 8e-6 here, where the plain formula has 2e-5; the expansion in float32 is off by 2 nats.
    """
    torch.manual_seed(0)
    logits, loc = torch.randn(500).double(), 3 * torch.randn(500, 40).double()
    scale = 0.01 * (0.5 + torch.rand(500, 40).double())
    single = [part.float() for part in (logits, loc, scale)]
    z = DiagonalNormalMixture(*single).sample((200,))
    found = density(*single, z)
    assert found.dtype == torch.float32
    assert (found - by_hand(*(part.double() for part in single), z.double())).abs().max() < 1e-4


def expansion_in_float32(logits, loc, scale, z):
    precision = scale.square().reciprocal()
    quadratic = z.square() @ precision.T - 2 * z @ (loc * precision).T + (loc.square() * precision).sum(-1)
    log_normal = -0.5 * quadratic - scale.log().sum(-1) - 0.5 * loc.shape[-1] * math.log(2 * math.pi)
    return (log_normal + logits.log_softmax(-1)).logsumexp(-1)


def law_gradients_are_those_by_hand(density):
    """Gradients for weights, means, scales and z equal those of the sum by hand, to 1e-10 of the largest."""
    inputs = [part.requires_grad_() for part in (*parameters(1), torch.randn(5, D).double())]
    found = torch.autograd.grad(density(*inputs).sum(), inputs)
    for ours, truth in zip(found, torch.autograd.grad(by_hand(*inputs).sum(), inputs), strict=True):
        assert (ours - truth).abs().max() <= 1e-10 * truth.abs().max()


def law_batches_of_mixtures_broadcast(density):
    """Mixtures with a batch shape equal the sum by hand, mixture by mixture, to 1e-10."""
    logits, loc, scale = parameters(2, batch=(4,))
    z = torch.randn(6, 4, D).double()
    found = density(logits, loc, scale, z)
    for i in range(4):
        truth = by_hand(logits[i], loc[i], scale[i], z[:, i])
        assert (found[:, i] - truth).abs().max() < 1e-10


def first_mixture_for_all(logits, loc, scale, z):
    return by_hand(logits[0], loc[0], scale[0], z)


# ---- p(k | z): implementations of responsibilities(logits, loc, scale, z) -> (..., K)


def responsibilities(logits, loc, scale, z):
    return DiagonalNormalMixture(logits, loc, scale).responsibilities(z).probs


def without_the_weights(logits, loc, scale, z):
    return responsibilities(torch.zeros_like(logits), loc, scale, z)


def over_data(logits, loc, scale, z):
    joint = dist.Normal(loc, scale).to_event(1).log_prob(z.unsqueeze(-2)) + logits
    return joint.softmax(0)


def law_responsibilities_are_bayes_rule(responsibilities):
    """p(k | z) = pi_k p(z | k) / p(z), to 1e-10, and they sum to one."""
    for seed in range(3):
        logits, loc, scale = parameters(seed, smallest=1.0)
        z = torch.randn(9, D).double()
        found = responsibilities(logits, loc, scale, z)
        assert (found.sum(-1) - 1).abs().max() < 1e-10
        component = torch.stack(
            [dist.Normal(m, s).to_event(1).log_prob(z) for m, s in zip(loc, scale, strict=True)], -1
        )
        truth = (logits.log_softmax(-1) + component - by_hand(logits, loc, scale, z)[:, None]).exp()
        assert (found - truth).abs().max() < 1e-10


# ---- draws: implementations of draw(mixture, num) -> (num, D)


def draw(mixture, num):
    return mixture.sample((num,))


def draw_expanded(mixture, num):
    return mixture.expand((num,)).sample()


def draw_components_alike(mixture, num):
    return draw(DiagonalNormalMixture(torch.zeros(K).double(), *mixture._single[1:]), num)


def draw_means(mixture, num):
    return mixture._single[1][mixture.mixture_distribution.sample((num,))]


def law_draws_have_the_moments(draw):
    """Mean and variance of each dimension over 20,000 draws, within 4.9 standard errors each."""
    logits, loc, scale = parameters(4)
    mixture, weights = DiagonalNormalMixture(logits, loc, scale), logits.softmax(-1)[:, None]
    mean = (weights * loc).sum(0)
    variance = (weights * (scale**2 + (loc - mean) ** 2)).sum(0)
    assert (mixture.mean - mean).abs().max() < 1e-10
    assert (mixture.variance - variance).abs().max() < 1e-10
    z = draw(mixture, 20_000)
    for values, truth in ((z, mean), ((z - mean) ** 2, variance)):
        error = values.std(0) / math.sqrt(len(values))
        assert ((values.mean(0) - truth).abs() < Z_LIMIT * error).all()


# ---- KL(q || p) of a GMVAE: implementations of divergence(vae, x, num) -> one-sample estimates


def gmvae_of_one_latent(seed):
    """A GMVAE with random prior whose decoder ignores z, so that the bound is a constant less the divergence."""
    torch.manual_seed(seed)
    vae = gmvae((1, 2, 2), 1, num_components=4, hidden=(5,)).double()
    with torch.no_grad():
        for parameter in vae.prior.parameters():
            parameter.copy_(2 * torch.randn_like(parameter))
        for parameter in vae.decoder.parameters():
            parameter.zero_()
    return vae, torch.tensor([1.0, 0.0, 1.0, 1.0]).double().reshape(1, 1, 2, 2)


def divergence(vae, x, num):
    """By the objective, on 30 copies of the datum at a time: each of the 4 pixels costs log 2."""
    objective, copies = ELBO(), x.expand(30, *x.shape[1:])
    means = [objective(vae.model, vae.guide, copies) / len(copies) for _ in range(num // len(copies))]
    return torch.stack(means) - 4 * math.log(2)


def divergence_by_weights(vae, x, num):
    return -log_weights(vae.model, vae.guide, x, num_particles=num)[:, 0] - 4 * math.log(2)


def estimates(log_ratio):
    """Estimates of E_q log_ratio(q, p, z)."""

    def divergence(vae, x, num):
        q, p = vae.encode(x), vae.prior()
        return log_ratio(q, p, q.sample((num,)))[:, 0]

    return divergence


def reverse_direction(vae, x, num):
    q, p = vae.encode(x), vae.prior()
    z = p.sample((num, 1))
    return (p.log_prob(z) - q.log_prob(z))[:, 0]


def mean_over_components(q, p, z):
    """The divergence from a component drawn from pi: an upper bound by Jensen's inequality."""
    joint = p.component_distribution.log_prob(z.unsqueeze(-2))
    return q.log_prob(z) - (joint * p.mixture_distribution.probs).sum(-1)


def law_divergence_is_the_integral(divergence):
    """The mean of 3,000 one-sample estimates is the integral of q log q / p, within 4.9 standard errors.

    The objective's come as 100 means of 30. The integral is by the
    trapezoidal rule, on 20,001 points within 12 standard deviations of q's mean.
    """
    for seed in range(3):
        vae, x = gmvae_of_one_latent(seed)
        with torch.no_grad():
            q, p = vae.encode(x), vae.prior()
            unit = torch.linspace(-12, 12, 20_001).double()
            z = (q.mean + q.stddev * unit[:, None])[:, None]  # (grid, 1, 1)
            log_q = q.log_prob(z)
            integrand = log_q.exp() * (log_q - p.log_prob(z))
            truth = torch.trapezoid(integrand[:, 0], z[:, 0, 0])
            found = divergence(vae, x, 3_000)
        assert (found.mean() - truth).abs() < Z_LIMIT * found.std() / math.sqrt(len(found))
        assert found.std() > 1e-3, "estimates without noise would say nothing"


# ---- VampPrior: implementations of density(prior, encoder, posterior, z) -> log p(z)

SHAPE = (1, 2, 3)


def vamp(seed, *, learn_weights=False):
    torch.manual_seed(seed)
    encoder = nn.Sequential(nn.Flatten(-3), GatedMLP(6, (8,), 5))
    posterior = DiagonalNormal(5, D)
    prior = VampPrior(
        encoder, posterior, data_shape=SHAPE, num_components=K, init_std=0.7, learn_weights=learn_weights
    ).double()
    if learn_weights:
        nn.init.normal_(prior.logits)
    return prior, encoder, posterior


def vamp_density(prior, encoder, posterior, z):
    return prior().log_prob(z)


def outside_the_unit_interval(prior, encoder, posterior, z):
    return mixture_of_posteriors(posterior(encoder(prior.v)), prior.logits, z)


def copied_networks(prior, encoder, posterior, z):
    encoder, posterior = copy.deepcopy((encoder, posterior))
    return mixture_of_posteriors(posterior(encoder(prior.pseudo_inputs)), prior.logits, z)


def detached_inputs(prior, encoder, posterior, z):
    return mixture_of_posteriors(posterior(encoder(prior.pseudo_inputs.detach())), prior.logits, z)


def sum_for_mean(prior, encoder, posterior, z):
    return vamp_density(prior, encoder, posterior, z) + math.log(K)


def equal_weights(prior, encoder, posterior, z):
    return mixture_of_posteriors(posterior(encoder(prior.pseudo_inputs)), 0 * prior.logits, z)


def mixture_of_posteriors(q, logits, z):
    return by_hand(logits, q.base_dist.loc, q.base_dist.scale, z)


def law_prior_is_the_mixture_of_posteriors(density):
    """log p(z) = log sum_k pi_k q(z | u_k), each q evaluated by itself, to 1e-10."""
    for learn_weights in (False, True):
        prior, encoder, posterior = vamp(0, learn_weights=learn_weights)
        z = torch.randn(4, 5, D).double()
        u = prior.v.clamp(0, 1)
        assert (u != prior.v).any(), "some pseudo-inputs should start outside [0, 1], or the law says less"
        each = torch.stack([posterior(encoder(u_k)).log_prob(z) for u_k in u], -1)
        truth = (each + prior.logits.log_softmax(-1)).logsumexp(-1)
        assert (density(prior, encoder, posterior, z) - truth).abs().max() < 1e-10


def law_gradient_reaches_inputs_and_networks(density):
    """Each pseudo-input, and every parameter of encoder and posterior, has a gradient that is finite and not zero."""
    prior, encoder, posterior = vamp(1)
    density(prior, encoder, posterior, torch.randn(50, D).double()).sum().backward()
    assert prior.v.grad is not None
    assert (prior.v.grad.flatten(1).norm(dim=1) > 0).all()
    for parameter in (*encoder.parameters(), *posterior.parameters()):
        assert parameter.grad is not None and 0 < parameter.grad.norm() < math.inf


def test_gradient_of_a_pseudo_input_stops_at_the_edge():
    """A clamped element gets none; the others do."""
    prior, *_ = vamp(2)
    prior().log_prob(torch.randn(50, D).double()).sum().backward()
    inside = (prior.v > 0) & (prior.v < 1)
    assert torch.equal(prior.v.grad != 0, inside)


def test_mixture_prior_starts_near_a_standard_normal():
    """Equal weights, scales of one; means of mean zero and variance one within 4.9 standard errors."""
    torch.manual_seed(0)
    prior = MixturePrior(40, 500)()
    loc = prior.component_distribution.base_dist.loc
    assert torch.allclose(prior.component_distribution.base_dist.scale, torch.ones(()))
    assert torch.allclose(prior.mixture_distribution.probs, torch.tensor(1 / 500))
    assert loc.mean().abs() < Z_LIMIT / math.sqrt(loc.numel())
    assert (loc.var() - 1).abs() < Z_LIMIT * math.sqrt(2 / loc.numel())


LAWS = [
    (
        law_density_is_that_of_torch_and_by_hand,
        {"ours": density, "expanded": expanded_density},
        MUTANT_DENSITIES | {"weights by position": weights_by_position},
    ),
    (
        law_density_is_normalised,
        {"ours": density},
        {name: MUTANT_DENSITIES[name] for name in ("unnormalised weights", "no log scale", "mean of logs")},
    ),
    (law_components_have_no_order, {"ours": density}, {"weights by position": weights_by_position}),
    (law_float32_survives_small_scales, {"ours": density}, {"float32": expansion_in_float32}),
    (law_gradients_are_those_by_hand, {"ours": density}, MUTANT_DENSITIES),
    (law_batches_of_mixtures_broadcast, {"ours": density}, {"first for all": first_mixture_for_all}),
    (
        law_responsibilities_are_bayes_rule,
        {"ours": responsibilities},
        {"without the weights": without_the_weights, "over data": over_data},
    ),
    (
        law_draws_have_the_moments,
        {"ours": draw, "expanded": draw_expanded},
        {"components alike": draw_components_alike, "means": draw_means},
    ),
    (
        law_divergence_is_the_integral,
        {
            "ELBO": divergence,
            "weights": divergence_by_weights,
            "by hand": estimates(lambda q, p, z: q.log_prob(z) - p.log_prob(z)),
        },
        {
            "reverse direction": reverse_direction,
            "entropy sign": estimates(lambda q, p, z: -q.log_prob(z) - p.log_prob(z)),
            "standard normal": estimates(
                lambda q, p, z: q.log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
            ),
            "mean over components": estimates(mean_over_components),
        },
    ),
    (
        law_prior_is_the_mixture_of_posteriors,
        {"ours": vamp_density},
        {
            "outside [0, 1]": outside_the_unit_interval,
            "sum for mean": sum_for_mean,
            "equal weights": equal_weights,
        },
    ),
    (
        law_gradient_reaches_inputs_and_networks,
        {"ours": vamp_density},
        {"copied networks": copied_networks, "detached inputs": detached_inputs},
    ),
]


def cases(which):
    return [
        pytest.param(law, implementation, id=f"{law.__name__}-{name}")
        for law, *parts in LAWS
        for name, implementation in parts[which].items()
    ]


@pytest.mark.parametrize(("law", "implementation"), cases(0))
def test_law_holds(law, implementation):
    torch.manual_seed(10)
    law(implementation)


@pytest.mark.parametrize(("law", "mutant"), cases(1))
def test_law_catches_its_mutant(law, mutant):
    torch.manual_seed(10)
    with pytest.raises(AssertionError):
        law(mutant)
