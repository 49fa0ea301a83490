import itertools
import math

import pytest
import torch

from pyro_dgm.errors import InvalidInput
from pyro_dgm.samplers import annealed_importance_sampling, hmc, temperatures


def densities(z):
    """From N(0, I) to a Gaussian of each problem, unnormalised."""
    scale = torch.tensor([0.05, 1.0, 3.0]).to(z)
    log_start = -0.5 * z.square().sum(-1) - 0.5 * math.log(2 * math.pi) * z.shape[-1]
    return log_start, -0.5 * (z / scale[:, None]).square().sum(-1)


def start(chains):
    return torch.randn(chains, 3, 2)


@pytest.mark.parametrize("schedule", ["sigmoid", "linear"])
def test_temperatures_rise_from_zero_to_one(schedule):
    for num in (1, 2, 7, 1000):
        betas = temperatures(num, schedule)
        assert betas[0] == 0 and betas[-1] == 1 and len(betas) == num + 1
        assert all(left < right for left, right in itertools.pairwise(betas))


def test_shapes_and_acceptance():
    found = annealed_importance_sampling(densities, start, num_chains=20, num_temperatures=150)
    assert found.log_weight.shape == (20, 3) and found.log_weight.dtype == torch.float64
    assert found.z.shape == (20, 3, 2) and not found.z.requires_grad
    assert found.step_size.shape == (150, 3)
    assert ((found.acceptance > 0.5) & (found.acceptance < 0.85)).all()
    assert found.step_size[-1, 0] < found.step_size[-1, 1] < found.step_size[-1, 2]


def test_final_states_are_draws_of_the_target():
    found = annealed_importance_sampling(densities, start, num_chains=3000, num_temperatures=40)
    weight = found.log_weight.softmax(0)
    second = (weight[..., None] * found.z.double().square()).sum(0).mean(-1)
    assert (second / torch.tensor([0.05, 1.0, 3.0]) ** 2 - 1).abs().max() < 0.25


def test_the_log_mean_weight_does_not_fall_with_more_temperatures():
    few, many = (
        annealed_importance_sampling(densities, start, num_chains=200, num_temperatures=num).log_weight[
            :, [0, 2]
        ]
        for num in (2, 100)
    )
    assert (many.mean(0) >= few.mean(0)).all()
    assert (many.std(0) < few.std(0)).all()


def test_a_transition_of_another_kind_knows_its_temperature():
    seen = []

    def exact(z, tempered, step_size):
        seen.append(tempered.beta)
        scale = torch.tensor([0.05, 1.0, 3.0])
        precision = 1 - tempered.beta + tempered.beta / scale**2
        return torch.randn_like(z) / precision.sqrt()[:, None], torch.ones(z.shape[:2])

    found = annealed_importance_sampling(
        densities, start, num_chains=500, transition=exact, num_adaptation_chains=0
    )
    assert seen == temperatures(400)[1:]
    log_z = found.log_weight.exp().mean(0).log()
    truth = (2 * math.pi * torch.tensor([0.05, 1.0, 3.0]) ** 2).log()
    assert (log_z - truth).abs().max() < 0.1


def test_nothing_is_left_behind():
    parameter = torch.ones((), requires_grad=True)
    annealed_importance_sampling(
        lambda z: tuple(parameter * one for one in densities(z)), start, num_temperatures=3
    )
    assert parameter.grad is None


def test_the_global_seed_decides():
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(annealed_importance_sampling(densities, start, num_temperatures=5).log_weight)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_a_density_that_is_nan_beyond_a_wall_is_not_entered():
    def walled(z):
        return torch.where(z[..., 0] > 0, -z.sum(-1), torch.nan)

    z = torch.rand(500, 1, 1)
    for _ in range(20):
        z, _ = hmc(z, walled, torch.tensor([0.5]))
    assert (z > 0).all() and abs(z.mean() - 1) < 0.3


def test_a_start_that_underflows_at_the_end_of_the_path_is_no_nan():
    def far(z):
        log_start = torch.where(z[..., 0].abs() < 3, -0.5 * z[..., 0].square(), -torch.inf)
        return log_start, -0.5 * (z[..., 0] / 2).square()

    found = annealed_importance_sampling(far, lambda chains: torch.randn(chains, 1, 1).clamp(-2.9, 2.9))
    assert not found.log_weight.isnan().any() and not found.z.isnan().any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_chains": 0}, "num_chains"),
        ({"num_temperatures": 0}, "num_temperatures"),
        ({"schedule": "cosine"}, "schedule"),
        ({"step_size": 0.0}, "step_size"),
        ({"num_adaptation_chains": -1}, "num_adaptation_chains"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(InvalidInput, match=message):
        annealed_importance_sampling(densities, start, **options)
