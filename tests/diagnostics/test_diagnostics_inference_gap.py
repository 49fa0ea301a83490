"""The inference gap of pairs of many kinds: structure, flows, autoguides, supports, discrete latents, bad input."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import autoguide

from pyro_dgm.diagnostics.gap_parts import gap_difference
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.diagnostics.local_guide import LocalGuide
from pyro_dgm.diagnostics.psis import k_hat_threshold
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models import PPCA, VAE
from pyro_dgm.objectives import log_weights
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.samplers import annealed_importance_sampling

SHORT = partial(annealed_importance_sampling, num_chains=200, num_temperatures=40)
X = torch.tensor([0.3, -1.0, 2.0])


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact_log_p(x):
    return dist.Normal(0.0, 2**0.5).log_prob(x).numpy()


def guide_of(make):
    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", make(x))

    return guide


FAMILIES = {
    "normal": lambda x: dist.Normal(0.2 * x, 0.5),
    "constant": lambda x: dist.Normal(0.0, 0.5),
    "student": lambda x: dist.StudentT(20.0, 0.2 * x, 0.5),
    "transformed": lambda x: dist.TransformedDistribution(
        dist.Normal(0.0, 1.0), [dist.transforms.AffineTransform(0.2 * x, 0.5)]
    ),
    "masked": lambda x: dist.Normal(0.2 * x, 0.5).mask(torch.ones(3, dtype=torch.bool)),
    "expanded": lambda x: dist.Normal(torch.tensor(0.1), 0.5).expand([3]),
    "mixture": lambda x: dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(3, 2)),
        dist.Normal(torch.tensor([-0.3, 0.3]) + 0.2 * x[:, None], 0.5),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_best_member_of_a_family_that_holds_the_posterior_has_a_small_gap(family):
    guide = guide_of(FAMILIES[family])
    gap = inference_gap(local_model, guide, X, num_particles=2000, steps=300, estimator="iwae")
    assert np.abs(gap.log_p - exact_log_p(X)).max() < 0.03
    assert (gap.approximation < (0.15 if family == "mixture" else 0.03)).all()
    assert gap.amortisation.mean() > 0.05


@pytest.mark.parametrize("family", [*FAMILIES, "categorical", "gamma", "mvn", "uniform and normal"])
def test_offsets_of_zero_are_the_guide_itself(family):
    makers = FAMILIES | {
        "categorical": lambda x: dist.Categorical(probs=torch.tensor([0.2, 0.8])).expand([3]),
        "gamma": lambda x: dist.Gamma(2.0, x.exp()),
        "mvn": lambda x: dist.MultivariateNormal(
            torch.zeros(3, 2), covariance_matrix=torch.tensor([[2.0, 0.5], [0.5, 1.0]])
        ),
        "uniform and normal": lambda x: dist.TransformedDistribution(
            dist.Normal(x, 1.0), [dist.transforms.ExpTransform()]
        ),
    }
    guide = guide_of(makers[family])
    local = LocalGuide(guide, (X,), plate="data")
    traces = []
    for context in (as_found(), local):
        torch.manual_seed(0)
        with context:
            traces.append(pyro.poutine.trace(guide).get_trace(X))
    ours, moved = (trace.nodes["z"] for trace in traces)
    assert torch.allclose(ours["value"].float(), moved["value"].float(), atol=1e-5)
    assert torch.allclose(ours["fn"].log_prob(ours["value"]), moved["fn"].log_prob(ours["value"]), atol=1e-4)


def test_parts_and_their_summary_add_up():
    gap = inference_gap(local_model, guide_of(FAMILIES["normal"]), X, num_particles=100, steps=20)
    assert np.allclose(gap.approximation + gap.amortisation, gap.total)
    table = gap.summary()
    assert table["total"]["mean"] == pytest.approx(gap.total.mean())
    assert table["elbo"]["standard_error"] == pytest.approx(gap.elbo.std(ddof=1) / 3**0.5)
    difference = gap_difference(gap, gap)["amortisation"]
    assert difference["mean"] == 0 and difference["standard_error"] > 0
    assert all(array.dtype == np.float64 for array in (gap.log_p, gap.elbo, gap.best_elbo))


def test_failed_weights_are_annealed_and_others_are_not():
    narrow = torch.tensor([0.7, 0.1, 0.7])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, narrow[: len(x)]))

    gap = inference_gap(local_model, guide, X, num_particles=1000, steps=1, ais=SHORT)
    assert gap.estimator.tolist() == ["iwae", "ais", "iwae"]
    assert gap.k_hat[1] > k_hat_threshold(1000)
    assert np.abs(gap.log_p - exact_log_p(X)).max() < 0.1


@pytest.mark.parametrize(("noise", "taken"), [(0.01, True), (10.0, False)])
def test_the_better_one_of_failed_weights_and_annealing_is_taken(noise, taken):
    """Annealing is asked of the one datum whose weights failed, and believed if it has less noise than they."""
    narrow = torch.tensor([0.7, 0.1, 0.7])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, narrow[: len(x)]))

    def annealed(densities, sample):
        return SimpleNamespace(log_weight=torch.tensor(exact_log_p(X)) + noise * torch.randn(16, 3))

    torch.manual_seed(1)
    gap = inference_gap(local_model, guide, X, num_particles=1000, steps=1, ais=annealed)
    assert gap.estimator.tolist() == ["iwae", "ais" if taken else "iwae", "iwae"]
    assert gap.k_hat[1] > k_hat_threshold(1000)


def test_every_datum_is_annealed_where_that_is_asked_for():
    for start in ("prior", "guide"):
        guide = guide_of(FAMILIES["normal"])
        gap = inference_gap(
            local_model, guide, X, num_particles=30, steps=1, estimator="ais", start=start, ais=SHORT
        )
        assert set(gap.estimator) == {"ais"}
        assert np.abs(gap.log_p - exact_log_p(X)).max() < 0.2


def structured_model(x):
    with pyro.plate("data", len(x), dim=-2):
        z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("views", 3, dim=-1):
            weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
            pyro.sample("x", dist.Normal(weight * z2.sum(-1), 0.5), obs=x)


def structured_guide(x):
    with pyro.plate("data", len(x), dim=-2):
        z2 = pyro.sample(
            "z2", dist.Normal(x.mean(-1, keepdim=True)[..., None].expand(-1, 1, 2), 1.0).to_event(1)
        )
        with pyro.plate("views", 3, dim=-1):
            pyro.sample("weight", dist.Beta(2 + z2.sum(-1).abs(), 3.0))


def test_a_structured_guide_with_plates_inside_and_a_constrained_latent():
    x = torch.randn(4, 3)
    gap = inference_gap(
        structured_model, structured_guide, x, num_particles=4000, steps=150, estimator="iwae"
    )
    annealed = inference_gap(
        structured_model, structured_guide, x, num_particles=30, steps=1, estimator="ais", ais=SHORT
    )
    assert gap.log_p.shape == (4,)
    assert np.abs(gap.log_p - annealed.log_p).max() < 0.3
    assert (gap.amortisation > 0.1).all() and (gap.approximation > -0.1).all()


@pytest.mark.parametrize("name", ["AutoNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal"])
def test_global_latents_make_one_datum_of_the_whole(name):
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    x = torch.randn(20)
    gap = inference_gap(model, getattr(autoguide, name)(model), x, num_particles=2000, steps=400, ais=SHORT)
    annealed = inference_gap(
        model, autoguide.AutoNormal(model), x, num_particles=30, steps=1, estimator="ais", ais=SHORT
    )
    assert gap.joint and gap.log_p.shape == (1,)
    assert gap.amortisation[0] > 1 and -0.1 < gap.approximation[0] < 0.3
    assert abs(gap.log_p[0] - annealed.log_p[0]) < 0.2


def test_discrete_latents_have_a_gap_but_no_annealing():
    def model(x):
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(2 * k, 1.0), obs=x)

    guide = lambda x: pyro.plate("data", len(x))(  # noqa: E731
        lambda: pyro.sample("k", dist.Bernoulli(torch.full((len(x),), 0.5)))
    )()
    gap = inference_gap(model, guide, X, num_particles=4000, steps=400)
    log_p = torch.logaddexp(
        dist.Normal(0.0, 1.0).log_prob(X) + np.log(0.7), dist.Normal(2.0, 1.0).log_prob(X) + np.log(0.3)
    )
    assert np.abs(gap.log_p - log_p.numpy()).max() < 0.05
    assert gap.amortisation.mean() > 0.05 and np.abs(gap.approximation).max() < 0.1
    with pytest.raises(InvalidInput, match="discrete latent in site 'k'.*estimator='iwae'"):
        inference_gap(model, guide, X, estimator="ais")


def test_scales_do_not_count():
    program = PPCA(4, 2)
    x = program.model(n=5).detach()
    scaled = [pyro.poutine.scale(part, 0.01) for part in (program.model, program.guide)]
    gap = inference_gap(*scaled, x, num_particles=50, steps=5)
    assert np.abs(gap.total).max() < 1e-4
    assert np.abs(gap.log_p - program.log_prob(x).detach().numpy()).max() < 1e-4


def test_a_model_without_latents_has_no_gap():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    gap = inference_gap(model, lambda x: None, X)
    assert gap.estimator.tolist() == ["exact"] * 3 and not gap.total.any()
    assert np.allclose(gap.log_p, dist.Normal(0.0, 1.0).log_prob(X))


def test_a_pair_that_takes_no_particles_is_looped():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            assert z.dim() == 1
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = guide_of(FAMILIES["normal"])
    with pytest.warns(UserWarning, match="particles"):
        gap = inference_gap(
            model,
            guide,
            X,
            num_particles=20,
            steps=2,
            estimator="ais",
            ais=partial(SHORT, num_chains=20, num_temperatures=5),
        )
    assert np.abs(gap.log_p - exact_log_p(X)).max() < 1


def test_nothing_is_left_behind_and_the_global_seed_decides():
    vae = VAE(data_shape=(6,), latent_dim=2, hidden=(8,))
    vae.encoder.append(torch.nn.BatchNorm1d(8))
    x = (torch.rand(12, 6) > 0.5).float()
    vae.train()
    log_weights(vae.model, vae.guide, x)
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    store = set(pyro.get_param_store().keys())
    gaps = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        gaps.append(inference_gap(vae.model, vae.guide, x, num_particles=20, steps=30, estimator="iwae"))
    assert np.array_equal(gaps[0].best_elbo, gaps[1].best_elbo)
    assert not np.array_equal(gaps[0].elbo, gaps[2].elbo)
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in vae.parameters())
    assert set(pyro.get_param_store().keys()) == store


def test_one_call_after_another_has_other_noise():
    guide = guide_of(FAMILIES["normal"])
    first, second = (inference_gap(local_model, guide, X, num_particles=20, steps=1) for _ in "ab")
    assert not np.array_equal(first.elbo, second.elbo)


class Parameterless(dist.TorchDistribution):
    """A standard normal that nothing can be changed of."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def sample(self, sample_shape=()):
        return torch.randn(torch.Size(sample_shape) + self.batch_shape)

    rsample = sample

    def log_prob(self, value):
        return dist.Normal(0.0, 1.0).log_prob(value)

    def expand(self, batch_shape, _instance=None):
        return Parameterless(torch.Size(batch_shape))


