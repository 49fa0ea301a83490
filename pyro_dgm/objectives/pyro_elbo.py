"""Pyro's own ELBO objects, put where an objective goes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import RenyiELBO, TraceMeanField_ELBO
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_reparameterised
from pyro_dgm.objectives.closed_form import closed_form
from pyro_dgm.objectives.inspection import Layouts, as_found
from pyro_dgm.objectives.sites import latent_sites
from pyro_dgm.objectives.traces import Layout, run_pair


class PyroELBO(nn.Module):
    """Any of Pyro's ``ELBO`` objects as an objective.

    Pyro's objects have no common differentiable loss: some only know ``loss_and_grads``. This calls that one and
    hands its value and its gradients on, so that ``loss.backward()`` gives what ``pyro.infer.SVI`` would.
    What Pyro only warns of raises: a latent variable that the guide lacks, and under ``TraceMeanField_ELBO`` a
    structured guide, or a site without a closed-form divergence. So does ``RenyiELBO`` with a guide site that is not
    reparameterised, whose gradient Pyro gets wrong without a word.

    Args:
        elbo: for example ``pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)``.

    Raises:
        InvalidInput: a pair for which Pyro's value is no bound, or not the one that was asked for.

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
        self._looks = Layouts(self._look) if isinstance(elbo, TraceMeanField_ELBO | RenyiELBO) else None

    def forward(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> Tensor:
        if self._looks is not None:
            self._looks(model, guide, batch, 1)
        with _refusing():
            if not torch.is_grad_enabled():
                return _total(self.elbo.loss(model, guide, *batch))
            waiting = {leaf: leaf.grad for leaf in _leaves() if leaf.grad is not None}
            for leaf in waiting:
                leaf.grad = None
            gradients: dict[Tensor, Tensor] = {}
            try:
                value = _total(self.elbo.loss_and_grads(model, guide, *batch))
                gradients = {leaf: leaf.grad for leaf in _leaves() if leaf.grad is not None}
            finally:  # gradients that wait for a step outlive an error too
                for leaf in _leaves():
                    leaf.grad = waiting.get(leaf)
        if not gradients:
            return value
        # Linear in the leaves, with these gradients; the value of the sum is taken off again.
        carrier = torch.stack([(leaf * gradient).sum() for leaf, gradient in gradients.items()]).sum()
        return value.to(carrier) + (carrier - carrier.detach())

    def _look(
        self, model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_particles: int
    ) -> None:
        """Refuses what Pyro's objects take without a word."""
        with as_found(), poutine.block(), torch.enable_grad(), _refusing():
            ((model_trace, guide_trace),) = run_pair(model, guide, batch, 1, Layout(math.inf, False, True))
        if isinstance(self.elbo, RenyiELBO):
            require_reparameterised(guide_trace, "RenyiELBO's gradient is biased without, zero at alpha = 0")
            return
        priors = latent_sites(model_trace)  # where it does not know a divergence, Pyro falls back on sampling
        for name, site in latent_sites(guide_trace).items():
            if name in priors:
                closed_form(site, priors[name])


# What Pyro warns of, though its value is then no bound: the beginning of the warning, and the cure.
_REFUSED = {
    "Found vars in model but not guide": "to add them to the guide, or TraceEnum_ELBO if they are enumerated",
    "Failed to verify mean field": "Trace_ELBO, or the sites in the same order in model and guide",
}


@contextmanager
def _refusing() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in _REFUSED:
            warnings.filterwarnings("error", message=message)
        try:
            yield
        except UserWarning as warning:
            cures = [cure for message, cure in _REFUSED.items() if str(warning).startswith(message)]
            if not cures:
                raise
            expected = "a pair for which Pyro's value is a bound"
            raise InvalidInput(
                "no bound", where="PyroELBO", value=warning, expected=expected, cure=cures[0]
            ) from warning


def _leaves() -> list[Tensor]:
    return [leaf for _, leaf in pyro.get_param_store().named_parameters()]


def _total(loss: Any) -> Tensor:
    """Value of a loss; reweighted wake-sleep has one each for the model and the guide."""
    parts = loss if isinstance(loss, tuple) else (loss,)
    return torch.stack([torch.as_tensor(part, dtype=torch.float64).detach() for part in parts]).sum()
