"""Models of several stochastic layers: their own methods, what they refuse, and whether deep ones train."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.diagnostics import collapse
from pyro_dgm.distributions import DiagonalNormal, MergedNormal
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import HierarchicalVAE, LadderVAE
from pyro_dgm.nets import MLP, ResidualMLP
from pyro_dgm.objectives import ELBO, log_weights

SHAPE = (1, 4, 4)
both = pytest.mark.parametrize("family", [HierarchicalVAE, LadderVAE])


def binary(n):
    return (torch.rand(n, *SHAPE) < 0.4).float()


def small(family, dims):
    if family is LadderVAE:
        return LadderVAE(SHAPE, dims, width=8)
    return HierarchicalVAE(SHAPE, dims, hidden=((8,), *[(6,)] * (len(dims) - 1)))


# ---- methods


@both
@pytest.mark.parametrize("dims", [(3,), (4, 3), (4, 3, 2)])
def test_shapes(family, dims):
    program, x = small(family, dims), binary(5)
    assert program.reconstruct(x).shape == x.shape
    assert program.sample(6).shape == program.model(n=6).shape == (6, *SHAPE)
    assert set(program.sample(50).unique().tolist()) <= {0.0, 1.0}
    means = program.sample(50, mean=True)
    assert means.shape == (50, *SHAPE)
    assert ((means > 0) & (means < 1)).all()
    assert log_weights(program.model, program.guide, x, num_particles=3).shape == (3, 5)


@both
def test_draws_of_x_have_the_law_of_the_model(family):
    """Means of ``sample`` and ``model(n=)``, of 20,000 draws each, differ by less than 4.9 standard errors (1e-6)."""
    torch.manual_seed(0)
    program = small(family, (3, 2))
    with torch.no_grad():
        for parameter in program.parameters():
            parameter.mul_(2)
        ours, pyros = program.sample(20000).flatten(1), program.model(n=20000).flatten(1)
        means = program.sample(20000, mean=True).flatten(1)
    assert means.std(0).max() > 0.1, "x should depend on the latents"
    for other in (pyros, means):
        error = ((ours.var(0) + other.var(0)) / 20000).sqrt()
        usual = (ours.mean(0) - 0.5).abs() < 0.45  # of a pixel that is hardly ever on the mean is not normal
        assert usual.any()
        assert ((ours.mean(0) - other.mean(0)).abs() < 5.4 * error)[usual].all()  # 16 pixels at 1e-6 together


def test_reconstruction_goes_through_the_means():
    vae, x = small(HierarchicalVAE, (3, 2)), binary(4)
    assert torch.equal(vae.reconstruct(x), vae.observation(vae.decoder(vae.encode(x).mean)).mean)
    ladder = small(LadderVAE, (3, 2))
    assert torch.equal(ladder.reconstruct(x), ladder.reconstruct(x))
    d1, d2 = ladder.encoder(x)
    z2 = ladder.posteriors[1](ladder.prior(), d2).mean
    h = ladder.blocks[1](ladder.top, z2)
    h = ladder.blocks[0](h, ladder.posteriors[0](ladder.conditionals[0](h), d1).mean)
    assert torch.allclose(ladder.reconstruct(x), ladder.observation(ladder.decoder(h)).mean)


@both
def test_the_observation_starts_at_the_mean_of_the_data(family):
    program, x = small(family, (3, 2)), binary(500)
    program.initialize(x)
    start = program.observation(torch.zeros(1, *SHAPE)).mean
    assert torch.allclose(start, x.mean(0), atol=1e-3)


def test_only_the_ladder_has_an_analytic_bound():
    x = binary(4)
    with pytest.raises(InvalidInput) as caught:
        ELBO(kl="analytic")(*[getattr(small(HierarchicalVAE, (3, 2)), f) for f in ("model", "guide")], x)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(
        "different order of sites in model and guide in kl='analytic': z2, z1 against z1, z2"
    )
    assert message.endswith("try kl='monte_carlo'")
    ladder = small(LadderVAE, (3, 2))
    assert torch.isfinite(ELBO(kl="analytic")(ladder.model, ladder.guide, x))


def test_a_collapsed_layer_is_named():
    """z1 is made deaf and z2 not: its divergence is zero, and the verdict names it alone."""
    torch.manual_seed(0)
    ladder, x = small(LadderVAE, (3, 2)), binary(200)
    with torch.no_grad():
        for i, (weight, bias) in enumerate([(0.0, -100.0), (2.0, 1.0)]):
            ladder.posteriors[i].head.weight.mul_(weight)
            ladder.posteriors[i].head.bias.zero_().chunk(2)[1].fill_(bias)
    found = collapse(ladder.model, ladder.guide, x)
    assert found.sites["z1"].kl == pytest.approx(0.0, abs=1e-6)
    assert found.sites["z2"].kl > 0.2
    text = " ".join(found.verdict)
    assert "z1" in text
    assert "z2" not in text


def test_networks_and_pieces_of_the_users_own():
    def normal(a, b):
        return nn.Sequential(MLP(a, (5,), 6), DiagonalNormal(6, b))

    vae = HierarchicalVAE(
        (7,),
        (3, 2),
        posteriors=[normal(7, 3), normal(3, 2)],
        conditionals=[normal(2, 3)],
        decoder=MLP(3, (), (1, 7)),
    )
    assert vae.sample(4).shape == (4, 7)

    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.bodies = nn.ModuleList([nn.Linear(7, 9), nn.Linear(7, 5)])

        def forward(self, x):
            return [body(x) for body in self.bodies]

    ladder = LadderVAE(
        (7,), (3, 2), width=4, encoder=Features(), posteriors=[MergedNormal(9, 3), MergedNormal(5, 2)]
    )
    assert ladder.reconstruct(torch.zeros(2, 7)).shape == (2, 7)


# ---- what constructors refuse, in one line


@both
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dims": ()}, r"no dimensions in latent_dims: \(\); expected one integer or more"),
        ({"latent_dims": (3, 0)}, r"latent_dims: \(3, 0\); expected integers >= 1"),
        ({"latent_dims": (3,), "data_shape": ()}, r"no dimensions in data_shape"),
        ({"latent_dims": (3,), "data_shape": (1, 0)}, r"data_shape: \(1, 0\); expected integers >= 1"),
        (
            {"latent_dims": (3, 2), "conditionals": []},
            "entries in conditionals: 0; expected 1; try one entry for each",
        ),
        ({"latent_dims": (3, 2), "posteriors": [nn.Identity()]}, "entries in posteriors: 1; expected 2"),
        (
            {"latent_dims": (3, 2), "decoder": MLP(9, (), (1, *SHAPE))},
            "pieces that do not fit in decoder of .*VAE: wrong event shape in MLP input.*; try sizes that fit",
        ),
        (
            {"latent_dims": (3, 2), "prior": DiagonalNormal(2, 2)},
            "pieces that do not fit in prior of .*VAE: .*missing 1 required positional",
        ),
    ],
)
def test_refused(family, arguments, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        family(**{"data_shape": SHAPE} | arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HierarchicalVAE(SHAPE, (3, 2), hidden=((8,),)), "entries in hidden: 1; expected 2"),
        (
            lambda: HierarchicalVAE(SHAPE, (3, 2), conditionals=[DiagonalNormal(2, 4)]),
            r"wrong event shape of z1 in conditionals\[0\] of HierarchicalVAE: \(4,\); expected \(3,\); try a piece",
        ),
        (
            lambda: HierarchicalVAE(SHAPE, (3, 2), conditionals=[DiagonalNormal(5, 3)]),
            r"pieces that do not fit in conditionals\[0\] of HierarchicalVAE: mat1 and mat2.*; try sizes that fit",
        ),
        (lambda: LadderVAE(SHAPE, (3, 2), width=0), "expected integers >= 1"),
        (
            lambda: LadderVAE(SHAPE, (3, 2), blocks=[ResidualMLP(8, 3)], width=8),
            "entries in blocks: 1; expected 2",
        ),
        (
            lambda: LadderVAE(SHAPE, (3, 2), width=8, blocks=[ResidualMLP(8, 3), ResidualMLP(8, 5)]),
            r"pieces that do not fit in blocks\[1\] of LadderVAE: wrong event shape in ResidualMLP second input",
        ),
        (
            lambda: LadderVAE(SHAPE, (3, 2), width=8, posteriors=[MergedNormal(8, 3), MergedNormal(6, 2)]),
            r"pieces that do not fit in posteriors\[1\] of LadderVAE",
        ),
        (
            lambda: LadderVAE(SHAPE, (3, 2), width=8, posteriors=[Scalar(), MergedNormal(8, 2)]),
            r"pieces that do not fit in posteriors\[0\] of LadderVAE: .*at site z1.*to_event\(1\)",
        ),
    ],
)
def test_a_piece_that_does_not_fit_is_named(make, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


class Scalar(nn.Module):
    """A posterior that lacks ``to_event(1)``."""

    def forward(self, p, d):
        return dist.Normal(torch.zeros(3), 1.0)


def test_a_check_at_construction_leaves_no_trace():
    decoder = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 16), nn.Unflatten(-1, (1, *SHAPE)))
    torch.manual_seed(0)
    LadderVAE(SHAPE, (3, 2), width=8, decoder=decoder)
    drawn = torch.rand(3)
    torch.manual_seed(0)
    LadderVAE(SHAPE, (3, 2), width=8, decoder=decoder)
    assert torch.equal(drawn, torch.rand(3))
    assert decoder[0].num_batches_tracked == 0
    assert decoder.training


# ---- depth


@pytest.mark.parametrize("num_layers", [10, pytest.param(20, marks=pytest.mark.slow)])
def test_deep_ladders_train(num_layers):
    """200 steps on noise with a mean: finite in float32, gradients that stay in bounds, and a better bound."""
    torch.manual_seed(0)
    ladder = LadderVAE(SHAPE, [2] * num_layers, width=16)
    x = (torch.rand(32, *SHAPE) < torch.rand(SHAPE)).float()
    optimizer, objective = torch.optim.Adam(ladder.parameters(), lr=1e-3), ELBO(kl="analytic")
    losses, norms = [], []
    for _ in range(200):
        optimizer.zero_grad()
        loss = objective(ladder.model, ladder.guide, x) / len(x)
        loss.backward()
        norms.append(nn.utils.clip_grad_norm_(ladder.parameters(), math.inf).item())
        losses.append(loss.item())
        optimizer.step()
    assert all(map(math.isfinite, losses + norms))
    assert max(norms) < 100
    assert sum(losses[-20:]) / 20 < sum(losses[:20]) / 20 - 1


class NoSkip(ResidualMLP):
    """The same block without its skip path."""

    def forward(self, h, z):
        return self.branch(h + self.second(z))


def sensitivity(ladder):
    """Norm of the derivative of the decoder's output by z_l, over that by z1, for l = 1 .. L, at a draw."""
    zs = []

    def take(name, p):
        zs.append(p.expand((20,)).sample().requires_grad_())
        return zs[-1]

    out = ladder.decoder(ladder._top_down(take)).square().sum()
    norms = [gradient.norm() for gradient in torch.autograd.grad(out, zs)]  # zL first
    return [(norm / norms[-1]).item() for norm in reversed(norms)]


def test_the_skip_path_lets_the_data_hear_the_highest_layer():
    """At the start of 20 layers z20 counts about as much as z1; without the skip path it does not count at all.

    Without it the blocks multiply derivatives; what they leave of z20 is below a thousandth at every seed.
    """
    for seed in range(5):
        torch.manual_seed(seed)
        ladder = LadderVAE(SHAPE, [2] * 20, width=16)
        assert 0.1 < sensitivity(ladder)[-1] < 10
        plain = LadderVAE(SHAPE, [2] * 20, width=16, blocks=[NoSkip(16, 2) for _ in range(20)])
        assert sensitivity(plain)[-1] < 1e-3


def test_a_step_of_gain_zero_adds_the_second_input_alone():
    step, h, z = ResidualMLP(8, 3, gain=0.0), torch.randn(5, 8), torch.randn(7, 5, 3)
    assert torch.equal(step(h, z), h + step.second(z))
    assert torch.equal(step(h), h)
    with pytest.raises(InvalidInput, match="bad number in gain: -1"):
        ResidualMLP(8, gain=-1)
    with pytest.raises(InvalidInput, match="latent_dim: 0"):
        MergedNormal(3, 0)
