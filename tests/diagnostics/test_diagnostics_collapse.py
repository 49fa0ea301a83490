import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import nn

from pyro_dgm.diagnostics.posterior_collapse import collapse
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models import PPCA, VAE
from pyro_dgm.objectives import log_weights
from pyro_dgm.objectives.divergence import site_divergences

N = 200
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))


def normals(**guides):
    """Model x = z + noise with one unit to a site, and a guide with the distributions asked for by ``guides``."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = sum(pyro.sample(name, dist.Normal(0.0, 1.0)) for name in guides)
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            for name, q in guides.items():
                pyro.sample(name, q(x))

    return model, guide


def test_the_verdict_names_what_has_collapsed_and_the_cure():
    model, guide = normals(
        dead=lambda x: dist.Normal(torch.zeros(len(x)), 1.0), alive=lambda x: dist.Normal(x[:, 1], 0.5)
    )
    found = collapse(model, guide, X)
    (line,) = found.verdict
    assert line.startswith(
        "site 'dead' has collapsed to the prior: KL 0.000 nats per datum; try KL annealing"
    )
    assert (found.sites["dead"].active_units, found.sites["alive"].active_units) == (0, 1)


def test_a_number_among_the_arguments_does_not_hide_the_active_units():
    model, guide = normals(z=lambda x: dist.Normal(x[:, 1], 0.5))
    found = collapse(lambda x, beta: model(x), lambda x, beta: guide(x), X, 1.0)
    assert found.sites["z"].active_units == 1


def test_the_verdict_names_units_and_a_site_that_does_not_move():
    class Halves(nn.Module):
        def forward(self, x):
            mean = torch.stack([x[:, 0], torch.zeros(len(x)), 2 + torch.zeros(len(x))], -1)
            return dist.Normal(mean, torch.tensor([0.5, 1.0, 0.5])).to_event(1)

    ppca = PPCA(3, 3, posterior=Halves())
    found = collapse(ppca.model, ppca.guide, X)
    assert found.verdict[0].startswith("1 of 3 units of site 'z' have collapsed to the prior (1); try fewer")
    assert found.sites["z"].active_units == 1
    still = collapse(*normals(z=lambda x: dist.Normal(2 + torch.zeros(len(x)), 0.5)), X)
    assert still.verdict[0].startswith("site 'z' has no active unit: its KL of 2.3")
    assert abs(still.mutual_information) < 1e-5


def test_moments_of_the_aggregated_posterior():
    found = collapse(*normals(z=lambda x: dist.Normal(1 + 2 * x[:, 1], 0.5)), X, num_samples=50)
    site, means = found.sites["z"], 1 + 2 * X[:, 1]
    assert site.mean == pytest.approx(means.mean().item(), abs=4.9 * 0.5 / math.sqrt(50 * N))
    assert site.standard_deviation == pytest.approx(
        means.var(unbiased=False).add(0.25).sqrt().item(), rel=0.02
    )


def test_notes_say_when_the_ceiling_binds_or_noise_makes_the_information_negative():
    near = collapse(*normals(z=lambda x: dist.Normal(torch.arange(len(x)).float(), 0.01)), X)
    assert near.mutual_information == pytest.approx(near.mutual_information_ceiling) == math.log(N)
    assert f"near log {N} = 5.30 nats" in near.notes[0]
    model, guide = normals(z=lambda x: dist.Normal(0.01 * x[:, 1], 1.0))
    notes = []
    for _ in range(20):
        found = collapse(model, guide, X, num_samples=1)
        assert bool(found.notes) == (found.mutual_information < 0)
        notes += found.notes
    assert notes
    assert all("negative by noise" in note for note in notes)


@pytest.mark.parametrize("vectorized", [True, False])
def test_a_structured_guide_has_the_information_of_its_joint_density(vectorized):
    """z2 = z1 + noise: all information is z1's, though q(z2 | z1) says nothing more."""

    def model(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(0.0, 1.0))
            z2 = pyro.sample("z2", dist.Normal(z1, 1.0))
            pyro.sample("x", dist.Normal(z2, 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", dist.Normal(x[:, 1], 0.5))
            if not vectorized and z1.dim() > 1:
                raise ValueError("no particles here")
            pyro.sample("z2", dist.Normal(z1, 1.0))

    x = X[:60]
    torch.manual_seed(0)
    single = collapse(*normals(z1=lambda x: dist.Normal(x[:, 1], 0.5)), x, num_samples=20)
    if vectorized:
        found = collapse(model, guide, x, num_samples=20)
    else:
        with pytest.warns(UserWarning, match="no particles here"):
            found = collapse(model, guide, x, num_samples=20)
    for name in ("mutual_information", "aggregated_kl"):
        error = getattr(single, f"{name}_standard_error")
        assert getattr(found, name) == pytest.approx(getattr(single, name), abs=4.9 * error)
    assert found.sites["z2"].kl == pytest.approx(0, abs=1e-6)


def test_discrete_latents():
    """A coin and a category that copy a bit of the data: log 2 of information, in both kinds of sites."""
    bits = torch.arange(N) % 2

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("coin", dist.Bernoulli(0.5))
            pyro.sample("kind", dist.OneHotCategorical(torch.ones(4) / 4))
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    def guide(x):
        sure = torch.eye(2)[bits]
        with pyro.plate("data", len(x)):
            pyro.sample("coin", dist.Bernoulli(sure[:, 1]))
            pyro.sample("kind", dist.OneHotCategorical(torch.cat([sure, sure], -1) / 2))

    found = collapse(model, guide, X)
    assert found.mutual_information == pytest.approx(math.log(2), abs=1e-5)
    assert found.sites["coin"].kl == pytest.approx(math.log(2), abs=1e-5)
    assert found.sites["kind"].kl_per_unit == pytest.approx([math.log(2)], abs=1e-5)
    assert found.aggregated_kl == pytest.approx(
        math.log(2), abs=1e-5
    )  # coin and kind go together, not in the prior


def test_global_latents_have_a_divergence_but_no_information():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shift, 1.0), obs=x[:, 0])

    found = collapse(model, lambda x: pyro.sample("shift", dist.Normal(1.0, 1.0)), X)
    assert found.sites["shift"].kl == pytest.approx(0.5)
    assert found.sites["shift"].kl_per_datum.shape == ()
    assert found.mutual_information is None
    assert "no latent variable that the guide draws inside plate 'data'" in found.notes[0]
    assert found.verdict == ()


