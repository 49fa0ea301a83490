"""Pyro's own ELBO objects, put where an objective goes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import Tensor, nn


class PyroELBO(nn.Module):
    """Any of Pyro's ``ELBO`` objects as an objective.

    Pyro's objects have no common differentiable loss: some only know ``loss_and_grads``. This calls that one and
    hands its value and its gradients on, so that ``loss.backward()`` gives what ``pyro.infer.SVI`` would.
    A structured guide under ``TraceMeanField_ELBO``, of which Pyro only warns, raises.

    Args:
        elbo: for example ``pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)``.

    Raises:
        UserWarning: Pyro's warning of a guide that is not mean-field, as an error.

    Example:
        >>> import pyro, torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=3, latent_dim=1)
        >>> loss = PyroELBO(pyro.infer.Trace_ELBO())(ppca.model, ppca.guide, torch.randn(4, 3))
        >>> loss.backward()
        >>> bool(ppca.loadings.grad.abs().sum() > 0)
        True

    Reference:
        Bingham et al., "Pyro: deep universal probabilistic programming", 2019.
    """

    def __init__(self, elbo: pyro.infer.ELBO) -> None:
        super().__init__()
        self.elbo = elbo

    def forward(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> Tensor:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Failed to verify mean field")
            if not torch.is_grad_enabled():
                return _total(self.elbo.loss(model, guide, *batch))
            waiting = {leaf: leaf.grad for leaf in _leaves() if leaf.grad is not None}
            for leaf in waiting:
                leaf.grad = None
            value = _total(self.elbo.loss_and_grads(model, guide, *batch))
        gradients = {leaf: leaf.grad for leaf in _leaves() if leaf.grad is not None}
        for leaf in gradients:
            leaf.grad = waiting.get(leaf)
        for leaf, gradient in waiting.items():
            leaf.grad = gradient
        if not gradients:
            return value
        # Linear in the leaves, with these gradients; the value of the sum is taken off again.
        carrier = torch.stack([(leaf * gradient).sum() for leaf, gradient in gradients.items()]).sum()
        return value.to(carrier) + (carrier - carrier.detach())


def _leaves() -> list[Tensor]:
    return [leaf for _, leaf in pyro.get_param_store().named_parameters()]


def _total(loss: Any) -> Tensor:
    """Value of a loss; reweighted wake-sleep has one each for the model and the guide."""
    parts = loss if isinstance(loss, tuple) else (loss,)
    return torch.stack([torch.as_tensor(part, dtype=torch.float64).detach() for part in parts]).sum()
