"""Planted faults, each with the site, the data and the cause that must be named; and nothing is said of sound pairs."""

from __future__ import annotations

import contextlib
import math
from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, autoguide
from torch import nn

from pyro_dgm.diagnostics import nonfinite as explaining
from pyro_dgm.diagnostics import nonfinite_causes as causes
from pyro_dgm.diagnostics import nonfinite_numbers
from pyro_dgm.diagnostics.nonfinite import explain_nonfinite
from pyro_dgm.models import PPCA
from pyro_dgm.objectives import ELBO, IWAE, PyroELBO, nonfinite

N = 32
BAD = (4, 17, 20)


def pair(likelihood, *, guide_loc=None, plates=True):
    """p(z) p(x | z) with a likelihood of the user's, and a normal guide with two parameters."""

    def model(x, *rest):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", likelihood(z, x), obs=x)

    def guide(x, *rest):
        loc = pyro.param("loc", torch.zeros(()))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc if guide_loc is None else guide_loc(x, loc), scale))

    return model, guide


def at_bad(value, other):
    """(N,) with a value at the bad data."""
    full = torch.full((N,), float(other))
    full[list(BAD)] = value
    return full


def normal(z, x):
    return dist.Normal(z, 1.0)


def ones(*bad):
    return at_bad(bad[0], 1.0) if bad else torch.ones(N)


class Coin(dist.TorchDistribution):
    """A Bernoulli distribution as one might write it; torch's own moves its probabilities off 0 and 1."""

    arg_constraints: ClassVar = {"probs": dist.constraints.unit_interval}
    support = dist.constraints.boolean

    def __init__(self, probs):
        self.probs = probs
        super().__init__(probs.shape)

    def log_prob(self, value):
        return value * self.probs.log() + (1 - value) * (1 - self.probs).log()


