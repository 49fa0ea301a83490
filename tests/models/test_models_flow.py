"""Normalising flows as programs; their maps and densities are judged in ``tests/laws``."""

import pytest
import torch

from pyro_dgm import data, distributions, fit, models, objectives
from pyro_dgm.distributions.transforms import ActNorm, Chain, Coupling, Planar
from pyro_dgm.errors import InvalidInput


def test_a_flow_learns_moons_far_better_than_a_normal_distribution():
    moons = data.Moons(sizes=(2000, 200, 1000))
    x = moons.train.x
    gaussian = torch.distributions.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(moons.test.x).mean()
    torch.manual_seed(0)
    flow = models.neural_spline_flow((2,), hidden=(32,))
    fit(flow, objectives.ELBO(), moons, epochs=20, progress=False)
    assert flow().log_prob(moons.test.x).mean() > gaussian + 0.5


def test_normalisations_start_at_the_data():
    x = 5 + 2 * torch.randn(1000, 3)
    flow = models.Flow(Chain([Coupling([True, False, True]), ActNorm((3,))]))
    flow.initialize(x)
    e, _ = flow.bijection.parts[1].inverse_and_log_det(x)
    torch.testing.assert_close(e.mean(0), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(e.std(0, correction=0), torch.ones(3), rtol=0, atol=1e-4)


def test_a_flow_is_a_prior():
    prior = models.real_nvp((4,), num_layers=2, hidden=(8,))
    vae = models.VAE((1, 8, 8), 4, hidden=(16,), prior=prior)
    x = (torch.rand(5, 1, 8, 8) < 0.3).float()
    objectives.ELBO()(vae.model, vae.guide, x).backward()
    assert all(bool(parameter.grad.any()) for parameter in prior.bijection.parts[0].parameters())


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
