"""Why some of Pyro's transforms are replaced: what is wrong with each, and that ours is right under the same law.

Where one of these tests fails, Pyro has mended the fault, and its transform can take the place of ours.
"""

import math

import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import pytest
import torch

from pyro_dgm.distributions import FlowDistribution
from pyro_dgm.distributions.transforms import (
    Coupling,
    Planar,
    RationalQuadratic,
    Sylvester,
    TorchTransform,
    alternating,
)
from pyro_dgm.errors import IncompatibleModel
from tests.laws.bijections import at_random, log_det_by_autograd, points


def test_its_sylvester_has_the_log_determinant_of_another_map():
    def error(bijection):
        bijection = at_random(bijection, scale=1.0)
        x, _ = points(bijection, 20)
        with torch.no_grad():
            log_det = bijection.forward_and_log_det(x)[1]
        return (log_det - log_det_by_autograd(bijection, x, None)).abs().max().item()

    torch.manual_seed(0)
    assert error(TorchTransform(pyro_transforms.sylvester(4, count_transforms=4), (4,))) > 0.1
    assert error(Sylvester(4)) < 1e-8


def test_its_splines_do_not_come_back_in_float32():
    def worst(make):
        """The median over 15 maps of the greatest error of x."""
        errors = []
        for seed in range(15):
            torch.manual_seed(seed)
            bijection = make()
            with torch.no_grad():
                for parameter in bijection.parameters():
                    parameter.add_(0.3 * torch.randn(parameter.shape))
                x = torch.randn(500, 8)
                back, _ = bijection.inverse_and_log_det(bijection.forward_and_log_det(x)[0])
            errors.append((back - x).abs().nan_to_num(nan=math.inf).max().item())
        return sorted(errors)[7]

    assert worst(lambda: TorchTransform(pyro_transforms.spline_coupling(8), (8,))) > 1
    assert worst(lambda: Coupling(alternating(8), RationalQuadratic(), hidden=(80, 80))) < 0.01


def test_its_planar_maps_have_no_inverse():
    theirs = TorchTransform(pyro_transforms.planar(3), (3,))
    y = theirs.forward_and_log_det(torch.randn(5, 3))[0]
    with pytest.raises(IncompatibleModel, match="a map without an inverse in Planar"):
        theirs.inverse_and_log_det(y.clone())
    base = dist.Normal(torch.zeros(3), 1.0).to_event(1)
    with pytest.raises(IncompatibleModel, match="try a map of pyro_dgm"):
        FlowDistribution(base, theirs).log_prob(y.clone())
    assert FlowDistribution(base, Planar(3)).log_prob(y).shape == (5,)


def test_its_cache_outlives_an_update():
    """The log-determinant that belongs to old parameters, for the same tensor."""
    torch.manual_seed(0)
    theirs = pyro_transforms.affine_coupling(4)
    base = dist.Normal(torch.zeros(4), 1.0).to_event(1)
    p, x = dist.TransformedDistribution(base, [theirs]), torch.randn(5, 4)

    def after_an_update(density, parameters):
        with torch.no_grad():
            density()
            for parameter in parameters:
                parameter.add_(0.1 * torch.randn_like(parameter))
            return density()

    stale = after_an_update(lambda: p.log_prob(x), theirs.parameters())
    assert not torch.allclose(stale, p.log_prob(x.clone()))
    ours = TorchTransform(theirs, (4,))
    mine = FlowDistribution(base, ours)
    fresh = after_an_update(lambda: mine.log_prob(x), ours.parameters())
    torch.testing.assert_close(fresh, mine.log_prob(x.clone()))


def test_its_matrix_exponential_is_a_truncated_series():
    torch.manual_seed(0)
    theirs = pyro_transforms.matrix_exponential(2)
    with torch.no_grad():
        theirs.weights.copy_(torch.tensor([[0.0, 8.0], [-8.0, 0.0]]))  # a rotation, which keeps lengths
    y = theirs(torch.ones(1, 2))
    assert y.norm() > 10
    assert torch.matrix_exp(theirs.weights.detach()).mv(torch.ones(2)).norm().item() == pytest.approx(
        2**0.5, rel=1e-4
    )
