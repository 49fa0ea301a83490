"""The convolutional and residual VAE: its networks, its pieces, and what it refuses."""

import pytest
import torch
from torch import nn

from pyro_dgm.distributions import MixturePrior, NormalObservation
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import conv_vae
from pyro_dgm.nets import ConvDecoder, ConvEncoder, ResidualBlock
from pyro_dgm.objectives import ELBO


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 9, 6), (1, 5, 5)], ids=str)
@pytest.mark.parametrize("num_blocks", [0, 2])
def test_any_image_comes_back_in_its_shape(shape, num_blocks):
    vae = conv_vae(shape, 3, channels=(4, 5), features=7, num_blocks=num_blocks)
    x = (torch.rand(2, *shape) < 0.5).float()
    assert vae.encode(x).event_shape == (3,)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(4).shape == (4, *shape)
    assert torch.isfinite(ELBO(kl="analytic")(vae.model, vae.guide, x))


def test_there_are_as_many_blocks_as_asked_for_at_each_resolution():
    vae = conv_vae((1, 8, 8), 3, channels=(4, 5, 6), features=7, num_blocks=2)
    for network in (vae.encoder, vae.decoder):
        assert sum(isinstance(part, ResidualBlock) for part in network.modules()) == 6


def test_blocks_without_a_branch_change_nothing():
    """With every branch at zero the residual network is the plain one, exactly; a branch that is not is seen."""
    plain = (
        ConvEncoder((1, 8, 8), 5, channels=(4, 6)).double(),
        ConvDecoder(5, (1, 8, 8), channels=(4, 6)).double(),
    )
    x, h = torch.randn(3, 1, 8, 8).double(), torch.randn(3, 5).double()
    for net, value in zip(plain, (x, h), strict=True):
        deep = type(net)(
            *((1, 8, 8), 5) if isinstance(net, ConvEncoder) else (5, (1, 8, 8)), channels=(4, 6), num_blocks=2
        ).double()
        convolutions = [m for m in deep.convolutions if not isinstance(m, ResidualBlock)]
        for layer, other in zip(convolutions, net.convolutions, strict=True):
            layer.load_state_dict(other.state_dict())
        (deep.head if isinstance(net, ConvEncoder) else deep.stem).load_state_dict(
            (net.head if isinstance(net, ConvEncoder) else net.stem).state_dict()
        )
        assert not torch.allclose(deep(value), net(value))
        for block in (m for m in deep.modules() if isinstance(m, ResidualBlock)):
            for parameter in block.branch[-1].parameters():
                nn.init.zeros_(parameter)
        assert torch.equal(deep(value), net(value))


def test_a_block_adds_its_branch():
    block, x = ResidualBlock(3).double(), torch.randn(2, 5, 3, 4, 6).double()
    flat = x.reshape(10, 3, 4, 6)
    assert torch.allclose(block(x).reshape(flat.shape), flat + block.branch(flat), rtol=0, atol=1e-12)


def test_pieces_are_passed_on():
    vae = conv_vae(
        (1, 8, 8),
        3,
        channels=(4,),
        features=7,
        prior=MixturePrior(3, 5),
        observation=NormalObservation((1, 8, 8), heteroscedastic=True),
    )
    assert vae.prior().mixture_distribution.probs.shape == (5,)
    assert vae.observation(vae.decoder(torch.zeros(2, 3))).mean.shape == (2, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"channels": (4, 0)}, "channels"),
        ({"features": 0}, "features"),
        ({"data_shape": (8,)}, r"not an image in data_shape.*MLP"),
    ],
)
def test_bad_sizes_are_one_line(change, message):
    arguments = {"data_shape": (1, 8, 8), "latent_dim": 3, "channels": (4,), "features": 7} | change
    with pytest.raises(InvalidInput, match=message):
        conv_vae(arguments.pop("data_shape"), arguments.pop("latent_dim"), **arguments)


@pytest.mark.parametrize("num_blocks", [-1, 1001, 10**13])
def test_numbers_of_blocks_that_mean_nothing_or_never_end_are_refused(num_blocks):
    with pytest.raises(
        InvalidInput, match=f"^bad number in num_blocks: {num_blocks}; expected an integer >= 0, at most"
    ):
        conv_vae((1, 8, 8), 2, num_blocks=num_blocks)
