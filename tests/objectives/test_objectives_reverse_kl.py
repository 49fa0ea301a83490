"""The reverse divergence: exact between normal distributions, least at -log Z, and refused without draws."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.data import Arrays
from pyro_dgm.distributions.transforms import ActNorm, Chain
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models import PPCA, VAE, Flow, iaf, maf
from pyro_dgm.objectives import ReverseKL
from pyro_dgm.program import Pair


def normal(b, s):
    """A flow that is Normal(b, exp(s)^2), elementwise."""
    maps = ActNorm((2,))
    with torch.no_grad():
        maps.parameters_of.bias.copy_(torch.tensor([*s, *b]))
    return Flow(Chain([maps])).double()


def test_it_is_the_divergence_of_two_normals_less_log_z():
    """To 4.9 standard errors: a false alarm in 1e6 runs."""
    torch.manual_seed(0)
    flow, log_z = normal([0.5, -0.3], [0.2, -0.4]), 1.7
    target = dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1)
    number = 100_000
    objective = ReverseKL(lambda x: target.log_prob(x) + log_z)
    with torch.no_grad():
        found = objective(flow.model, flow.guide, torch.zeros(number, 2)).item() / number
    q = dist.Normal(torch.tensor([0.5, -0.3]), torch.tensor([0.2, -0.4]).exp())
    exact = torch.distributions.kl_divergence(q, dist.Normal(0.0, 1.0)).sum().item() - log_z
    with torch.no_grad():
        draws = flow().sample((number,))
        error = (flow().log_prob(draws) - target.log_prob(draws)).std().item() / math.sqrt(number)
    assert found == pytest.approx(exact, abs=4.9 * error)


def test_a_flow_learns_a_target_and_tells_its_normaliser():
    """Two correlated variables under a density without its constant, of which log Z is known."""
    torch.manual_seed(0)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    target = dist.MultivariateNormal(torch.tensor([1.0, -1.0]), covariance)
    log_z = 2.0
    flow = iaf((2,), num_layers=2, hidden=(16,))
    objective = ReverseKL(lambda x: target.log_prob(x) + log_z)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    x = torch.zeros(200, 2)
    for _ in range(400):
        optimizer.zero_grad()
        (objective(flow.model, flow.guide, x) / len(x)).backward()
        optimizer.step()
    with torch.no_grad():
        bound = -objective(flow.model, flow.guide, torch.zeros(20_000, 2)).item() / 20_000
    assert bound == pytest.approx(log_z, abs=0.02)


def test_a_teacher_is_left_alone():
    teacher, student = maf((2,), num_layers=1, hidden=(8,)), iaf((2,), num_layers=1, hidden=(8,))
    objective = ReverseKL(teacher().log_prob)
    assert not list(objective.parameters())
    objective(student.model, student.guide, torch.zeros(10, 2)).backward()
    assert any(parameter.grad is not None for parameter in student.parameters())


def test_fit_starts_no_program_from_data_that_only_count():
    torch.manual_seed(0)
    target = dist.Normal(torch.tensor([1.0, -2.0]), 0.5).to_event(1)
    flow = iaf((2,), num_layers=1, hidden=(8,))
    history = fit(
        flow,
        ReverseKL(target.log_prob),
        Arrays(1e-3 * torch.randn(400, 2)),
        epochs=60,
        batch_size=100,
        progress=False,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-2),
    )
    assert history.rows[-1]["loss"] == pytest.approx(0, abs=0.05)
    assert flow.sample(1000).mean(0).tolist() == pytest.approx([1.0, -2.0], abs=0.15)


def test_what_it_is_not_for_is_one_line():
    target = lambda x: -x.square().sum(-1)  # noqa: E731
    vae = VAE((1, 2, 2), 2, hidden=(4,))
    with pytest.raises(IncompatibleModel, match="no density of its own draws in ReverseKL: sites z, x"):
        ReverseKL(target)(vae.model, vae.guide, torch.zeros(5, 1, 2, 2))
    flow = iaf((2,), num_layers=1)
    with pytest.raises(
        InvalidInput, match=r"a log-density of another shape in log_density: \(5, 2\); expected \(5,\)"
    ):
        ReverseKL(lambda x: -x)(flow.model, flow.guide, torch.zeros(5, 2))
    pair = Pair(
        lambda *, n: pyro.sample("x", dist.Normal(torch.zeros(n, 1, requires_grad=True), 1.0)), lambda: None
    )
    with pytest.raises(InvalidInput, match=r"another shape in site 'x': \(5, 1\); expected \(5,\)"):
        ReverseKL(lambda x: -x.sum(-1))(pair.model, pair.guide, torch.zeros(5, 1))
    with pytest.raises(InvalidInput, match="no data"):
        ReverseKL(target)(flow.model, flow.guide)
    with pytest.raises(InvalidInput, match="num_particles"):
        ReverseKL(target, num_particles=0)
    ppca = PPCA(data_dim=2, latent_dim=1)
    with pytest.raises(IncompatibleModel):
        ReverseKL(target)(ppca.model, ppca.guide, torch.zeros(5, 2))
