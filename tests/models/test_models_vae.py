"""The VAE's own methods, its pieces, and what its constructor refuses."""

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.data import Arrays
from pyro_dgm.distributions import DiagonalNormal, NormalObservation
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA, VAE
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import fit

SHAPE = (1, 4, 4)


def test_shapes():
    vae = VAE(SHAPE, 3, hidden=(8, 5))
    x = (torch.rand(6, *SHAPE) < 0.5).float()
    assert vae.encode(x).batch_shape == (6,)
    assert vae.encode(x).event_shape == (3,)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(2).shape == (2, *SHAPE)
    assert vae.model(n=2).shape == (2, *SHAPE)
    assert set(vae.sample(50).unique().tolist()) <= {0.0, 1.0}
    means = vae.sample(50, mean=True)
    assert ((means > 0) & (means < 1)).all()


def test_impute_keeps_what_is_known_and_draws_the_rest():
    vae = VAE(SHAPE, 3, hidden=(8,))
    x = (torch.rand(6, *SHAPE) < 0.5).float()
    known = torch.rand(6, *SHAPE) < 0.5
    filled = vae.impute(x, known, num_steps=5)
    assert torch.equal(filled[known], x[known])
    assert not torch.equal(filled[~known], x[~known])
    with pytest.raises(InvalidInput, match=r"wrong mask in observed: torch.float32"):
        vae.impute(x, x, num_steps=1)


def test_impute_draws_from_the_conditional():
    """With a linear-Gaussian model and its exact posterior the chain's law is p(missing | known).

    4,000 chains of 60 steps: mean and variance of the missing element within 4.9 standard errors (1e-6).
    """
    torch.manual_seed(0)
    ppca = PPCA(2, 1).double()
    with torch.no_grad():
        ppca.loadings.copy_(torch.tensor([[1.0], [0.8]]))

    class Exact(nn.Module):
        def forward(self, x):
            return ppca.exact_posterior(x)

    class Loadings(nn.Module):
        def forward(self, z):
            return (z @ ppca.loadings.T).unsqueeze(-2)

    class UnitNormal(nn.Module):
        num_params = 1

        def forward(self, params):
            return dist.Normal(params.squeeze(-2), 1.0).to_event(1)

    vae = VAE(
        (2,), 1, encoder=nn.Identity(), decoder=Loadings(), posterior=Exact(), observation=UnitNormal()
    ).double()
    x = torch.tensor([[1.5, 0.0]], dtype=torch.float64).expand(4000, 2)
    known = torch.tensor([[True, False]]).expand(4000, 2)
    with torch.no_grad():
        missing = vae.impute(x, known, num_steps=60)[:, 1]
    covariance = ppca.marginal().covariance_matrix
    mean = (covariance[1, 0] / covariance[0, 0] * 1.5).item()
    variance = (covariance[1, 1] - covariance[1, 0] ** 2 / covariance[0, 0]).item()
    assert abs(missing.mean().item() - mean) < 4.9 * (variance / 4000) ** 0.5
    assert abs(missing.var().item() / variance - 1) < 4.9 * (2 / 4000) ** 0.5


