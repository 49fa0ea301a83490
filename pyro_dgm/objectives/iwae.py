"""The importance-weighted bound, per datum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pyro_dgm.objectives.checks import require_particles, require_reparameterised
from pyro_dgm.objectives.inspection import Layouts
from pyro_dgm.objectives.traces import run_pair
from pyro_dgm.objectives.weights import weigh


class IWAE(nn.Module):
    r"""Negative importance-weighted bound, summed over the data.

    .. math:: -\sum_i \log \frac1K \sum_{k=1}^K \frac{p(x_i, z_{ik})}{q(z_{ik} \mid x_i)},
              \qquad z_{ik} \sim q(z \mid x_i)

    ``K = 1`` is the ELBO; the bound does not fall with K and tends to log p(x). The mean over particles is taken per
    datum of the outermost plate that all observed sites share, whatever other plates and sites surround it (Pyro's
    ``RenyiELBO`` averages over the whole trace). Masks count; scales are ignored, since a scale inside the logarithm
    gives no bound. Gradients are path-wise: a guide site that depends on parameters must be reparameterised.

    Args:
        num_particles: number K of draws per datum.

    Raises:
        InvalidInput: a wrong argument; or, at the first call, a pair for which this is no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae = VAE(data_shape=(1, 8, 8), latent_dim=2)
        >>> IWAE(num_particles=5)(vae.model, vae.guide, torch.zeros(10, 1, 8, 8)).shape
        torch.Size([])

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """

    def __init__(self, num_particles: int) -> None:
        super().__init__()
        self.num_particles = require_particles(num_particles)
        self._layouts = Layouts()

    def forward(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> Tensor:
        layout = self._layouts(model, guide, batch, self.num_particles)
        runs = run_pair(model, guide, batch, self.num_particles, layout)
        for _, guide_trace in runs:
            require_reparameterised(
                guide_trace, "IWAE's path-wise gradient would miss a term", takes_exact=True
            )
        log_w = weigh(runs, layout, num_particles=self.num_particles)
        return -(log_w.logsumexp(0) - math.log(self.num_particles)).sum()