class Stubborn(dist.Normal):
    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012

    def __init__(self, center):
        super().__init__(center, 1.0)

    def expand(self, batch_shape, _instance=None):
        return super().expand(batch_shape, self)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_particles": 0}, "num_particles"),
        ({"steps": 0}, "steps"),
        ({"estimator": "best"}, "estimator"),
        ({"start": "data"}, "start"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(InvalidInput, match=f"in {message}"):
        inference_gap(local_model, guide_of(FAMILIES["normal"]), X, **options)


def test_bad_data_are_named():
    guide = guide_of(FAMILIES["normal"])
    with pytest.raises(InvalidInput, match="no data"):
        inference_gap(local_model, guide, X[:0])
    with pytest.raises(InvalidInput, match="NaN in the data in argument 0 of the batch: rows 1"):
        inference_gap(local_model, guide, torch.tensor([0.0, torch.nan, 1.0]))


def test_pairs_without_an_answer_are_refused_by_the_name_of_the_site():
    with pytest.raises(InvalidInput, match="without a guide in site 'z'"):
        inference_gap(local_model, lambda x: None, X)
    with pytest.raises(InvalidInput, match="site 'z'.*Stubborn"):
        inference_gap(local_model, guide_of(Stubborn), X)
    with pytest.raises(InvalidInput, match="no guide site with parameters to move in guide: 'z'"):
        inference_gap(local_model, guide_of(lambda x: Parameterless(x.shape)), X)
    with pytest.raises(IncompatibleModel, match="observes nothing"):
        inference_gap(lambda x: None, lambda x: None, X)
    with pytest.raises(InvalidInput, match="auxiliary.*start='prior'"):
        guide = autoguide.AutoMultivariateNormal(local_model)
        inference_gap(local_model, guide, X, estimator="ais", start="guide")
