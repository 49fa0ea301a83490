"""The importance-weighted bound, per datum."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_option, require_particles, require_reparameterised
from pyro_dgm.objectives.divergence_terms import is_in
from pyro_dgm.objectives.inspection import Layouts, inspect_pair, inspect_paths
from pyro_dgm.objectives.paths import Paths
from pyro_dgm.objectives.reporting import Reporting
from pyro_dgm.objectives.sites import sample_sites
from pyro_dgm.objectives.traces import Layout, run_pair
from pyro_dgm.objectives.weights import batch_plate, log_densities


class IWAE(Reporting):
    r"""Negative importance-weighted bound, summed over the data.

    .. math:: -\sum_i \log \frac1K \sum_{k=1}^K \frac{p(x_i, z_{ik})}{q(z_{ik} \mid x_i)},
              \qquad z_{ik} \sim q(z \mid x_i)

    ``K = 1`` is the ELBO; the bound does not fall with K and tends to log p(x). The mean over particles is taken per
    datum of the outermost plate that all observed sites share, whatever other plates and sites surround it (Pyro's
    ``RenyiELBO`` averages over the whole trace). Masks count; scales are ignored, since a scale inside the logarithm
    gives no bound. Gradients are path-wise: a guide site that depends on parameters must be reparameterised.

    With more particles the standard gradient of the guide has a lower signal-to-noise ratio, as :math:`K^{-1/2}`.
    With normalised weights :math:`\tilde w_k`, it is
    :math:`\sum_k \tilde w_k (\partial_z \log w_k \, \partial_\phi z_k - \partial_\phi \log q(z_k))`. ``"stl"`` leaves
    out the second part (biased for K above 1), and ``"dreg"`` is
    :math:`\sum_k \tilde w_k^2 \, \partial_z \log w_k \, \partial_\phi z_k`, which has the same mean and a ratio that
    grows. The gradient of the model, and of what the model takes from the guide, is the same in all three.

    Args:
        num_particles: number K of draws per datum.
        gradient: ``"standard"``, ``"stl"`` (sticking the landing) or ``"dreg"`` (doubly reparameterised); the last
            two run the guide once more.

    Raises:
        InvalidInput: a wrong argument; or, at the first call, a pair for which this is no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae = VAE(data_shape=(1, 8, 8), latent_dim=2)
        >>> told = IWAE(num_particles=5, gradient="dreg").report(vae.model, vae.guide, torch.zeros(10, 1, 8, 8))
        >>> bool(-told["loss"] >= told["elbo"])
        True

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
        Roeder, Wu and Duvenaud, "Sticking the landing", 2017.
        Tucker, Lawson, Gu and Maddison, "Doubly reparameterized gradient estimators for Monte Carlo objectives", 2019.
    """

    def __init__(
        self, num_particles: int, *, gradient: Literal["standard", "stl", "dreg"] = "standard"
    ) -> None:
        super().__init__()
        self.num_particles = require_particles(num_particles)
        self.gradient = require_option("gradient", gradient, ("standard", "stl", "dreg"))
        self._layouts = Layouts(inspect_pair if gradient == "standard" else inspect_paths)

    def report(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> dict[str, Tensor]:
        """``loss`` in nats, and without gradient ``elbo``, the mean log-weight."""
        layout = self._layouts(model, guide, batch, self.num_particles)
        paths: list[Paths] = []

        def through(guide: Callable[..., Any]) -> Callable[..., Any]:
            if self.gradient == "standard" or not torch.is_grad_enabled():
                return guide
            paths.append(Paths(guide))
            return paths[-1]

        runs = run_pair(model, guide, batch, self.num_particles, layout, through)
        for _, guide_trace in runs:
            reason = "the path-wise gradient of importance weights would miss a term"
            require_reparameterised(guide_trace, reason, takes_exact=True)
        log_p, log_q = log_densities(runs, layout, num_particles=self.num_particles)
        log_w = log_p - log_q  # (particles, batch)
        bound = (log_w.logsumexp(0) - math.log(self.num_particles)).sum()
        elbo = log_w.detach().mean(0).sum()
        if paths:
            weights = log_w.detach().softmax(0)
            surrogate = _weighed(weights, log_p)
            for number, (path, run) in enumerate(zip(paths, runs, strict=True)):
                if self.gradient == "dreg":
                    own = weights if len(paths) == 1 else weights[number : number + 1]
                    path.scale(_spread(own, run, layout))
            # The guide of each run has its own draws, whose densities are columns of log_q.
            surrogate = surrogate - sum(path.along(_weighed(weights, log_q)) for path in paths)
            bound = bound.detach() + (surrogate - surrogate.detach())
        return {"loss": -bound, "elbo": elbo}


def _weighed(weights: Tensor, log_density: Tensor) -> Tensor:
    """Sum of weights times log-densities; a draw without weight adds nothing, were its density zero."""
    return (weights * torch.where(weights > 0.0, log_density, 0.0)).sum()


def _spread(weights: Tensor, run: tuple[Trace, Trace], layout: Layout) -> dict[str, Tensor]:
    """Weights (particles or 1, batch) by site, in shapes that broadcast with the draws of each."""
    model_trace, guide_trace = run
    plate = batch_plate(model_trace)
    found = {}
    for name, site in sample_sites(guide_trace).items():
        if not site["value"].requires_grad:
            continue
        if not is_in(plate, site):  # each datum would multiply its path by a weight of its own
            raise InvalidInput(
                "a trained latent variable outside the batch",
                where=f"site {name!r}",
                expected=f"every trained site of the guide inside plate {plate.name!r} with gradient='dreg'",
                cure="gradient='standard'",
            )
        shape = [1] * (int(layout.max_plate_nesting) + (len(weights) > 1))
        shape[plate.dim] = weights.shape[1]
        if len(weights) > 1:
            shape[0] = len(weights)
        shape += [1] * site["fn"].event_dim
        # A draw may lack plates further left.
        found[name] = weights.reshape(shape[max(0, len(shape) - site["value"].dim()) :])
    return found
