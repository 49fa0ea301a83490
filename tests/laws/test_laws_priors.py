"""Laws of learned priors: the divergence from a mixture, and the VampPrior.

A law is a function of one implementation; ``LAWS`` lists each with the true implementation and its planted mutants,
which must all fail. Identities are in float64 to 1e-10.
"""

import copy
import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal, MixturePrior, VampPrior
from pyro_dgm.models import gmvae
from pyro_dgm.nets import GatedMLP
from pyro_dgm.objectives import ELBO, log_weights
from tests.laws.listed import as_tests
from tests.laws.mixture_by_hand import D, K, by_hand

Z_LIMIT = 4.9  # standard errors: a false-alarm rate of 1e-6


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(10)


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
test_law_holds, test_law_catches_its_mutant = as_tests(LAWS)