# By name: pair, x, then what must be said: site, role, bad data, and words of cause and cure.
FAULTS = {
    "NaN in the data": (pair(normal), ones(math.nan), "x", "model", BAD, "field 0 of the batch is not"),
    "infinite data": (pair(normal), ones(math.inf), "x", "model", BAD, "field 0 of the batch is not"),
    "NaN in the data reaches the guide first": (
        pair(normal, guide_loc=lambda x, loc: x + loc),
        ones(math.nan),
        "z",
        "guide",
        BAD,
        "field 0 of the batch is not",
    ),
    "a scale of 0": (
        pair(lambda z, x: dist.Normal(z, at_bad(0.0, 1.0))),
        ones(),
        "x",
        "model",
        BAD,
        "'scale' is 0: it has underflowed",
    ),
    "exp underflows": (
        pair(lambda z, x: dist.Normal(z, at_bad(-200.0, 0.0).exp())),
        ones(),
        "x",
        "model",
        BAD,
        "'scale' is 0: it has underflowed",
    ),
    "a scale that is merely tiny": (
        pair(lambda z, x: dist.Normal(z, at_bad(1e-30, 1.0))),
        ones(),
        "x",
        "model",
        BAD,
        "'scale' is as small as 1e-30",
    ),
    "a negative scale": (
        pair(lambda z, x: dist.Normal(z, at_bad(-0.5, 1.0))),
        ones(),
        "x",
        "model",
        BAD,
        "'scale' is not greater than 0",
    ),
    "exp overflows": (
        pair(lambda z, x: dist.Normal(at_bad(100.0, 0.0).exp(), 1.0)),
        ones(),
        "x",
        "model",
        BAD,
        "'loc' is infinite: an overflow",
    ),
    "log(0)": (
        pair(lambda z, x: dist.Normal(at_bad(0.0, 1.0).log(), 1.0)),
        ones(),
        "x",
        "model",
        BAD,
        "'loc' is minus infinity, as log(0)",
    ),
    "log of a negative number": (
        pair(lambda z, x: dist.Normal(at_bad(-1.0, 1.0).log(), 1.0)),
        ones(),
        "x",
        "model",
        BAD,
        "'loc' is NaN before",
    ),
    "exp overflows in the guide": (
        pair(normal, guide_loc=lambda x, loc: loc + at_bad(100.0, 0.0).exp()),
        ones(),
        "z",
        "guide",
        BAD,
        "'loc' is infinite: an overflow",
    ),
    "a draw that overflows": (
        pair(lambda z, x: dist.Normal(0.0, 1.0)),  # replaced below: the latent itself
        ones(),
        "z",
        "guide",
        BAD,
        "the draw overflows",
    ),
    "a probability above 1": (
        pair(lambda z, x: Coin(at_bad(1.5, 0.5))),
        at_bad(0.0, 1.0),
        "x",
        "model",
        BAD,
        "'probs' is outside [0, 1]",
    ),
    "a probability of 1": (
        pair(lambda z, x: Coin(at_bad(30.0, 0.0).sigmoid())),
        at_bad(0.0, 1.0),
        "x",
        "model",
        BAD,
        "'probs' is exactly 0 or 1",
    ),
    "a rate of 0": (
        pair(lambda z, x: dist.Poisson(at_bad(0.0, 1.0))),
        ones(),
        "x",
        "model",
        BAD,
        "'rate' is 0",
    ),
    "a class whose logit is log(0)": (
        pair(lambda z, x: dist.Categorical(logits=torch.stack([torch.zeros(N), at_bad(-math.inf, 0.0)], -1))),
        torch.ones(N),
        "x",
        "model",
        BAD,
        "'logits' is minus infinity",
    ),
    "data outside the support": (
        pair(lambda z, x: dist.Gamma(2.0, 1.0)),
        ones(-1.0),
        "x",
        "model",
        BAD,
        "value outside the support",
    ),
    "data at the edge of the support": (
        pair(lambda z, x: dist.Beta(2.0, 2.0)),
        at_bad(0.0, 0.5),
        "x",
        "model",
        BAD,
        "at the edge of the support",
    ),
    "data too far out": (pair(normal), ones(1e30), "x", "model", BAD, "it lies too far out"),
    "a component of a mixture": (
        pair(
            lambda z, x: dist.MixtureSameFamily(
                dist.Categorical(torch.ones(2)),
                dist.Normal(torch.zeros(2), torch.stack([at_bad(0.0, 1.0), torch.ones(N)], -1)),
            )
        ),
        at_bad(0.0, 1.0),
        "x",
        "model",
        None,
        "'component_distribution.scale' is 0",
    ),
    "the base of a transformed distribution": (
        pair(lambda z, x: dist.LogNormal(at_bad(math.nan, 0.0), 1.0)),
        ones(),
        "x",
        "model",
        BAD,
        "'loc' is NaN",
    ),
}


def _overflowing(x):
    pyro.param("loc", torch.zeros(()))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.LogNormal(at_bad(200.0, 0.0), 1.0))


FAULTS["a draw that overflows"] = (
    (FAULTS["a draw that overflows"][0][0], _overflowing),
    *FAULTS["a draw that overflows"][1:],
)


@pytest.mark.parametrize(
    "objective", [None, ELBO(), IWAE(3), Trace_ELBO(3)], ids=["none", "elbo", "iwae", "pyro"]
)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_data_and_its_cause(name, objective):
    (model, guide), x, site, role, bad, cause = FAULTS[name]
    found = explain_nonfinite(model, guide, x, objective=objective)
    assert (found.kind, found.site, found.role) == ("log-density", site, role)
    if bad is not None:
        assert (found.places.indices, found.places.count, found.places.size) == (bad, len(bad), N)
        assert found.places.plate == "data"
    assert cause in found.cause
    assert f"site {site!r} of the {role}" in str(found) and len(str(found).splitlines()) <= 9


