"""Laws of the latent pieces and of unnormalised distributions."""

from __future__ import annotations

import copy
import math

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor, nn
from torch.distributions import constraints, kl_divergence

from pyro_dgm.distributions import DiagonalNormal, Energy, StandardNormal, Unnormalized
from pyro_dgm.errors import IncompatibleModel, InvalidInput


def test_the_prior_is_standard_normal_and_follows_its_module() -> None:
    prior = StandardNormal(3)
    assert prior().event_shape == (3,) and prior().batch_shape == ()
    assert list(prior.parameters()) == [] and prior.state_dict() == {}
    z = torch.randn(5, 3, dtype=torch.float64)
    by_hand = -0.5 * z.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    torch.testing.assert_close(prior.double()().log_prob(z), by_hand)
    assert prior().sample().dtype == torch.float64
    assert prior.bfloat16()().sample().dtype == torch.float32
    assert copy.deepcopy(prior)().expand((2, 4)).rsample().shape == (2, 4, 3)


def test_the_posterior_is_its_formula() -> None:
    posterior = DiagonalNormal(4, 3, scale_floor=0.1).double()
    h, z = torch.randn(2, 5, 4, dtype=torch.float64), torch.randn(2, 5, 3, dtype=torch.float64)
    loc, raw = posterior.head(h)[..., :3], posterior.head(h)[..., 3:]
    scale = 0.1 + torch.log1p(raw.exp())
    by_hand = -0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(posterior(h).log_prob(z), by_hand.sum(-1))
    looped = [[posterior(h[i, j]).log_prob(z[i, j]).item() for j in range(5)] for i in range(2)]
    torch.testing.assert_close(posterior(h).log_prob(z), torch.tensor(looped, dtype=torch.float64))


@pytest.mark.parametrize("size", [0.0, 1.0, 1e3, 1e6])
def test_the_posterior_is_finite_and_above_its_floor(size: float) -> None:
    posterior = DiagonalNormal(4, 3)
    h = (size * torch.randn(50, 4)).requires_grad_()
    q = posterior(h)
    assert q.stddev.min() >= 1e-4 * (1 - 1e-6)
    (gradient,) = torch.autograd.grad(q.entropy().sum() + q.rsample().sum(), h)
    assert gradient.isfinite().all()


def test_the_posterior_upcasts_and_keeps_its_state() -> None:
    posterior = DiagonalNormal(4, 3).bfloat16()
    assert posterior(torch.zeros(2, 4, dtype=torch.bfloat16)).rsample().dtype == torch.float32
    other = DiagonalNormal(4, 3).bfloat16()
    other.load_state_dict(posterior.state_dict())
    h = torch.ones(2, 4, dtype=torch.bfloat16)
    assert torch.equal(other(h).mean, posterior(h).mean)


def test_the_analytic_kl_of_the_pieces_is_the_closed_form() -> None:
    q, p = DiagonalNormal(4, 3).double()(torch.randn(5, 4, dtype=torch.float64)), StandardNormal(3).double()()
    by_hand = 0.5 * (q.variance + q.mean**2 - 1 - q.variance.log()).sum(-1)
    torch.testing.assert_close(kl_divergence(q, p.expand((5,))), by_hand)


def test_the_pieces_train_under_svi() -> None:
    """Two steps on a pair of pieces change every parameter of the posterior, with either of Pyro's bounds."""
    x = torch.randn(20, 4)
    prior, posterior = StandardNormal(4), DiagonalNormal(4, 4)

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior())
            pyro.sample("x", pyro.distributions.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("posterior of this test", posterior)
        with pyro.plate("data", len(x)):
            pyro.sample("z", posterior(x))

    for elbo in (Trace_ELBO(), TraceMeanField_ELBO()):
        before = [parameter.clone() for parameter in posterior.parameters()]
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo)
        svi.step(x), svi.step(x)
        for old, new in zip(before, posterior.parameters(), strict=True):
            assert (old != new).any()


def test_bad_latent_arguments_are_refused() -> None:
    with pytest.raises(InvalidInput, match="latent_dim"):
        StandardNormal(0)
    with pytest.raises(InvalidInput, match="latent_dim"):
        DiagonalNormal(3, -1)
    with pytest.raises(InvalidInput, match="scale_floor"):
        DiagonalNormal(3, 2, scale_floor=0.0)


def double_well(x: Tensor) -> Tensor:
    return (x.square().sum(-1) - 1).square()


def test_an_energy_is_minus_its_log_prob_and_expands() -> None:
    p = Energy(double_well, (3,))
    x = torch.randn(2, 5, 3)
    assert torch.equal(p.log_prob(x), -double_well(x))
    larger = p.expand((5,))
    assert larger.batch_shape == (5,) and larger.event_shape == (3,)
    assert torch.equal(larger.log_prob(x), -double_well(x))
    assert torch.equal(larger.log_prob(x[0, 0]), -double_well(x[0, 0]).expand(5))
    assert isinstance(larger, Unnormalized) and isinstance(copy.deepcopy(larger), Unnormalized)


def test_an_energy_is_observed_under_nested_plates_and_passes_gradients() -> None:
    network = nn.Sequential(nn.Linear(3, 1), nn.Flatten(-2))
    x = torch.randn(2, 5, 3)

    def model() -> None:
        with pyro.plate("outer", 2, dim=-2), pyro.plate("inner", 5, dim=-1):
            pyro.sample("x", Energy(lambda value: network[0](value).squeeze(-1), (3,)), obs=x)

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["x"]["log_prob"].shape == (2, 5)
    trace.log_prob_sum().backward()
    assert network[0].weight.grad is not None and network[0].weight.grad.abs().sum() > 0


def test_an_energy_cannot_be_sampled() -> None:
    p = Energy(double_well, (3,))
    assert not p.has_rsample
    for draw in (p.sample, p.rsample, lambda: pyro.sample("x", p), p.expand((2,)).sample):
        with pytest.raises(IncompatibleModel, match="obs=x"):
            draw()


def test_a_wrong_energy_or_value_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"squeeze"):
        Energy(lambda x: x.sum(-1, keepdim=True), (3,)).log_prob(torch.zeros(2, 3))
    with pytest.raises(InvalidInput, match=r"one number for each datum, \(2,\)"):
        Energy(lambda x: x.sum(), (3,)).log_prob(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="shape"):
        Energy(double_well, (3,)).log_prob(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="support"):
        Energy(double_well, (3,)).log_prob(torch.full((3,), float("nan")))
    binary = Energy(double_well, (3,), support=constraints.boolean)
    binary.log_prob(torch.tensor([0.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="support"):
        binary.expand((2,)).log_prob(torch.tensor([0.0, 0.5, 1.0]))
