"""Hamiltonian Monte Carlo: one transition of many chains on many independent problems."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]


def hmc(
    z: Tensor, log_density: LogDensity, step_size: Tensor, *, num_leapfrog: int = 3
) -> tuple[Tensor, Tensor]:
    r"""One transition that leaves a density invariant: fresh momentum, leapfrog steps, Metropolis's correction.

    .. math:: H(z, v) = -\log f(z) + \tfrac12 \lVert v \rVert^2, \qquad
              \text{accepted with probability } \min(1, e^{H(z, v) - H(z', v')})

    A proposal whose density is NaN is refused.

    Args:
        z: states (chains, batch, dim).
        log_density: (chains, batch, dim) to (chains, batch) in nats, up to a constant.
        step_size: step of each problem (batch,), in units of z.
        num_leapfrog: leapfrog steps of a transition.

    Returns:
        The new states (chains, batch, dim), detached, and the probabilities with which their proposals were accepted,
        (chains, batch).

    Example:
        >>> import torch
        >>> z = torch.randn(1000, 2, 3)  # 1,000 chains on two problems of three dimensions
        >>> z, accepted = hmc(z, lambda z: -0.5 * (z**2).sum(-1), torch.tensor([0.1, 0.5]))
        >>> z.shape, bool((accepted.mean(0) > 0.8).all())
        (torch.Size([1000, 2, 3]), True)

    Reference:
        Neal, "MCMC using Hamiltonian dynamics", 2011.
    """
    step = step_size[:, None]  # (batch, 1)
    start = z.detach()
    momentum = torch.randn_like(start)
    before, gradient = _value_and_gradient(log_density, start)
    before = before - 0.5 * momentum.square().sum(-1)  # minus the Hamiltonian
    end = start
    for _ in range(num_leapfrog):
        momentum = momentum + 0.5 * step * gradient
        end = end + step * momentum
        value, gradient = _value_and_gradient(log_density, end)
        momentum = momentum + 0.5 * step * gradient
    after = value - 0.5 * momentum.square().sum(-1)
    probability = (after - before).exp().clamp(max=1.0).nan_to_num(0.0)  # (chains, batch)
    accepted = torch.rand_like(probability) < probability
    return torch.where(accepted[..., None], end, start), probability


def _value_and_gradient(log_density: LogDensity, z: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        value = log_density(z)
        (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.detach(), gradient