@pytest.mark.parametrize("validation", [True, False])
def test_pyros_argument_checks_are_off_inside_and_as_they_were_outside(validation):
    pyro.enable_validation(validation)
    (model, guide), x, *_ = FAULTS["a scale of 0"]
    assert explain_nonfinite(model, guide, x).site == "x"
    assert torch.distributions.Normal(0.0, 1.0)._validate_args is validation
    assert pyro.settings.get("validate_infer") is validation


def test_a_distribution_that_was_made_with_its_checks_on_is_explained_too():
    gamma = dist.Gamma(2.0, 1.0, validate_args=True)
    model, guide = pair(lambda z, x: gamma)
    assert "outside the support" in explain_nonfinite(model, guide, ones(-1.0), objective=ELBO()).cause


SOUND = {
    "a sound pair": (pair(normal), torch.ones(N)),
    "NaN in a field that nobody uses": (pair(normal), torch.ones(N), torch.full((N,), math.nan)),
    "whole numbers": (pair(lambda z, x: dist.Poisson(z.exp())), torch.ones(N, dtype=torch.long)),
    "zeros in the support": (pair(lambda z, x: dist.Poisson(z.exp())), torch.zeros(N)),
    "a root away from zero": (pair(normal, guide_loc=lambda x, loc: (loc + 1.0).sqrt()), torch.ones(N)),
}


@pytest.mark.parametrize(
    "objective", [None, ELBO(), IWAE(3), Trace_ELBO()], ids=["none", "elbo", "iwae", "pyro"]
)
@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_a_sound_pair(name, objective):
    (model, guide), *batch = SOUND[name]
    assert explain_nonfinite(model, guide, *batch, objective=objective) is None


def test_the_ranges_count_what_is_not_finite():
    scale = torch.tensor([0.5, 0.0, math.nan, math.inf, 2.0, -1.0])
    model, guide = pair(lambda z, x: dist.Normal(z, scale))
    found = explain_nonfinite(model, guide, torch.arange(6.0))
    (numbers,) = [argument for argument in found.arguments if argument.name == "scale"]
    assert (numbers.count, numbers.minimum, numbers.maximum) == (6, -1.0, 2.0)
    assert (numbers.num_nan, numbers.num_infinite, numbers.num_outside) == (1, 1, 2)
    assert str(numbers) == "scale: -1 to 2 (6 numbers), 1 NaN, 1 inf, 2 not greater than 0"
    assert (found.value.minimum, found.value.maximum) == (0.0, 5.0)
    assert found.log_density.count == 6


def test_many_bad_data_are_counted_and_the_first_ten_listed():
    generator = torch.Generator().manual_seed(3)
    for count in (1, 10, 11, 60):
        bad = torch.randperm(100, generator=generator)[:count].sort().values
        x = torch.zeros(100, 2)
        x[bad, 1] = math.nan

        def model(x):
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x)

        found = explain_nonfinite(model, lambda x: None, x)
        for places in (found.places, found.fields[0]):
            assert (places.indices, places.count, places.size) == (tuple(bad[:10].tolist()), count, 100)
        assert found.fields[0].first == f"nan at ({int(bad[0])}, 1)"
        assert str(found).splitlines()[0].startswith(f"not finite: field 0 of the batch at {count} of 100: ")


def test_bad_data_behind_a_mask_are_not_blamed_for_another_fault():
    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=~x.isnan()):
            pyro.sample("x", dist.Normal(0.0, torch.tensor([1.0, 1.0, 0.0])), obs=x)

    found = explain_nonfinite(model, lambda x: None, torch.tensor([math.nan, 1.0, 1.0]))
    assert found.fields[0].indices == (0,) and found.places.indices == (2,)
    assert "'scale' is 0" in found.cause


MASKS = {
    "poutine.mask": lambda x: poutine.mask(dist_at, mask=~x.isnan())(x),
    "distribution.mask": lambda x: dist_at(x, ~x.isnan()),
}


def dist_at(x, mask=None, loc=0.0):
    fn = dist.Normal(loc, 1.0).expand([len(x)])
    pyro.sample("x", fn if mask is None else fn.mask(mask), obs=x)


