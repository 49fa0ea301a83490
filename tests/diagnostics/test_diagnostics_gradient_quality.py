import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.diagnostics.gradient_noise import gradient_quality
from pyro_dgm.errors import InvalidInput, NonFiniteError
from pyro_dgm.models import PPCA, VAE
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))


def model(x):
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    shift = pyro.param("shift", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(shift, 1.0))
        pyro.sample("x", dist.Normal(z, scale), obs=x[:, 0])


def guide(x):
    slope, shift = pyro.param("slope", torch.tensor(0.4)), pyro.param("shift", torch.tensor(0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(slope * x[:, 0] + shift, 0.8))


def counted(model, guide, *batch, **options):
    found = gradient_quality(model, guide, *batch, **{"objective": ELBO(), "num_repeats": 4} | options)
    return {name: one.num_parameters for name, one in found.networks.items()}


def test_parameters_belong_to_what_depends_on_them():
    assert counted(model, guide, X) == {"model": 1, "guide": 1, "shared": 1}
    vae = VAE(data_shape=(3,), latent_dim=2, hidden=(4,))
    assert set(counted(vae.model, vae.guide, X.sigmoid().round())) == {
        "model",
        "guide",
        "encoder",
        "posterior",
        "decoder",
    }
    exact = PPCA(3, 2)  # its guide is made of the model's own parameters
    assert counted(exact.model, exact.guide, X) == {"shared": 6 + 3 + 1}


def test_modules_that_are_registered_apart_are_networks():
    decoder, encoder = nn.Linear(1, 3), nn.Linear(3, 1)

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(encoder(x), 1.0).to_event(1))

    assert counted(model, guide, X) == {"model": 6, "guide": 4, "decoder": 6, "encoder": 4}


def test_an_autoguide_and_networks_of_ones_own():
    autoguide = pyro.infer.autoguide.AutoNormal(model)
    autoguide(X)
    assert counted(model, autoguide, X)["guide"] == 40
    vae = VAE(data_shape=(3,), latent_dim=2, hidden=(4,))
    own = {"mine": vae.posterior.parameters()}
    assert list(counted(vae.model, vae.guide, X.sigmoid().round(), networks=own)) == ["mine"]


def test_parameters_of_the_objective_and_pyros_own_elbo():
    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.log_weight = nn.Parameter(torch.zeros(()))

        def forward(self, model, guide, x):
            return self.log_weight.exp() * ELBO()(model, guide, x)

    assert counted(model, guide, X, objective=Tempered())["objective"] == 1
    torch.manual_seed(3)
    ours = gradient_quality(model, guide, X, objective=ELBO(), num_repeats=10).networks["guide"]
    torch.manual_seed(3)
    theirs = gradient_quality(model, guide, X, objective=PyroELBO(pyro.infer.Trace_ELBO()), num_repeats=10)
    assert ours.signal_to_noise == pytest.approx(theirs.networks["guide"].signal_to_noise, rel=1e-4)


def test_everything_stays_as_it_was():
    class Normed(VAE):
        def __init__(self):
            super().__init__((3,), 2, hidden=(4,))
            self.encoder = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4))

    program, x = Normed(), X.sigmoid().round()
    ELBO()(program.model, program.guide, x).backward()
    parameters = {name: value.clone() for name, value in program.state_dict().items()}
    gradients = {name: value.grad.clone() for name, value in program.named_parameters()}
    store = list(pyro.get_param_store().keys())
    gradient_quality(program.model, program.guide, x, objective=IWAE(3), num_repeats=4)
    assert all(torch.equal(value, parameters[name]) for name, value in program.state_dict().items())
    assert all(torch.equal(value.grad, gradients[name]) for name, value in program.named_parameters())
    assert list(pyro.get_param_store().keys()) == store


def test_the_seed_is_the_global_one_and_moves_on():
    def ratio():
        found = gradient_quality(model, guide, X, objective=ELBO(), num_repeats=4)
        return found.networks["model"].signal_to_noise

    torch.manual_seed(0)
    first, second = ratio(), ratio()
    torch.manual_seed(0)
    assert ratio() == first != second


def test_a_gradient_without_noise_has_an_infinite_ratio_and_no_bias():
    exact = PPCA(3, 2).double()
    found = gradient_quality(
        exact.model,
        exact.guide,
        X.double(),
        objective=lambda model, guide, x: -exact.log_prob(x).sum(),
        num_repeats=4,
    ).networks["shared"]
    assert (found.signal_to_noise, found.variance, found.relative_bias) == (float("inf"), 0, 0)
    assert found.cosine == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_repeats": 3}, "too few gradients in num_repeats: 3"),
        ({"reference_repeats": 1}, "too few gradients in reference_repeats: 1"),
        ({"networks": {"other": [torch.ones(1)]}}, "networks\\['other'\\]"),
        ({"objective": lambda model, guide, x: x.sum()}, "depends on no parameter"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(InvalidInput, match=message):
        counted(model, guide, X, **options)


def test_a_pair_without_parameters_and_a_gradient_that_is_not_finite_are_refused():
    def bare(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def model_of_bare(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[:, 0])

    with pytest.raises(InvalidInput, match="no parameters"):
        counted(model_of_bare, bare, X)
    with pytest.raises(NonFiniteError, match="explain_nonfinite"):
        counted(model, guide, X, objective=lambda *batch: pyro.param("slope") * torch.nan)
