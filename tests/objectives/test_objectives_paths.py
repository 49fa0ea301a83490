"""Gradients along paths: which guides have none and are refused, and what a step leaves behind."""

import gc
import math
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal, AutoNormalMessenger
from torch import nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ELBO, IWAE
from pyro_dgm.objectives.paths import Paths
from tests.laws.path_pairs import Chain

pytestmark = pytest.mark.filterwarnings("ignore:this model or guide does not take")


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def refusing(**functions):
    """A pair of functions, of which the guide may be replaced."""
    loc = nn.Parameter(torch.zeros(2))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    return functions.get("model", model), functions.get("guide", guide), torch.randn(3, 2)


def planar():
    flow = dist.transforms.Planar(2)

    def guide(x):
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
            pyro.sample("z", dist.TransformedDistribution(base, [flow]))

    return refusing(guide=guide)


def dropout():
    network = nn.Sequential(nn.Linear(2, 20), nn.Dropout(0.5), nn.Linear(20, 2))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(3.0 * network(x), 0.1).to_event(1))

    return refusing(guide=guide)


def discrete():
    logit = nn.Parameter(torch.zeros(()))

    def model(x):
        with pyro.plate("data", len(x)):
            b = pyro.sample("b", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(b[..., None], 1.0).expand([*b.shape, 2]).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("b", dist.Bernoulli(logits=logit))

    return refusing(model=model, guide=guide)


def guide_messenger():
    model, _, x = refusing()
    return model, AutoNormalMessenger(model), x


def computed():
    scale = nn.Parameter(torch.zeros(()))

    def guide(x):
        with pyro.plate("data", len(x)):
            noise = pyro.sample(
                "noise", dist.Normal(torch.zeros(2), 1.0).to_event(1), infer={"is_auxiliary": True}
            )
            density = (-2 * scale).expand(noise.shape[:-1])
            pyro.sample("z", dist.Delta(scale.exp() * noise, log_density=density, event_dim=1))

    return refusing(guide=guide)


REFUSED = {
    "planar flow": (planar, "known at its own draws only in the guide"),
    "dropout in the guide": (dropout, "noise of its own in site 'z'"),
    "not reparameterised": (discrete, "not reparameterised in site 'b'"),
    "GuideMessenger": (guide_messenger, "a guide that is an effect handler in AutoNormalMessenger"),
    "density with parameters of its own": (computed, "density has parameters of its own in site 'z'"),
}


@pytest.mark.parametrize(
    "objective", [ELBO(gradient="stl"), IWAE(3, gradient="stl"), IWAE(3, gradient="dreg")]
)
@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_path_gradient_is_refused_in_one_line(name, objective):
    make, message = REFUSED[name]
    model, guide, x = make()
    with pytest.raises(InvalidInput, match=message) as caught:
        objective(model, guide, x).backward()
    assert "\n" not in str(caught.value) and "; try " in str(caught.value)


@pytest.mark.parametrize("make", [planar, dropout, guide_messenger, computed])
def test_what_is_refused_has_an_ordinary_gradient(make):
    model, guide, x = make()
    for objective in (ELBO(), ELBO(3)):
        objective(model, guide, x).backward()


def test_a_trained_latent_of_all_data_has_no_weight_to_be_squared():
    loc = nn.Parameter(torch.zeros(()))

    def model(x):
        shared = pyro.sample("shared", dist.Normal(loc, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shared, 1.0), obs=x)

    def guide(x):
        pyro.sample("shared", dist.Normal(loc, 1.0))

    IWAE(3)(model, guide, torch.randn(4)).backward()
    with pytest.raises(InvalidInput, match="trained latent variable outside the batch in site 'shared'"):
        IWAE(3, gradient="dreg")(model, guide, torch.randn(4))


@pytest.mark.parametrize("auto", [AutoNormal, AutoMultivariateNormal])
def test_autoguides_have_path_gradients(auto):
    """Their latents are computed from auxiliary draws: at the posterior nothing is left of the gradient."""

    def model(x):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.LogNormal(rate.log(), 1.0), obs=x)

    x = torch.tensor(1.7)
    guide = auto(model)
    guide(x)
    guide(x)
    values = dict(guide.named_parameters())
    with torch.no_grad():  # the posterior of log(rate): mean log(x) / 2, variance 1 / 2
        for name, value in values.items():
            if "loc" in name:
                value.fill_(x.log() / 2)
            elif "scale_tril" in name:
                value.fill_(1.0)
            else:
                value.fill_(math.log(math.expm1(0.5**0.5)))
    for kind, limit in (("pathwise", None), ("stl", 1e-10)):
        for value in values.values():
            value.grad = None
        ELBO(3, gradient=kind)(model, guide, x).backward()
        left = max(value.grad.abs().max().item() for value in values.values() if value.grad is not None)
        assert left > 1e-2 if limit is None else left < limit


def test_the_guide_runs_twice_on_the_draws_of_one():
    """The noise is that of the ordinary gradient: with one seed all kinds have one value."""
    pair = Chain(0)
    found = []
    for objective in (IWAE(3), IWAE(3, gradient="stl"), IWAE(3, gradient="dreg")):
        torch.manual_seed(5)
        found.append(objective(pair.model, pair.guide, pair.x).item())
    assert found == pytest.approx(found[:1] * 3, rel=1e-14)


def left_over(objective, monkeypatch):
    """Whether anything of a step is still there when its loss is gone."""
    made, begin = [], Paths.__init__

    def noted(self, guide):
        begin(self, guide)
        made.append(weakref.ref(self))

    pair = Chain(0)
    objective(pair.model, pair.guide, pair.x)
    monkeypatch.setattr(Paths, "__init__", noted)
    objective(pair.model, pair.guide, pair.x).backward()
    gc.collect()
    assert made
    return any(reference() is not None for reference in made)


@pytest.mark.parametrize(
    "objective", [ELBO(3, gradient="stl"), IWAE(3, gradient="stl"), IWAE(3, gradient="dreg")]
)
def test_the_graph_of_a_step_goes_with_it(objective, monkeypatch):
    """No hook keeps its own graph alive, or training would take more memory with each step."""
    assert not left_over(objective, monkeypatch)


def test_a_hook_that_holds_its_graph_is_seen(monkeypatch):
    def forked(self, name, value):
        if not value.requires_grad:
            return value
        seen = value.view_as(value)
        seen.register_hook(lambda gradient: gradient * self._factors.get(name, 1.0))
        return seen.view_as(seen)

    monkeypatch.setattr(Paths, "_forked", forked)
    assert left_over(IWAE(3, gradient="dreg"), monkeypatch)