@pytest.mark.parametrize("name", MASKS)
def test_what_a_mask_leaves_out_is_no_fault(name):
    def model(x):
        with pyro.plate("data", len(x)):
            MASKS[name](x)

    x = torch.tensor([0.0, math.nan, 1.0])
    assert explain_nonfinite(model, lambda x: None, x) is None


def test_masked_data_that_spoil_the_gradient_alone():
    def model(x):
        loc = pyro.param("loc", torch.zeros(()))
        with pyro.plate("data", len(x)), poutine.mask(mask=~x.isnan()):
            dist_at(x, loc=loc)

    found = explain_nonfinite(model, lambda x: None, torch.tensor([0.0, math.nan, 1.0]))
    assert (found.kind, found.site, found.parameters) == ("gradient", "x", ("loc",))
    assert "that a mask leaves out" in found.cause and found.fields[0].indices == (1,)
    assert explain_nonfinite(model, lambda x: None, torch.tensor([0.0, 0.0, 1.0])) is None


@pytest.mark.parametrize("objective", [None, ELBO(), Trace_ELBO()], ids=["none", "elbo", "pyro"])
def test_a_gradient_that_is_bad_where_the_loss_is_not(objective):
    model, guide = pair(
        normal, guide_loc=lambda x, loc: loc + (loc * at_bad(0.0, 1.0) + at_bad(0.0, 1.0)).sqrt()
    )
    found = explain_nonfinite(model, guide, torch.ones(N), objective=objective)
    assert (found.kind, found.site, found.role, found.parameters) == ("gradient", "z", "guide", ("loc",))
    assert found.operation.startswith(f"sqrt, input of shape ({N},), at (4,), (17,), (20,)")
    assert "derivative of sqrt" in found.cause


def test_the_gradient_of_the_objective_itself():
    model, guide = pair(normal)

    def objective(model, guide, x):
        return ELBO()(model, guide, x) + pyro.param("loc").abs().sqrt()

    found = explain_nonfinite(model, guide, torch.ones(N), objective=objective)
    assert (found.kind, found.site, found.parameters) == ("gradient", None, ("loc",))
    assert found.operation == "sqrt, input of shape ()"


def test_a_loss_that_no_site_explains():
    model, guide = pair(normal)
    found = explain_nonfinite(
        model, guide, torch.ones(N), objective=lambda *args: ELBO()(*args) + torch.tensor(math.inf)
    )
    assert (found.kind, found.site) == ("loss", None)
    assert "though every site is" in str(found)


def test_a_parameter_that_is_bad_already():
    program = PPCA(4, 2)
    with torch.no_grad():
        program.mean[1] = math.nan
    found = explain_nonfinite(program.model, program.guide, torch.zeros(5, 4), objective=ELBO())
    (name,) = found.parameters
    assert name.endswith("$$$mean") and name in found.cause and "earlier update" in found.cause
    assert (found.kind, found.site, found.role) == ("log-density", "z", "guide")
    with torch.no_grad():
        program.mean[1], program.loadings[1, 1] = 0.0, math.nan  # no Cholesky factor: the guide raises
    found = explain_nonfinite(program.model, program.guide, torch.zeros(5, 4), objective=ELBO())
    assert (found.kind, found.site) == ("error", None) and "$$$loadings" in found.cause


def test_a_run_that_breaks_off_for_another_reason_raises_that():
    def model(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        explain_nonfinite(model, lambda x: None, torch.ones(3))


def test_a_run_that_breaks_off_on_bad_data_is_explained():
    def model(x):
        with pyro.plate("data", len(x)):
            covariance = torch.eye(2) * x[:, None, None]
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), covariance), obs=torch.zeros(len(x), 2))

    found = explain_nonfinite(model, lambda x: None, torch.tensor([1.0, math.nan]))
    assert found.kind == "error" and found.fields[0].indices == (1,)
    assert "field 0 of the batch is not finite" in str(found)
    with pytest.raises(RuntimeError, match="cholesky"):
        explain_nonfinite(model, lambda x: None, torch.tensor([1.0, -1.0]))


