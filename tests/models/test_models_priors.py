"""Learned priors as pieces of a VAE: bad input in one line, and parameters that stay tied."""

import copy

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal, DiagonalNormalMixture, MixturePrior, VampPrior
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import VAE, gmvae, vamp_vae
from pyro_dgm.nets import FlattenEvent, GatedLinear, GatedMLP
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import load_weights, save_checkpoint

SHAPE = (1, 4, 4)


def encoder(features):
    return nn.Sequential(FlattenEvent(SHAPE), GatedLinear(16, features))


def small_vamp_vae():
    return vamp_vae(SHAPE, 3, hidden=(6, 5), num_components=4)


class Laplace(nn.Module):
    def forward(self, h):
        return dist.Laplace(h, torch.ones_like(h)).to_event(1)


class Undeclared(nn.Module):
    """A normal whose dimensions are a batch, for want of ``to_event``."""

    def forward(self, h):
        return dist.Normal(h, torch.ones_like(h))


class Correlated(nn.Module):
    def forward(self, h):
        return dist.MultivariateNormal(h, torch.eye(h.shape[-1]))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: gmvae(SHAPE, 3, num_components=0),
            "bad size in num_components: 0; expected an integer >= 1",
        ),
        (lambda: gmvae(SHAPE, 0), "bad size in latent_dim: 0"),
        (lambda: gmvae(SHAPE, 3, hidden=()), "no layers in hidden"),
        (lambda: gmvae(SHAPE, 3, scale_floor=0.0), "bad floor in scale_floor: 0.0; expected between 0 and 1"),
        (lambda: MixturePrior(3, 4, scale_floor=1.0), "bad floor in scale_floor: 1.0"),
        (lambda: vamp_vae(SHAPE, 3, num_components=0), "bad size in num_components: 0"),
        (lambda: vamp_vae(SHAPE, 0), "bad size in latent_dim: 0"),
        (lambda: vamp_vae((1, 0, 4), 3), r"bad size in data_shape: \(1, 0, 4\)"),
        (lambda: vamp_vae((), 3), "in data_shape"),
        (lambda: vamp_vae(SHAPE, 3, hidden=()), "no layers in hidden"),
        (lambda: vamp_vae(SHAPE, 3, hidden=(5, 0)), r"bad size in hidden: \(5, 0\)"),
        (lambda: vamp_vae(SHAPE, 3, init_mean=1.0), "bad start in init_mean: 1.0; expected between 0 and 1"),
        (lambda: vamp_vae(SHAPE, 3, init_std=0.0), "bad start in init_std: 0.0; expected a number > 0"),
        (
            lambda: VampPrior(encoder(5), DiagonalNormal(6, 3), data_shape=SHAPE),
            r"do not fit in posterior: features \(5,\).*try DiagonalNormal\(in_features=5, \.\.\.\)",
        ),
        (
            lambda: VampPrior(encoder(5), DiagonalNormal(5, 3), data_shape=(1, 5, 5)),
            r"wrong event shape in flatten_event: \(1, 1, 5, 5\)",
        ),
        *(
            (
                lambda posterior=posterior: VampPrior(encoder(5), posterior, data_shape=SHAPE),
                r"no diagonal normal in posterior: .*expected .*to_event\(1\); try DiagonalNormal",
            )
            for posterior in (Laplace(), Undeclared(), Correlated(), nn.Identity())
        ),
        (lambda: GatedMLP(0, (3,), 2), "bad size in in_features"),
        (lambda: GatedMLP(2, (0,), 2), "bad size in hidden"),
        (lambda: GatedMLP(2, (3,), (1, 0)), "bad size in out_shape"),
        (lambda: GatedMLP(2, (3,), 2)(torch.zeros(4, 3)), "wrong event shape in GatedMLP input"),
        (lambda: GatedLinear(2, 3)(torch.zeros(4, 3)), "wrong event shape in GatedLinear input"),
    ],
)
def test_bad_input_is_told_in_one_line(make, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_check_of_sizes_leaves_the_networks_and_the_random_numbers_alone():
    net = nn.Sequential(FlattenEvent(SHAPE), nn.Linear(16, 5), nn.BatchNorm1d(5), nn.Dropout())
    VampPrior(net, DiagonalNormal(5, 3), data_shape=SHAPE, num_components=2)
    assert net[2].num_batches_tracked == 0 and net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def assert_tied(vae):
    """Prior and guide have one encoder and one posterior; a step on either side moves the other."""
    assert vae.prior.encoder is vae.encoder and vae.prior.posterior is vae.posterior
    names = [name for name, _ in vae.named_parameters()]
    tensors = {id(parameter) for _, parameter in vae.named_parameters(remove_duplicate=False)}
    assert len(names) == len(tensors)
    x, z = torch.zeros(2, *SHAPE), torch.zeros(3)
    before = vae.prior().log_prob(z).item(), vae.encode(x).mean.clone()
    with torch.no_grad():
        vae.posterior.head.bias.add_(0.5)
    assert vae.prior().log_prob(z).item() != before[0]
    with torch.no_grad():
        vae.prior.posterior.head.bias.sub_(0.5)
    assert torch.equal(vae.encode(x).mean, before[1])


def test_parameters_are_tied_as_made_copied_loaded_and_converted(tmp_path):
    vae = small_vamp_vae()
    assert_tied(vae)
    clone = copy.deepcopy(vae)
    assert_tied(clone)
    assert clone.encoder is not vae.encoder
    other = small_vamp_vae()
    other.load_state_dict(vae.state_dict())
    assert_tied(other)
    other.load_state_dict(copy.deepcopy(vae.state_dict()), assign=True)
    assert_tied(other)
    save_checkpoint(tmp_path / "saved", {"program": vae})
    other = small_vamp_vae()
    load_weights(other, tmp_path / "saved")
    assert_tied(other)
    assert all(torch.equal(a, b) for a, b in zip(vae.parameters(), other.parameters(), strict=True))
    double = vae.double()
    assert double.prior.encoder is double.encoder
    assert double.prior().log_prob(torch.zeros(3).double()).dtype == torch.float64


def test_tied_parameters_are_registered_and_stepped_once():
    """One step of plain gradient descent by Pyro equals one by hand: a parameter with two names is not moved twice."""
    vae, x = small_vamp_vae().double(), torch.ones(5, *SHAPE).double()
    by_hand = copy.deepcopy(vae)
    torch.manual_seed(0)
    ELBO()(by_hand.model, by_hand.guide, x).backward()
    torch.manual_seed(0)
    optimiser = pyro.optim.SGD({"lr": 1e-3})
    pyro.infer.SVI(vae.model, vae.guide, optimiser, ELBO()).step(x)
    for after, before in zip(vae.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(after, before - 1e-3 * before.grad, rtol=1e-12, atol=1e-14)


def test_mixture_under_plates_keeps_its_shapes():
    mixture = DiagonalNormalMixture(torch.zeros(4), torch.randn(4, 3), torch.ones(4, 3))
    with pyro.plate("data", 5), pyro.plate_stack("particles", (7,), rightmost_dim=-2):
        trace = pyro.poutine.trace(lambda: pyro.sample("z", mixture)).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    assert isinstance(site["fn"], DiagonalNormalMixture) and site["fn"].batch_shape == (7, 5)
    assert site["value"].shape == (7, 5, 3) and site["log_prob"].shape == (7, 5)
    assert mixture.expand((5,)).log_prob(torch.zeros(3)).shape == (5,)
    assert mixture.expand((2, 5)).to_event(1).log_prob(torch.zeros(2, 5, 3)).shape == (2,)
    assert mixture.expand((2, 5)).mean.shape == (2, 5, 3)
    batched = DiagonalNormalMixture(torch.zeros(2, 4), torch.randn(2, 4, 3), torch.ones(2, 4, 3))
    assert batched.expand((6, 2)).sample((8,)).shape == (8, 6, 2, 3)
    assert batched.responsibilities(torch.zeros(6, 2, 3)).probs.shape == (6, 2, 4)


def test_a_vamp_prior_fits_a_vae_of_other_networks():
    """Any encoder and diagonal normal will do; the prior is passed in, and the VAE is the common one."""
    net, posterior = nn.Sequential(FlattenEvent(SHAPE), nn.Linear(16, 5), nn.Tanh()), DiagonalNormal(5, 3)
    prior = VampPrior(net, posterior, data_shape=SHAPE, num_components=4, learn_weights=True)
    vae = VAE(SHAPE, 3, encoder=net, posterior=posterior, prior=prior, hidden=(6,))
    loss = ELBO()(vae.model, vae.guide, torch.zeros(2, *SHAPE))
    loss.backward()
    assert prior.logits.grad is not None and torch.isfinite(loss)
