"""simulate on all kinds of models: which arguments are data, and what cannot be simulated."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_dgm.diagnostics.simulation import Simulator, simulate
from pyro_dgm.distributions import Energy
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA, VAE


def model_of(observe):
    """Model with a local latent, whose data are observed by ``observe(z, *batch)``."""

    def model(*batch):
        with pyro.plate("data", len(batch[0])):
            z = pyro.sample("z", dist.Normal(10.0, 1.0))
            pyro.deterministic("twice", 2 * z)
            observe(z, *batch)

    return model


def near(z, value, name="x"):
    """Observes a value (N,) or (N, D), almost without noise, so that draws show from where they are."""
    fn = dist.Normal(z, 1e-4)
    if value.dim() == 2:
        fn = dist.Normal(z[:, None], 1e-4).expand([len(z), value.shape[1]]).to_event(1)
    pyro.sample(name, fn, obs=value)


def follows(field, z):
    return bool((field - (z if field.dim() == 1 else z[:, None])).abs().max() < 0.01)


def test_arguments_that_are_data_are_replaced_and_the_rest_stays():
    label, x = torch.arange(4.0), torch.randn(4)
    found = simulate(model_of(lambda z, x, label: near(z + label, x)), (x, label))
    assert found.batch[1] is label
    assert follows(found.batch[0] - label, found.latents["z"]["value"])
    assert set(found.latents) == {"z"} and set(found.observed) == {"x"}
    assert torch.equal(found.observed["x"]["value"], found.batch[0])


@pytest.mark.parametrize(
    ("batch", "observe"),
    [
        ((torch.randn(4, 6),), lambda z, x: near(z, x.reshape(4, 6))),
        ((torch.randn(4, 2, 3),), lambda z, x: near(z, x.reshape(4, 6))),
        ((torch.randn(6, 4).T,), lambda z, x: near(z, x)),
        ((torch.randn(8, 6)[2:6],), lambda z, x: near(z, x)),
        ((torch.randn(4, 6),), lambda z, x: (near(z, x[:, :2], "a"), near(z, x[:, 2:], "b"))),
        ((torch.arange(24).reshape(4, 6).float(),), lambda z, x: near(z, x.double())),
    ],
    ids=["whole", "view", "transposed", "slice", "two sites", "equal"],
)
def test_data_are_found_through_views_and_copies(batch, observe):
    found = simulate(model_of(observe), batch)
    assert found.batch[0].shape == batch[0].shape
    assert follows(found.batch[0].flatten(1), found.latents["z"]["value"])


def test_a_part_that_is_only_read_stays():
    x = torch.randn(4, 6)
    found = simulate(model_of(lambda z, x: near(z + 0 * x[:, 5], x[:, :5])), (x,))
    assert follows(found.batch[0][:, :5], found.latents["z"]["value"])
    assert torch.equal(found.batch[0][:, 5], x[:, 5])


def test_an_argument_equal_to_the_data_is_data_and_a_mask_that_happens_to_equal_them_is_not():
    x = torch.randn(4)
    found = simulate(model_of(lambda z, x, again: near(z, x)), (x, x.clone()))
    assert torch.equal(found.batch[0], found.batch[1])
    ones = torch.ones(4)
    found = simulate(model_of(lambda z, x, weight: near(z, x)), (ones, ones.clone()))
    assert torch.equal(found.batch[1], ones) and not torch.equal(found.batch[0], ones)


def test_what_was_given_is_left_alone():
    ppca, x = PPCA(4, 2), torch.zeros(5, 4)
    state = torch.get_rng_state()
    simulator = Simulator(ppca.model, (x,))
    assert torch.equal(torch.get_rng_state(), state), "building it takes no random numbers"
    torch.manual_seed(1)
    first = simulator.draw().batch[0]
    torch.manual_seed(1)
    assert torch.equal(simulator.draw().batch[0], first)
    assert not x.any() and all(parameter.grad is None for parameter in ppca.parameters())


def test_conditioned_sites_and_images_are_drawn():
    vae, x = VAE((1, 8, 8), 4, hidden=(16,)), torch.zeros(5, 1, 8, 8)
    assert simulate(vae.model, (x,)).batch[0].shape == x.shape

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(10.0, 1.0)), 1e-4))

    x = torch.zeros(5)
    found = simulate(lambda x: poutine.condition(model, {"x": x})(x), (x,))
    assert follows(found.batch[0], found.latents["z"]["value"])


def factor(z, x):
    near(z, x)
    pyro.factor("penalty", -z)


def autoregressive(z, x):
    near(z + x.roll(1, 0), x)


def rescaled(z, x):
    near(z, x / 2)


def closed_over(z, x):
    near(z, torch.arange(4.0))


def energy(z, x):
    pyro.sample("x", Energy(lambda x: x**2, (), batch_shape=(4,)), obs=x)


def integers(z, x):
    pyro.sample("x", dist.Normal(z, 1.0), obs=x.int() if x.is_floating_point() else x)


def subsampled(x):
    with pyro.plate("data", 4, subsample_size=2) as index:
        pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[index])


def improper(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))
    with pyro.plate("data", 4):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (model_of(factor), torch.randn(4), "a factor in site 'penalty'"),
        (model_of(autoregressive), torch.randn(4), "a model that reads the data it observes in site 'x'"),
        (model_of(rescaled), torch.randn(4), "observed data that are no argument of the model in site 'x'"),
        (
            model_of(closed_over),
            torch.randn(4),
            "observed data that are no argument of the model in site 'x'",
        ),
        (model_of(energy), torch.randn(4), "a distribution that cannot be sampled in site 'x'"),
        (model_of(integers), torch.arange(4), "real draws in the place of integers in site 'x'"),
        (subsampled, torch.randn(4), "a subsample in plate 'data': 2 of 4, at site 'z'"),
        (improper, torch.randn(4), "a prior that is masked out in site 'z'"),
    ],
)
def test_what_cannot_be_simulated_is_refused_by_name(model, x, message):
    with pytest.raises(InvalidInput, match=message) as caught:
        simulate(model, (x,))
    assert "\n" not in str(caught.value) and "try" in str(caught.value)