def test_a_factor():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.factor("penalty", x.log())

    found = explain_nonfinite(model, lambda x: None, torch.tensor([1.0, 0.0]))
    assert (found.site, found.places.indices, found.value) == ("penalty", (1,), None)
    assert "'log_factor' is minus infinity" in found.cause


# ---- plates


def test_rounds_of_a_sequential_plate():
    def model(x):
        for t in pyro.plate("time", 5):
            with pyro.plate("data", len(x)):
                scale = torch.ones(len(x))
                scale[2] = float(t != 3)
                pyro.sample(f"x_{t}", dist.Normal(0.0, scale), obs=x)

    found = explain_nonfinite(model, lambda x: None, torch.ones(4))
    assert (found.site, found.places.indices, found.places.steps) == ("x_3", (2,), (("time", 3),))
    assert "round 3 of plate 'time'" in str(found)


def test_data_in_a_sequential_plate():
    def model(x):
        for i in pyro.plate("data", len(x)):
            pyro.sample(f"x_{i}", dist.Normal(0.0, 1.0), obs=x[i].log())

    found = explain_nonfinite(model, lambda x: None, torch.tensor([1.0, 1.0, 0.0]))
    assert (found.site, found.places.steps, found.places.count) == ("x_2", (("data", 2),), 0)
    assert "the observed value is not finite" in found.cause


def test_a_subsample_gives_the_indices_that_it_drew():
    def model(x):
        with pyro.plate("data", 10, subsample=torch.tensor([9, 3, 7])) as index:
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[index])

    x = torch.zeros(10)
    x[[1, 3, 7]] = math.nan
    assert explain_nonfinite(model, lambda x: None, x).places.indices == (3, 7)


def test_inner_plates_and_a_global_site():
    def model(x):
        features = pyro.plate("features", 3, dim=-2)
        with features:
            w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with features, pyro.plate("data", x.shape[1], dim=-1):
            pyro.sample("x", dist.Normal(w, 1.0), obs=x)

    def guide(x, scale=1.0):
        with pyro.plate("features", 3, dim=-2):
            pyro.sample("w", dist.Normal(torch.zeros(3, 1), torch.tensor([[1.0], [scale], [1.0]])))

    x = torch.zeros(3, 5)
    x[1, 4] = math.inf
    found = explain_nonfinite(model, guide, x, objective=ELBO(3))
    # The outermost plate of the data by the order in which they were entered.
    assert (found.places.plate, found.places.indices, found.places.size) == ("features", (1,), 3)
    found = explain_nonfinite(model, lambda x: guide(x, 0.0), torch.zeros(3, 5))
    assert (found.site, found.places.plate, found.places.indices) == ("w", "features", (1,))


def test_sites_in_no_plate():
    def model(x):
        pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0), obs=x)

    found = explain_nonfinite(model, lambda x: None, torch.tensor([0.0, math.nan, math.nan]))
    assert (found.places.plate, found.places.indices, found.places.size) == (None, (1, 2), 3)

    def whole(x):
        pyro.sample("x", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1), obs=x)

    assert explain_nonfinite(whole, lambda x: None, torch.tensor([0.0, math.nan])).places.count == 0


# ---- enumeration


def mixture(x, scales=(1.0, 1.0), log_probs=(0.0, 0.0)):
    weights = pyro.param("weights", torch.zeros(2))
    with pyro.plate("data", len(x)):
        k = pyro.sample(
            "k", dist.Categorical(logits=weights + torch.tensor(log_probs)), infer={"enumerate": "parallel"}
        )
        pyro.sample("x", dist.Normal(k.float(), torch.tensor(scales)[k]), obs=x)


ENUMERATED = [None, TraceEnum_ELBO(max_plate_nesting=1), PyroELBO(TraceEnum_ELBO())]


