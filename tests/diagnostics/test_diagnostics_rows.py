"""Which batches may be taken apart, and what happens to those that may not."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyro_dgm.diagnostics.examination import examine
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.diagnostics.importance_weights import importance
from pyro_dgm.diagnostics.rows import can_cut, num_rows, take_rows
from pyro_dgm.models import VAE
from pyro_dgm.objectives.inspection import inspect_pair


def local(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def amortised(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5))


def of_each_datum(x):
    loc = pyro.param("loc", lambda: torch.zeros(len(x)))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5))


def scaled(x, scale):  # as long as the data by chance, and of none of them
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z.unsqueeze(-1), scale).to_event(1), obs=x)


def scaled_guide(x, scale):
    precision = 1 + (scale**-2).sum()
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x / scale**2).sum(-1) / precision, precision**-0.5))


def shared(x):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(w, 1.0), obs=x)


def shared_guide(x):
    pyro.sample("w", dist.Normal(x.mean(), 0.3))


X = torch.linspace(-2.0, 2.0, 5)


def cuttable(model, guide, *batch):
    return can_cut(model, guide, batch, inspect_pair(model, guide, batch))


def test_amortised_guides_can_be_cut():
    vae = VAE((1, 4, 4), 2, hidden=(8,))
    assert cuttable(local, amortised, X)
    assert cuttable(vae.model, vae.guide, torch.rand(5, 1, 4, 4).round())


def test_what_cannot_be_cut():
    autoguide = AutoNormal(local)
    autoguide(X)
    covariates = torch.randn(5)

    def closed_over(y):
        with pyro.plate("data", len(covariates)):
            z = pyro.sample("z", dist.Normal(covariates, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    def its_guide(y):
        with pyro.plate("data", len(covariates)):
            pyro.sample("z", dist.Normal(y, 1.0))

    assert not cuttable(local, autoguide, X)
    assert not cuttable(local, of_each_datum, X)
    assert not cuttable(closed_over, its_guide, X)
    assert not cuttable(scaled, scaled_guide, torch.randn(5, 5), torch.linspace(0.5, 3.0, 5))
    assert not cuttable(shared, shared_guide, X)


def test_numbers_go_with_every_piece():
    batch = (torch.arange(6.0).reshape(3, 2), 0.5, None, torch.tensor(2.0), torch.arange(3))
    assert num_rows(batch) == 3
    x, half, none, two, index = take_rows(batch, torch.tensor([2]))
    assert (
        x.tolist() == [[4.0, 5.0]] and (half, none, float(two)) == (0.5, None, 2.0) and index.tolist() == [2]
    )
    assert num_rows((torch.zeros(3), np.zeros(3))) is None and num_rows((1.0,)) is None


@pytest.mark.parametrize("estimator", ["auto", "iwae"])
def test_a_guide_with_parameters_for_each_datum(estimator):
    """More data than a piece, and some of them with weights that fail."""
    x = torch.cat([torch.zeros(598), torch.full((2,), 6.0)])
    found = importance(local, of_each_datum, x, num_samples=100, rows=100)
    assert found.k_hat.shape == (600,)
    gap = inference_gap(local, of_each_datum, x, num_particles=200, steps=3, estimator=estimator)
    assert gap.log_p.shape == (600,) and np.isfinite(gap.log_p).all()


def test_a_scale_that_is_as_long_as_the_data():
    """Exact log p(x), where a datum alone would have taken its own entry for all."""
    x, scale = torch.randn(5, 5), torch.linspace(0.5, 3.0, 5)

    def guide(x, scale):
        precision = 1 + (scale**-2).sum()
        wrong = torch.tensor([0.0, 0.0, 0.0, 0.0, 3.0])[: len(x)]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x / scale**2).sum(-1) / precision + wrong, 0.2 * precision**-0.5))

    gap = inference_gap(scaled, guide, x, scale, num_particles=500, steps=20)
    exact = dist.MultivariateNormal(torch.zeros(5), torch.ones(5, 5) + torch.diag(scale**2)).log_prob(x)
    np.testing.assert_allclose(gap.log_p, exact, atol=0.15)


def test_an_examination_keeps_the_parts_that_worked():
    def narrow(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Uniform(z - 3.0, z + 3.0), obs=x)

    def failing(x):
        if len(x) != 30:
            raise RuntimeError("thirty, no more and no less")
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.3 * x, 0.3))

    found = examine(
        narrow, failing, torch.rand(30), num_samples=50, num_gap=10, num_nuts=0, num_replications=100
    )
    assert found.importance is not None and found.importance.k_hat.shape == (30,)
