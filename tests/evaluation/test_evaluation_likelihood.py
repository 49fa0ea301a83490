"""log p(x) and active units against PPCA's closed forms."""

import math
import subprocess
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.distributions import DiagonalNormal
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation import active_units, log_likelihood
from pyro_dgm.models import PPCA


def amortised(seed, wide=1.6):
    """A PPCA whose guide has the exact mean and wider scales, so that weights have finite variance."""
    torch.manual_seed(seed)
    program = PPCA(6, 2).double()
    with torch.no_grad():
        program.loadings.normal_()

    class Wide(nn.Module):
        def forward(self, x):
            exact = program.exact_posterior(x)
            return dist.Normal(exact.mean, wide * exact.variance.sqrt()).to_event(1)

    program.posterior = Wide()
    return program, torch.randn(200, 6, dtype=torch.float64)


def test_estimate_and_its_errors_are_right():
    """Per-datum errors over 200 data are standard normal: |mean z| and the spread of z, false alarm below 1e-6."""
    program, x = amortised(0)
    estimate = log_likelihood(program.model, program.guide, x, num_particles=4000, rows=50)
    exact = program.log_prob(x).detach()
    z = (estimate.per_datum - exact) / estimate.per_datum_standard_error
    assert abs(z.mean()) < 4.9 / math.sqrt(200)
    assert (
        abs(z.std() - 1) < 4.9 / math.sqrt(2 * 200) + 0.05
    )  # 0.05: the error of a logarithm is only nearly normal
    gap = torch.distributions.kl_divergence(
        dist.MultivariateNormal(program.posterior(x).mean, torch.diag_embed(program.posterior(x).variance)),
        program.exact_posterior(x),
    ).detach()
    assert abs(estimate.elbo - (exact - gap).mean().item()) < 0.02
    assert estimate.mean == pytest.approx(exact.mean().item(), abs=0.01)
    assert estimate.standard_error == pytest.approx((exact.std() / math.sqrt(200)).item(), rel=0.02)


@pytest.mark.parametrize(("rows", "num_particles"), [(1, 10), (7, 10), (500, 10), (200, 3)])
def test_pieces_do_not_change_what_is_estimated(rows, num_particles, monkeypatch):
    """With the exact posterior every piece gives log p(x) to 1e-10, however data and particles are cut."""
    monkeypatch.setattr("pyro_dgm.evaluation.likelihood._ELEMENTS_PER_PASS", 50)
    program, x = amortised(1)
    program.posterior = None
    estimate = log_likelihood(program.model, program.guide, x, num_particles=num_particles, rows=rows)
    assert (estimate.per_datum - program.log_prob(x)).abs().max() < 1e-10
    assert (estimate.elbo_per_datum - program.log_prob(x)).abs().max() < 1e-10
    assert estimate.per_datum_standard_error.max() < 1e-6
    assert estimate.per_datum.shape == (200,)


def test_a_pair_without_latents_needs_one_particle():
    calls = []

    def model(x):
        calls.append(len(x))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)

    x = torch.randn(10)
    estimate = log_likelihood(model, lambda x: None, x, num_particles=5000, rows=5)
    assert torch.allclose(estimate.per_datum.float(), dist.Normal(0.0, 1.0).log_prob(x))
    assert (estimate.num_particles, estimate.elbo) == (1, estimate.mean)
    assert len(calls) <= 6  # of them four to inspect the pair


@pytest.mark.parametrize("batch", [(), (torch.zeros(0, 6, dtype=torch.float64),)])
def test_no_data(batch):
    program, _ = amortised(0)
    with pytest.raises(InvalidInput, match="no data"):
        log_likelihood(program.model, program.guide, *batch)


def test_no_particles():
    program, x = amortised(0)
    with pytest.raises(InvalidInput, match="num_particles: 0"):
        log_likelihood(program.model, program.guide, x, num_particles=0)


def test_a_subsampling_pair_has_no_weight_for_each_datum():
    def model(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[index])

    def guide(x):
        with pyro.plate("data", len(x), subsample_size=2) as index:
            pyro.sample("z", dist.Normal(x[index] / 2, 0.7))

    with pytest.raises(InvalidInput, match=r"2 weights for 5 data.*without subsampling"):
        log_likelihood(model, guide, torch.randn(10), num_particles=3, rows=5)


@pytest.mark.parametrize("second", [torch.zeros(9), torch.zeros(1), torch.zeros(()), 1.0, None])
def test_fields_that_cannot_be_cut_are_refused(second):
    with pytest.raises(InvalidInput, match=r"cut into pieces in batch: \(10,\), "):
        log_likelihood(lambda x, y: None, lambda x, y: None, torch.zeros(10), second, rows=3)


@pytest.mark.parametrize("rows", [0, -1])
def test_no_rows(rows):
    program, x = amortised(0)
    with pytest.raises(InvalidInput, match=f"rows: {rows}"):
        log_likelihood(program.model, program.guide, x, rows=rows)
    with pytest.raises(InvalidInput, match=f"rows={rows}"):
        active_units(program.guide, x, rows=rows)


def test_active_units_of_several_latents_and_plates():
    """A unit that follows only the noise of another latent is not active; sites outside the data have no units.

    2,001 data: the estimated variance of z2's mean is 0 with standard error 1 / (10 sqrt(2001)) ~ 0.0024; the
    threshold of 0.02 is 8 of these.
    """

    def guide(x):
        pyro.sample("loc", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            z1 = pyro.sample("z1", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("z2", dist.Normal(z1, 0.1).to_event(1))
            pyro.sample("z3", dist.Normal(z1 + x[:, None], 0.1).to_event(1))
            pyro.sample("label", dist.Categorical(torch.ones(4)))
            with pyro.plate("rows", 3, dim=-2):
                pyro.sample("nested", dist.Normal(x.expand(3, -1), 1.0))

    for rows in (1000, 5000):  # the last piece of 1 datum is as long as "loc"
        counts = active_units(guide, torch.randn(2001), threshold=0.02, rows=rows)
        assert counts == {"z1": 0, "z2": 0, "z3": 2, "nested": 3}


def test_active_units_are_those_that_follow_the_data():
    program = PPCA(4, 3, posterior=DiagonalNormal(4, 3))
    with torch.no_grad():
        weight = next(value for value in program.posterior.parameters() if value.dim() == 2)
        weight.zero_()
        weight[0, 0] = 1.0  # the mean of unit 0 is x_0; the other units say nothing
    assert active_units(program.guide, torch.randn(500, 4), rows=64) == {"z": 1}
    assert active_units(program.guide, 0.01 * torch.randn(500, 4)) == {"z": 0}
    with pytest.raises(InvalidInput, match="too few data"):
        active_units(program.guide, torch.randn(1, 4))


@pytest.mark.slow
def test_memory_depends_on_neither_number(tmp_path):
    """10,000 images of MNIST's size, and 5,000 particles, stay under 2 GiB of resident memory, torch included."""
    script = tmp_path / "peak.py"
    script.write_text(
        "import resource, torch\n"
        "from pyro_dgm.evaluation import log_likelihood\n"
        "from pyro_dgm.models import VAE\n"
        "vae, x = VAE((1, 28, 28), 50), (torch.rand(10_000, 1, 28, 28) < 0.2).float()\n"
        "log_likelihood(vae.model, vae.guide, x, num_particles=20)\n"
        "log_likelihood(vae.model, vae.guide, x[:40], num_particles=5000)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 2.0
