"""The variational Renyi bound, per datum and for a finite number of particles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_particles, require_reparameterised
from pyro_dgm.objectives.inspection import Layouts
from pyro_dgm.objectives.reporting import Reporting
from pyro_dgm.objectives.traces import run_pair
from pyro_dgm.objectives.weights import weigh


class Renyi(Reporting):
    r"""Negative variational Renyi bound with K particles, summed over the data.

    .. math:: -\sum_i \frac1{1 - \alpha} \log \frac1K \sum_{k=1}^K
              \left( \frac{p(x_i, z_{ik})}{q(z_{ik} \mid x_i)} \right)^{1 - \alpha},
              \qquad z_{ik} \sim q(z \mid x_i)

    ``alpha = 0`` is :class:`IWAE` and ``alpha = 1``, by continuity, the ELBO; the bound falls with ``alpha``. From 0
    upwards its expectation is a lower bound on log p(x) for every K. Below 0 it is none: training may use such an
    order, but in evaluation mode it counts as 0.

    The gradient is that of this K-particle quantity, path-wise; as in :class:`IWAE`, weights are per datum, masks count
    and scales do not.

    Args:
        num_particles: number K of draws per datum.
        alpha: order.

    Raises:
        InvalidInput: a wrong argument; or, at the first call, a pair for which this is no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca, x = PPCA(data_dim=5, latent_dim=2), torch.randn(10, 5)
        >>> loss = Renyi(num_particles=3, alpha=0.5)(ppca.model, ppca.guide, x)  # all weights are p(x)
        >>> torch.allclose(loss, -ppca.log_prob(x).sum(), rtol=1e-4)
        True

    Reference:
        Li and Turner, "Renyi divergence variational inference", 2016.
    """

    def __init__(self, num_particles: int, *, alpha: float = 0.5) -> None:
        super().__init__()
        if not math.isfinite(alpha):
            raise InvalidInput(
                "bad order", where="alpha", value=alpha, expected="a finite number", cure="0.5"
            )
        self.num_particles = require_particles(num_particles)
        self.alpha = float(alpha)
        self._layouts = Layouts()

    def report(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> dict[str, Tensor]:
        """``loss`` in nats, and without gradient ``elbo``, the mean log-weight."""
        layout = self._layouts(model, guide, batch, self.num_particles)
        runs = run_pair(model, guide, batch, self.num_particles, layout)
        for _, guide_trace in runs:
            reason = "the path-wise gradient of importance weights would miss a term"
            require_reparameterised(guide_trace, reason, takes_exact=True)
        log_w = weigh(runs, layout, num_particles=self.num_particles)  # (particles, batch)
        order = self.alpha if self.training else max(self.alpha, 0.0)
        elbo = log_w.mean(0).sum()
        if order == 1.0:
            return {"loss": -elbo, "elbo": elbo.detach()}
        power = 1.0 - order
        bound = ((power * log_w).logsumexp(0) - math.log(self.num_particles)).sum() / power
        return {"loss": -bound, "elbo": elbo.detach()}