@pytest.mark.parametrize("objective", ENUMERATED, ids=["none", "pyro", "adapter"])
def test_an_impossible_state_of_an_enumerated_site_is_no_fault(objective):
    def model(x):
        mixture(x, log_probs=(0.0, -math.inf))

    assert explain_nonfinite(model, lambda x: None, torch.zeros(4), objective=objective) is None
    # Beside another fault it is not blamed either.
    found = explain_nonfinite(model, lambda x: None, torch.tensor([0.0, math.nan]), objective=objective)
    assert (found.site, found.places.indices) == ("x", (1,))


@pytest.mark.parametrize("objective", ENUMERATED, ids=["none", "pyro", "adapter"])
def test_the_bad_component_of_an_enumerated_mixture(objective):
    def model(x):
        mixture(x, scales=(1.0, 0.0))

    found = explain_nonfinite(model, lambda x: None, torch.tensor([0.0, 1.0, 2.0]), objective=objective)
    assert (found.site, found.places.plate, found.places.indices) == (
        "x",
        "data",
        (0, 1, 2),
    )
    assert "'scale' is 0" in found.cause


# ---- autoguides


@pytest.mark.parametrize(
    "kind", ["AutoNormal", "AutoMultivariateNormal", "AutoIAFNormal", "AutoDelta", "AutoDiagonalNormal"]
)
def test_autoguides(kind):
    def model(x, scale):
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w.sum(), scale), obs=x)

    guide, x = getattr(autoguide, kind)(model), torch.zeros(4)
    sound, bad = torch.ones(4), torch.tensor([1.0, 1.0, 1.0, 0.0])
    assert explain_nonfinite(model, guide, x, sound) is None
    found = explain_nonfinite(model, guide, x, bad)
    assert (found.site, found.places.indices) == ("x", (3,))
    assert not len(pyro.get_param_store())
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    assert math.isfinite(svi.step(x, sound)) and len(pyro.get_param_store())
    with torch.no_grad():
        next(guide.parameters()).fill_(math.nan)
    found = explain_nonfinite(model, guide, x, sound)
    assert found.role == "guide" and found.parameters and "not finite already" in found.cause


# ---- nothing is left behind


@pytest.mark.parametrize(
    "objective", [None, ELBO(3), IWAE(3), Trace_ELBO()], ids=["none", "elbo", "iwae", "pyro"]
)
def test_everything_is_left_as_it_was(objective):
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = nn.Sequential(nn.BatchNorm1d(1), nn.Linear(1, 1))

        def model(self, x):
            pyro.module("n", self)
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z, self.network(x[:, None])[:, 0].abs().sqrt() * 0.0), obs=x)

        def guide(self, x):
            pyro.param("late", torch.zeros(()))
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    module = Normalised()
    pyro.module("n", module)
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    names, state = set(pyro.get_param_store()), torch.get_rng_state()
    assert explain_nonfinite(module.model, module.guide, torch.randn(5), objective=objective).site == "x"
    torch.set_rng_state(state)
    assert explain_nonfinite(module.model, module.guide, torch.ones(5), objective=objective).site == "x"
    assert torch.equal(torch.get_rng_state(), state)
    assert set(pyro.get_param_store()) == names
    assert pyro.param("n$$$network.1.weight") is module.network[1].weight
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(bool((parameter.grad == 7.0).all()) for parameter in module.parameters())


def test_a_rare_draw_is_found_with_the_random_state_that_showed_it():
    model, guide = pair(lambda z, x: dist.Normal(z, (z < 2.0).float()))
    x = torch.ones(1)
    found = []
    for seed in range(200):
        pyro.set_rng_seed(seed)
        z = poutine.trace(guide).get_trace(x).nodes["z"]["value"]
        pyro.set_rng_seed(seed)
        explanation = explain_nonfinite(model, guide, x)
        assert (explanation is not None) == bool(z >= 2.0)
        found.append(explanation is not None)
    assert any(found)


# ---- planted mutants: each breaks the explanation in one place, and the test beside it must fail


def unmasked(site):
    return site["fn"].log_prob(site["value"])


