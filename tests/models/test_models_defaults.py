"""What models put together by themselves: an observation has to say, and to take, what a decoder gives."""

import re

import pytest
from torch import nn

from pyro_dgm import models
from pyro_dgm.distributions import NormalObservation
from pyro_dgm.errors import InvalidInput

SHAPE = (1, 8, 8)
MAKERS = {
    "VAE": lambda **pieces: models.VAE(SHAPE, 2, hidden=(5,), **pieces),
    "CVAE": lambda **pieces: models.CVAE(SHAPE, 10, 2, hidden=(5,), **pieces),
    "Autoencoder": lambda **pieces: models.Autoencoder(SHAPE, 2, hidden=(5,), **pieces),
    "HierarchicalVAE": lambda **pieces: models.HierarchicalVAE(SHAPE, (2, 2), **pieces),
    "LadderVAE": lambda **pieces: models.LadderVAE(SHAPE, (2, 2), width=5, **pieces),
    "DRAW": lambda **pieces: models.DRAW(SHAPE, 2, num_steps=2, hidden=5, **pieces),
    "ConvDRAW": lambda **pieces: models.ConvDRAW(SHAPE, 2, num_steps=2, channels=3, **pieces),
    "conv_vae": lambda **pieces: models.conv_vae(SHAPE, 2, channels=(3,), features=5, **pieces),
    "FVSBN": lambda **pieces: models.FVSBN(SHAPE, **pieces),
    "NADE": lambda **pieces: models.NADE(SHAPE, hidden=5, **pieces),
    "MADE": lambda **pieces: models.MADE(SHAPE, hidden=(5,), **pieces),
    "PixelCNN": lambda **pieces: models.PixelCNN(SHAPE, channels=3, num_layers=1, **pieces),
    "GatedPixelCNN": lambda **pieces: models.GatedPixelCNN(SHAPE, channels=3, num_layers=1, **pieces),
    "PixelRNN": lambda **pieces: models.PixelRNN(SHAPE, hidden=2, num_layers=1, **pieces),
    "pixel_vae": lambda **pieces: models.pixel_vae(SHAPE, 2, channels=(3,), features=5, maps=3, **pieces),
    "HierarchicalPixelVAE": lambda **pieces: models.HierarchicalPixelVAE(
        SHAPE, ((1, 4, 4), (2,)), width=3, features=5, **pieces
    ),
    "gmvae": lambda **pieces: models.gmvae(SHAPE, 2, hidden=(5,), **pieces),
    "vamp_vae": lambda **pieces: models.vamp_vae(SHAPE, 2, hidden=(5,), num_components=3, **pieces),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def test_every_model_with_an_observation_is_here():
    flows = {"Flow", "nice", "maf", "iaf", "neural_spline_flow", "glow", "real_nvp", "real_nvp_images"}
    without = {"PPCA", "BayesianNetwork", "WaveNet", "VariationalDequantization", *flows}
    assert set(MAKERS) == set(models.__all__) - without


@every
def test_an_observation_that_does_not_say_what_it_takes_is_named(make):
    text = (
        "a piece that does not say how many parameters it takes for each element of a datum in observation: Linear; "
        "expected a module with an integer num_params >= 1"
    )
    with pytest.raises(InvalidInput, match="^" + re.escape(text)):
        make(observation=nn.Linear(2, 2))


def test_the_shape_of_a_datum_may_be_any_iterable():
    assert models.VAE(iter(SHAPE), 2, hidden=(5,)).sample(3).shape == (3, *SHAPE)


@every
def test_an_observation_of_other_data_is_named(make):
    make(observation=NormalObservation(SHAPE))
    with pytest.raises(InvalidInput, match=r"^pieces that do not fit in observation of \w+: .*\(.*1, 9, 9\)"):
        make(observation=NormalObservation((1, 9, 9)))
