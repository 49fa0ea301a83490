"""Normalising flows as programs; their maps and densities are judged in ``tests/laws``."""

import pytest
import torch

from pyro_dgm import data, distributions, fit, models, objectives
from pyro_dgm.distributions.transforms import (
    ActNorm,
    Bijection,
    Chain,
    Coupling,
    MaskedCoupling,
    Planar,
    QRLinear,
    Squeeze,
    halves,
)
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.nets import ConvMaps


def test_a_flow_learns_moons_far_better_than_a_normal_distribution():
    moons = data.Moons(sizes=(2000, 200, 1000))
    x = moons.train.x
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(moons.test.x).mean()
    torch.manual_seed(0)
    flow = models.neural_spline_flow((2,), hidden=(32,))
    fit(flow, objectives.ELBO(), moons, epochs=20, progress=False)
    assert flow().log_prob(moons.test.x).mean() > gaussian + 0.5


@pytest.mark.parametrize("features", [0, 2])
def test_normalisations_start_at_the_data(features):
    x, context = 5 + 2 * torch.randn(1000, 3), torch.randn(1000, 2) if features else None
    parts = [Coupling([True, False, True]), ActNorm((3,), context_features=features)]
    flow = models.Flow(Chain(parts), context_shape=(features,) if features else ())
    flow.initialize(x, context)
    e, _ = parts[1].inverse_and_log_det(x, context)
    torch.testing.assert_close(e.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(e.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-4)


def test_a_flow_is_a_prior():
    prior = models.real_nvp((4,), num_layers=2, hidden=(8,))
    vae = models.VAE((1, 8, 8), 4, hidden=(16,), prior=prior)
    x = (torch.rand(5, 1, 8, 8) < 0.3).float()
    objectives.ELBO()(vae.model, vae.guide, x).backward()
    assert all(bool(parameter.grad.any()) for parameter in prior.bijection.parts[0].parameters())


@pytest.mark.parametrize("make", [models.maf, models.iaf])
def test_networks_without_direct_connections(make):
    sizes = [
        sum(p.numel() for p in make((6,), hidden=(8,), direct=direct).parameters())
        for direct in (True, False)
    ]
    assert sizes[0] - sizes[1] == 5 * 6 * 12  # layers, inputs and parameters of each of them
    flow = make((6,), hidden=(8,), direct=False)
    x = flow.sample(5)
    assert flow().log_prob(x).shape == (5,)


def test_images_and_labels():
    flow = models.real_nvp((1, 2, 2), num_layers=2, hidden=(8,), num_classes=3)
    x, y = torch.rand(6, 1, 2, 2), torch.arange(6) % 3
    one_hot = torch.nn.functional.one_hot(y, 3).float()
    together = flow(one_hot).log_prob(x)
    for place in range(6):
        torch.testing.assert_close(together[place], flow(one_hot[place]).log_prob(x[place]))
    assert flow.sample(4).shape == (4, 1, 2, 2)


def test_a_map_of_another_context_is_one_line():
    with pytest.raises(InvalidInput, match="a map of another context in bijection"):
        models.Flow(Planar(2, context_features=3))
    with pytest.raises(InvalidInput, match="no coupling"):
        models.real_nvp((1,))


def test_a_base_may_be_any_piece():
    base = distributions.MixturePrior(2, 3)
    flow = models.Flow(Coupling([True, False]), base=base)
    assert flow().log_prob(flow.sample(5)).shape == (5,)


VECTORS = {name: getattr(models, name) for name in ("nice", "real_nvp", "maf", "iaf", "neural_spline_flow")}
IMAGES = {
    "glow": lambda shape, **given: models.glow(shape, num_steps=1, channels=4, **given),
    "real_nvp_images": lambda shape, **given: models.real_nvp_images(
        shape, channels=4, num_blocks=1, **given
    ),
}


@pytest.mark.parametrize("name", [*VECTORS, *IMAGES])
def test_draws_come_back_to_the_noise_they_are_of(name):
    """In float64, with noise on the parameters, given a label."""
    torch.manual_seed(0)
    flow = {**VECTORS, **IMAGES}[name]((1, 8, 8), num_classes=3).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        c = torch.eye(3).double()
        e = flow.base().sample((3,))
        x, log_det = flow.bijection.forward_and_log_det(e, c)
        back, _ = flow.bijection.inverse_and_log_det(x, c)
        density = flow(c).log_prob(x)
    torch.testing.assert_close(back, e, rtol=0, atol=1e-7)
    torch.testing.assert_close(density, flow.base().log_prob(e) - log_det, rtol=0, atol=1e-6)


def test_glow_starts_at_the_data():
    """After its start the noise of the data has mean 0 and deviation 1 in each channel of the last scale."""
    torch.manual_seed(0)
    digits = data.Digits(dequantize=True)
    x = digits.train.batch(torch.arange(500))[0]
    flow = models.glow((1, 8, 8), num_steps=2, channels=8)
    before = flow().log_prob(x).mean()
    flow.initialize(x)
    e, _ = flow.bijection.inverse_and_log_det(x)
    assert e.std().item() == pytest.approx(1, abs=0.1) and e.mean().item() == pytest.approx(0, abs=0.1)
    assert flow().log_prob(x).mean() > before + 20


def test_dequantisation_learns_with_its_flow():
    """The guide's network has gradients, and bounds are those of levels: the program needs no dequantised data."""
    torch.manual_seed(0)
    base = distributions.NormalMaps((1, 4, 4), ConvMaps(1, (2, 1), channels=4))
    program = models.VariationalDequantization(
        (1, 4, 4), models.glow((1, 4, 4), num_steps=1, channels=4), levels=5, base=base
    )
    x = torch.randint(0, 5, (20, 1, 4, 4)) / 4
    program.initialize(x)
    objectives.ELBO()(program.model, program.guide, x).backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in program.parameters())
    assert bool(base.network.layers[-1].weight.grad.any())
    assert program.sample(3).mul(4).frac().abs().max() == 0