def test_pieces_of_the_users_own():
    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.locs = nn.Parameter(torch.randn(5, 2))

        def forward(self):
            components = dist.Normal(self.locs, 1.0).to_event(1)
            return dist.MixtureSameFamily(dist.Categorical(logits=torch.zeros(5)), components)

    encoder = nn.Sequential(nn.Flatten(-3), nn.Linear(16, 7))
    vae = VAE(SHAPE, 2, encoder=encoder, posterior=DiagonalNormal(7, 2), prior=Mixture())
    loss = ELBO()(vae.model, vae.guide, torch.ones(4, *SHAPE))
    loss.backward()
    assert vae.prior.locs.grad.abs().sum() > 0
    with pytest.raises(InvalidInput, match="no closed-form divergence in site 'z'"):
        ELBO(kl="analytic")(vae.model, vae.guide, torch.ones(4, *SHAPE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data_shape": SHAPE, "latent_dim": 0}, "latent_dim: 0"),
        ({"data_shape": (1, 0), "latent_dim": 2}, r"data_shape: \(1, 0\)"),
        ({"data_shape": SHAPE, "latent_dim": 2, "hidden": ()}, "no layers in hidden"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        VAE(**arguments)


def test_normal_observation_learns_its_scale():
    vae = VAE((3,), 1, hidden=(4,), observation=NormalObservation((3,)))
    ELBO()(vae.model, vae.guide, torch.randn(5, 3)).backward()
    assert all(value.grad is not None for value in vae.parameters())


def test_ppca_refuses_no_dimensions():
    with pytest.raises(InvalidInput, match="latent_dim: 0"):
        PPCA(3, 0)
    assert PPCA((2, 2), 1).mean.shape == (4,)


def test_fit_starts_the_decoder_at_the_mean_of_the_data():
    mean = torch.linspace(0.05, 0.95, 16).reshape(SHAPE)
    x = (torch.rand(2000, *SHAPE) < mean).float()
    vae = VAE(SHAPE, 2, hidden=(8,))
    fit(vae, ELBO(), Arrays(x), steps=1, progress=False)
    assert (vae.observation(vae.decoder(torch.zeros(2))).mean - mean).abs().max() < 0.15
    offset = vae.observation.offset.clone()
    fit(vae, ELBO(), Arrays(1 - x), steps=1, progress=False)
    assert torch.equal(vae.observation.offset, offset)


@pytest.mark.parametrize(
    ("pieces", "named"),
    [
        ({"encoder": nn.Sequential(nn.Flatten(-3), nn.Linear(16, 7), nn.ReLU())}, "posterior of VAE"),
        ({"encoder": nn.Linear(3, 8)}, "encoder of VAE"),
        ({"posterior": DiagonalNormal(8, 5)}, r"posterior of VAE: \(5,\); expected \(3,\)"),
        ({"decoder": nn.Linear(4, 16)}, "decoder of VAE"),
        ({"decoder": nn.Linear(3, 16)}, "wrong decoder output shape in BernoulliObservation"),
        ({"observation": NormalObservation((1, 5, 5))}, "NormalObservation"),
    ],
)
def test_pieces_that_do_not_fit_are_named_when_the_program_is_made(pieces, named):
    with pytest.raises(InvalidInput, match=named):
        VAE(SHAPE, 3, hidden=(8,), **pieces)


@pytest.mark.parametrize(
    "look_up",
    [
        lambda table, x: nn.functional.embedding(x, table),
        lambda table, x: table[x],
        lambda table, x: nn.functional.one_hot(x, 2).float() @ table,
    ],
    ids=["embedding", "index", "one-hot"],
)
def test_a_network_may_want_whole_numbers(look_up):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(2, 8))

        def forward(self, x):
            return look_up(self.table, x).mean((-4, -3, -2))

    vae = VAE(SHAPE, 3, hidden=(8,), encoder=Tokens())
    assert vae.encode(torch.zeros(5, *SHAPE, dtype=torch.int64)).batch_shape == (5,)


def test_a_subclass_may_go_on_after_the_constructor():
    class Longer(VAE):
        def __init__(self):
            super().__init__(SHAPE, 3, hidden=(8,))
            self.extra = nn.Linear(16, 8)

        def encode(self, x):
            return self.posterior(self.encoder(x) + self.extra(x.flatten(-3)))

    assert Longer().encode(torch.zeros(5, *SHAPE)).batch_shape == (5,)


def test_a_piece_that_cannot_be_copied_is_not_tried():
    with pytest.warns(FutureWarning, match="weight_norm"):
        layer = nn.utils.weight_norm(nn.Linear(3, 16))
    vae = VAE(SHAPE, 3, hidden=(8,), decoder=nn.Sequential(layer, nn.Unflatten(-1, (1, *SHAPE))))
    assert vae.sample(2).shape == (2, *SHAPE)


def test_making_a_program_leaves_random_numbers_and_the_store_alone():
    torch.manual_seed(0)
    VAE(SHAPE, 3, hidden=(8,))
    after = torch.rand(3)
    torch.manual_seed(0)
    nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 6), nn.Linear(3, 8), nn.Linear(8, 16))
    assert torch.equal(after, torch.rand(3))
