"""Annealed importance sampling: the normaliser of a density, by a path to it from one that can be sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.samplers.hamiltonian import LogDensity, hmc

Densities = Callable[[Tensor], tuple[Tensor, Tensor]]
Transition = Callable[[Tensor, LogDensity, Tensor], tuple[Tensor, Tensor]]

_ACCEPTANCE = 0.65  # near the optimum of Hamiltonian Monte Carlo
_GAIN = 0.2  # of the logarithm of a step size, per unit of acceptance
_WARM_UP = 30  # transitions at the first temperature, before the step sizes are recorded
_RANGE = (-12.0, 4.0)  # of the logarithm of a step size: a flat density accepts any step
_STEEPNESS = 4.0  # of the sigmoid schedule


@dataclass(frozen=True)
class AnnealedSamples:
    r"""What :func:`annealed_importance_sampling` returns.

    Args:
        log_weight: log weights (chains, batch) in nats, in float64; the mean of the weights is an unbiased estimate of
            :math:`Z_\mathrm{target} / Z_\mathrm{start}`.
        z: final states (chains, batch, dim), draws from the target once they are weighted.
        acceptance: mean acceptance probability of each problem's transitions (batch,).
        step_size: step size of each temperature and problem (temperatures, batch).
    """

    log_weight: Tensor
    z: Tensor
    acceptance: Tensor
    step_size: Tensor


@dataclass(frozen=True)
class Tempered:
    r"""Density :math:`f_\beta = f_0^{1 - \beta} f_1^\beta` on the path from the start to the target.

    Args:
        densities: gives :math:`\log f_0` and :math:`\log f_1` at z.
        beta: place on the path, in (0, 1]; a transition of another kind (Gibbs) may need it.
    """

    densities: Densities
    beta: float

    def __call__(self, z: Tensor) -> Tensor:
        """Log density, (chains, batch, dim) to (chains, batch)."""
        log_start, log_target = self.densities(z)
        # At one, a start that has underflowed has no say: 0 * -inf is NaN.
        return log_target if self.beta == 1 else torch.lerp(log_start, log_target, self.beta)


def temperatures(num: int, schedule: Literal["sigmoid", "linear"] = "sigmoid") -> list[float]:
    r"""Inverse temperatures :math:`0 = \beta_0 < \dots < \beta_T = 1`.

    Args:
        num: number T of steps.
        schedule: ``"linear"``, or ``"sigmoid"``, which goes slowly near both ends.

    Raises:
        InvalidInput: no step, or an unknown schedule.

    Example:
        >>> [round(beta, 3) for beta in temperatures(4)]
        [0.0, 0.105, 0.5, 0.895, 1.0]
    """
    if num < 1:
        raise InvalidInput("no temperatures", where="num_temperatures", value=num, expected="an integer >= 1")
    if schedule not in ("sigmoid", "linear"):
        raise InvalidInput(
            "unknown option", where="schedule", value=repr(schedule), expected="'sigmoid' or 'linear'"
        )
    place = torch.linspace(0, 1, num + 1, dtype=torch.float64)
    if schedule == "sigmoid":
        place = (_STEEPNESS * (2 * place - 1)).sigmoid()
        place = (place - place[0]) / (place[-1] - place[0])
    betas: list[float] = place.tolist()
    return [*betas[:-1], 1.0]


@torch.no_grad()
def annealed_importance_sampling(
    densities: Densities,
    start: Callable[[int], Tensor],
    *,
    num_chains: int = 16,
    num_temperatures: int = 400,
    schedule: Literal["sigmoid", "linear"] = "sigmoid",
    transition: Transition = hmc,
    step_size: float = 0.1,
    num_adaptation_chains: int = 4,
) -> AnnealedSamples:
    r"""Weighted draws from a target, along the geometric path from a start, on a batch of independent problems.

    .. math:: \log w = \sum_{t=1}^T (\beta_t - \beta_{t-1}) \, [\log f_1(z_{t-1}) - \log f_0(z_{t-1})], \qquad
              \mathbb{E}[w] = Z_1 / Z_0

    where :math:`z_0` is a draw from the start and :math:`z_t` comes from :math:`z_{t-1}` by a transition that leaves
    :math:`f_0^{1 - \beta_t} f_1^{\beta_t}` invariant. The log of the mean weight is in expectation a lower bound on
    :math:`\log Z_1 / Z_0`, as an importance-weighted bound is.

    Step sizes are adapted for each problem and temperature, to an acceptance of 65 %, in a run of their own; the run
    that is weighted has them fixed. So the weights are unbiased, not merely nearly so.

    Args:
        densities: maps z (chains, batch, dim) to :math:`\log f_0` of the start and :math:`\log f_1` of the target, each
            (chains, batch) in nats; both in one call, since they often share their work.
        start: ``start(chains)`` draws (chains, batch, dim) from the start.
        num_chains: number of weights per problem.
        num_temperatures: number T of steps of the path, each with one transition.
        schedule: see :func:`temperatures`.
        transition: ``transition(z, log_density, step_size)`` to (new z, acceptance probabilities (chains, batch));
            ``step_size`` is (batch,), and ``log_density`` is a :class:`Tempered`.
        step_size: where adaptation begins, in units of z.
        num_adaptation_chains: chains of the run that adapts the step sizes; with none they stay as they are.

    Raises:
        InvalidInput: no chain, no temperature, or a step size that is not positive.

    Example:
        >>> import torch
        >>> def densities(z):  # from N(0, 1) to exp(-z^2 / 2 a) for two a, whose Z is sqrt(2 pi a)
        ...     log_start = -0.5 * z.square().sum(-1) - 0.919
        ...     return log_start, -0.5 * z.square().sum(-1) / torch.tensor([0.01, 4.0])
        >>> start = lambda chains: torch.randn(chains, 2, 1)
        >>> found = annealed_importance_sampling(densities, start, num_chains=1000, num_temperatures=200)
        >>> log_z = found.log_weight.exp().mean(0).log()  # truth: -1.384, 1.612
        >>> bool((log_z - torch.tensor([-1.384, 1.612])).abs().max() < 0.1)
        True

    Reference:
        Neal, "Annealed importance sampling", 2001.
        Wu, Burda, Salakhutdinov and Grosse, "On the quantitative analysis of decoder-based generative models", 2017.
    """
    if num_chains < 1 or num_adaptation_chains < 0:
        raise InvalidInput(
            "no chains",
            where="num_chains, num_adaptation_chains",
            value=f"{num_chains}, {num_adaptation_chains}",
            expected="integers >= 1 and >= 0",
        )
    if not step_size > 0:
        raise InvalidInput("no step", where="step_size", value=step_size, expected="a number > 0")
    betas = temperatures(num_temperatures, schedule)
    z = start(num_chains)
    log_step = torch.full_like(z[0, :, 0], step_size).log().expand(num_temperatures, -1)
    if num_adaptation_chains:
        log_step = _adapted(densities, start(num_adaptation_chains), betas, transition, log_step[0])
    log_weight = z.new_zeros(z.shape[:2], dtype=torch.float64)
    acceptance = torch.zeros_like(z[0, :, 0])
    for step, last, beta in zip(log_step.exp(), betas[:-1], betas[1:], strict=True):
        log_start, log_target = densities(z)
        log_weight += (beta - last) * (log_target.double() - log_start.double())
        z, probability = transition(z, Tempered(densities, beta), step)
        acceptance += probability.mean(0) / num_temperatures
    return AnnealedSamples(log_weight, z, acceptance, log_step.exp())


def _adapted(
    densities: Densities, z: Tensor, betas: list[float], transition: Transition, log_step: Tensor
) -> Tensor:
    """Log step sizes (temperatures, batch) that a run of chains ``z`` over the temperatures has found."""
    found = []
    for index, beta in enumerate([betas[1]] * _WARM_UP + betas[1:]):
        z, probability = transition(z, Tempered(densities, beta), log_step.exp())
        log_step = (log_step + _GAIN * (probability.mean(0) - _ACCEPTANCE)).clamp(*_RANGE)
        if index >= _WARM_UP:
            found.append(log_step)
    return torch.stack(found)