def test_autoguides_of_local_latents():
    model, _ = normals(a=None, b=None)
    guide = AutoNormal(model)
    guide(X)
    with torch.no_grad():
        guide.locs.a.copy_(X[:, 1])
    found = collapse(model, guide, X)
    same = collapse(
        *normals(a=lambda x: dist.Normal(x[:, 1], 0.1), b=lambda x: dist.Normal(guide.locs.b, 0.1)), X
    )
    assert found.sites["a"].kl == pytest.approx(same.sites["a"].kl, abs=0.1)
    assert found.mutual_information == pytest.approx(same.mutual_information, abs=0.1)
    joint = collapse(model, AutoMultivariateNormal(model), X[:20])
    assert list(joint.sites) == ["a+b"]
    assert joint.mutual_information is None


def test_a_positive_latent_of_an_autoguide_counts_its_jacobian():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    guide = AutoNormal(model)
    guide(X)
    with torch.no_grad():
        guide.locs.z.copy_(X[:, 1] + 2)  # the mean logarithm of its Jacobian is 2

    def plain(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.LogNormal(x[:, 1] + 2, 0.1))

    found, same = collapse(model, guide, X), collapse(model, plain, X)
    error = found.aggregated_kl_standard_error
    assert found.aggregated_kl == pytest.approx(same.aggregated_kl, abs=4.9 * 2**0.5 * error)
    assert error < 0.2
    assert found.sites["z"].kl == pytest.approx(same.sites["z"].kl, abs=0.1)


