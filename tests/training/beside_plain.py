"""What plain Pyro gives, for compiled steps to be compared with."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import SVI


def reference(
    loss: Any, model: Any, guide: Any, batch: Any, seed: int
) -> tuple[float, dict[torch.Tensor, torch.Tensor]]:
    """Loss by plain Pyro, and gradients by parameter."""
    pyro.set_rng_seed(seed)
    with poutine.trace(param_only=True) as capture:
        if hasattr(loss, "loss_and_grads"):
            value = loss.loss_and_grads(model, guide, *batch)
        else:
            value = loss(model, guide, *batch)
            value.backward()
    leaves = {site["value"].unconstrained() for site in capture.trace.nodes.values()}
    gradients = {leaf: leaf.grad.clone() for leaf in leaves if leaf.grad is not None}
    for leaf in leaves:
        leaf.grad = None
    losses = value if isinstance(value, tuple) else (value,)
    return sum(torch.as_tensor(part).item() for part in losses), gradients


def values() -> dict[str, torch.Tensor]:
    """A copy of Pyro's store."""
    return {name: value.detach().clone() for name, value in pyro.get_param_store().named_parameters()}


def trajectory(
    kind: type[SVI], make: Any, loss: Any, optim: Any, *, steps: int = 20, each: Any = None
) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Losses of some steps from a fresh start, and the parameters after them."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide, batch = make()
    svi = kind(model, guide, optim(), loss())
    losses = []
    for count in range(steps):
        losses.append(svi.step(*batch))
        if each:
            each(svi, count)
    return losses, values()


def assert_same(found: Any, expected: Any, rtol: float) -> None:
    """Two trajectories are equal but for rounding."""
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(expected[0]), rtol=rtol, atol=rtol)
    for (_, a), (_, b) in zip(sorted(found[1].items()), sorted(expected[1].items()), strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)