def test_a_flow_posterior_and_a_flow_prior_in_a_vae_of_labels():
    posterior = distributions.planar_posterior(16 + 3, 2, num_layers=2)
    cvae = models.CVAE((1, 4, 4), 3, 2, hidden=(16,), posterior=posterior)
    x, y = (torch.rand(5, 1, 4, 4) < 0.3).float(), torch.arange(5) % 3
    objectives.IWAE(4)(cvae.model, cvae.guide, x, y).backward()
    assert cvae.reconstruct(x, y).shape == x.shape
    vae = models.VAE((1, 4, 4), 2, hidden=(16,), posterior=distributions.iaf_posterior(16, 2))
    objectives.ELBO(gradient="stl")(vae.model, vae.guide, x).backward()
    assert vae.reconstruct(x).shape == x.shape


class OneWay(Bijection):
    def _forward(self, x, context):
        return x + x.sin() / 2, (1 + x.cos() / 2).log().sum(-1)

    def _inverse(self, y, context):
        raise NotImplementedError


def test_a_map_without_an_inverse_is_no_density_of_data():
    flow = models.Flow(OneWay((2,)))
    p = flow()
    assert p.log_prob(p.rsample((3,))).shape == (3,)  # of its own draws it is
    with pytest.raises(
        IncompatibleModel, match="a map without an inverse in OneWay; .*try a map of pyro_dgm"
    ):
        objectives.ELBO()(flow.model, flow.guide, torch.zeros(5, 2))


def test_an_inverse_that_lacks_an_operator_says_which(monkeypatch):
    def lacking(self, y, context):
        raise NotImplementedError("'solve' not implemented for 'Half'")

    monkeypatch.setattr(OneWay, "_inverse", lacking)
    with pytest.raises(
        IncompatibleModel, match="inverse in OneWay: 'solve' not implemented for 'Half'; expected"
    ):
        OneWay((2,)).inverse_and_log_det(torch.zeros(5, 2))


def test_what_cannot_be_is_one_line():
    with pytest.raises(InvalidInput, match="no two halves in size: 3 channels; expected an even number"):
        halves(3)
    with pytest.raises(InvalidInput, match="cannot be squeezed"):
        Squeeze((1, 5, 4))
    with pytest.raises(InvalidInput, match=r"squeezed so often in data_shape, num_scales: \(1, 28, 28\), 3"):
        models.glow((1, 28, 28), num_scales=3)
    with pytest.raises(InvalidInput, match="a checkerboard of one pixel in data_shape, num_scales"):
        models.real_nvp_images((1, 4, 4))
    for kept in (torch.ones(1, 4, 4, dtype=torch.bool), torch.zeros(1, 4, 4, dtype=torch.bool)):
        with pytest.raises(InvalidInput, match="no coupling in kept"):
            MaskedCoupling(kept, ConvMaps(1, (2, 1), channels=4))
    with pytest.raises(InvalidInput, match="a context that is no vector in context_shape"):
        models.maf((2,), context_shape=(3, 4))
    with pytest.raises(InvalidInput, match="wrong event shape in context of Planar"):
        Planar(2, context_features=3).forward_and_log_det(torch.zeros(5, 2), torch.zeros(5, 4))
    with pytest.raises(InvalidInput, match="bad size in reflections"):
        QRLinear((3,), reflections=0)
    grey = torch.full((4, 1, 8, 8), 1.2)
    flow = IMAGES["real_nvp_images"]((1, 8, 8))
    with pytest.raises(
        InvalidInput, match="data outside the support of a flow in x: 1.2, 256 of 256 elements"
    ):
        objectives.ELBO()(flow.model, flow.guide, grey)