def every_minus_infinity(site, log_prob, enumerated):
    return nonfinite.bad_entries(site, log_prob, set())


def any_value(site, log_prob, enumerated):
    return nonfinite.bad_entries(site, log_prob, enumerated) | ~torch.isfinite(site["value"])


def backwards(*args, **kwargs):
    recording = nonfinite.record(*args, **kwargs)
    recording.sites.reverse()
    return recording


def unrehearsed(*args, rehearsed, **kwargs):
    return nonfinite.record(*args, **kwargs)


def positions(recording, site, bad):
    recording.subsamples.clear()
    return nonfinite_numbers.site_places(recording, site, bad)


def innermost(site):
    return list(site["cond_indep_stack"])[::-1]


def never(*args):
    return {}


@contextlib.contextmanager
def careless():
    yield


MUTANTS = {
    "masks are forgotten": (
        explaining,
        "log_density",
        unmasked,
        lambda: test_bad_data_behind_a_mask_are_not_blamed_for_another_fault(),
    ),
    "enumerated states must all be possible": (
        explaining,
        "bad_entries",
        every_minus_infinity,
        lambda: test_an_impossible_state_of_an_enumerated_site_is_no_fault(None),
    ),
    "masked values count": (
        explaining,
        "bad_entries",
        any_value,
        lambda: test_bad_data_behind_a_mask_are_not_blamed_for_another_fault(),
    ),
    "the last site is named": (
        explaining,
        "record",
        backwards,
        lambda: test_a_planted_fault_is_named_with_its_data_and_its_cause(
            "NaN in the data reaches the guide first", None
        ),
    ),
    "another draw is looked at": (
        explaining,
        "record",
        unrehearsed,
        lambda: test_the_bad_component_of_an_enumerated_mixture(TraceEnum_ELBO()),
    ),
    "positions in place of indices": (
        explaining,
        "site_places",
        positions,
        lambda: test_a_subsample_gives_the_indices_that_it_drew(),
    ),
    "the innermost plate": (
        nonfinite_numbers,
        "_frames",
        innermost,
        lambda: test_inner_plates_and_a_global_site(),
    ),
    "gradients are not looked at": (
        explaining,
        "bad_gradients",
        never,
        lambda: test_a_gradient_that_is_bad_where_the_loss_is_not(None),
    ),
    "parameters are not looked at": (
        explaining,
        "likely_cause",
        lambda *args: causes.likely_cause(*args[:-1], ()),
        lambda: test_a_parameter_that_is_bad_already(),
    ),
    "random numbers and buffers are used up": (
        explaining,
        "as_found",
        careless,
        lambda: test_everything_is_left_as_it_was(None),
    ),
    "parameters stay in the store": (
        explaining,
        "_store_as_found",
        careless,
        lambda: test_everything_is_left_as_it_was(None),
    ),
    "argument checks of old distributions": (
        nonfinite,
        "_unchecked",
        lambda fn: fn,
        lambda: test_a_distribution_that_was_made_with_its_checks_on_is_explained_too(),
    ),
    "the whole range is judged": (
        causes.Argument,
        "at",
        lambda self, bad, batch_shape: self.value,
        lambda: test_a_cause_is_read_off_the_bad_data_alone(),
    ),
}


def test_a_cause_is_read_off_the_bad_data_alone():
    def model(x):
        with pyro.plate("data", len(x)), poutine.mask(mask=torch.tensor([False, True, True])):
            loc, scale = torch.tensor([math.nan, 0.0, 0.0]), torch.tensor([1.0, 0.0, 1.0])
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    found = explain_nonfinite(model, lambda x: None, torch.ones(3))
    assert found.places.indices == (1,) and "'scale' is 0" in found.cause


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mutant_is_caught(name, monkeypatch):
    owner, attribute, mutant, law = MUTANTS[name]
    law()
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    monkeypatch.setattr(owner, attribute, mutant)
    with pytest.raises((AssertionError, AttributeError, ValueError)):
        law()