def test_a_prior_that_depends_on_the_datum_has_no_one_distance():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(x[:, 1], 1.0)), 1.0), obs=x[:, 0])

    found = collapse(model, normals(z=lambda x: dist.Normal(x[:, 1], 0.5))[1], X)
    assert found.aggregated_kl is None
    assert found.mutual_information > 0.5
    assert found.notes == ("no KL of the aggregated posterior: the prior depends on the datum",)


def test_masked_data_have_no_information_and_no_divergence():
    mask = torch.arange(N) > 20
    model, guide = normals(z=lambda x: dist.Normal(x[:, 1], 0.5))
    found = collapse(poutine.mask(model, mask=mask), poutine.mask(guide, mask=mask), X)
    assert (found.sites["z"].kl_per_datum[:21] == 0).all()
    assert found.mutual_information is None
    assert "masked" in found.notes[0]


def test_scales_do_not_count():
    model, guide = normals(z=lambda x: dist.Normal(x[:, 1], 0.5))
    plain, scaled = (
        collapse(m, g, X) for m, g in ((model, guide), (poutine.scale(model, 7.0), poutine.scale(guide, 7.0)))
    )
    assert np.array_equal(plain.sites["z"].kl_per_datum, scaled.sites["z"].kl_per_datum)


@pytest.mark.parametrize("order", ["model's order", "other order"])
def test_divergences_of_sites_add_up_to_that_of_the_weights(order):
    """E[log p - log q] of the weights is -KL plus the likelihood; with a flat likelihood it is -KL alone."""

    def model(x):
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("z1", dist.Normal(z2, 0.7).to_event(1))
            pyro.sample("x", dist.Delta(x[:, 0]), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            first, second = ("z2", "z1") if order == "model's order" else ("z1", "z2")
            z = pyro.sample(first, dist.Normal(0.3 * x[:, :2], 0.5).to_event(1))
            pyro.sample(second, dist.Normal(0.6 * z, 0.4).to_event(1))

    x, count = X[:5], 20_000
    found = site_divergences(model, guide, x, num_particles=count)
    total = sum(site.per_datum for site in found.values())
    log_w = log_weights(model, guide, x, num_particles=count)
    error = log_w.std(0) / math.sqrt(count) + sum(site.standard_error for site in found.values())
    assert ((total + log_w.mean(0)).abs() < 4.9 * error).all()
    for site in found.values():
        assert site.per_unit.sum().item() == pytest.approx(site.mean, rel=1e-6)


def test_particles_and_closed_forms_are_told_by_their_standard_errors():
    model, guide = normals(z=lambda x: dist.Normal(x[:, 1], 0.5))
    assert site_divergences(model, guide, X)["z"].standard_error.max() == 0
    assert site_divergences(model, guide, X, num_particles=1)["z"].standard_error.isnan().all()
    mixture = normals(
        z=lambda x: dist.MixtureSameFamily(
            dist.Categorical(torch.ones(len(x), 2)), dist.Normal(torch.stack([x[:, 1], -x[:, 1]], -1), 0.5)
        )
    )
    assert site_divergences(*mixture, X)["z"].standard_error.min() > 0


def test_the_program_stays_as_it_was_and_the_seed_moves_on():
    vae = VAE(
        (3,), 2, hidden=(4,), encoder=nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    )
    x = X.sigmoid().round()
    before = {name: value.clone() for name, value in vae.state_dict().items()}
    torch.manual_seed(0)
    first, second = (collapse(vae.model, vae.guide, x).mutual_information for _ in range(2))
    torch.manual_seed(0)
    assert collapse(vae.model, vae.guide, x).mutual_information == first != second
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    assert all(parameter.grad is None for parameter in vae.parameters())


def test_wrong_input_is_refused():
    model, guide = normals(z=lambda x: dist.Normal(x[:, 1], 0.5))
    with pytest.raises(InvalidInput, match="no particles"):
        collapse(model, guide, X, num_samples=0)
    with pytest.raises(InvalidInput, match="site 'z'"):
        collapse(model, lambda x: None, X)
    with pytest.raises(InvalidInput, match="no latent variables"):
        collapse(*normals_without(), X)


def normals_without():
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])

    return model, lambda x: None
