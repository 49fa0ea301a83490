"""The evidence lower bound, and what training makes of it: weights and thresholds of its divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_option, require_particles, require_reparameterised
from pyro_dgm.objectives.elbo_terms import (
    Groups,
    Terms,
    analytic_terms,
    free_divergence,
    monte_carlo_terms,
    path_terms,
)
from pyro_dgm.objectives.inspection import Layouts, inspect_pair, inspect_paths
from pyro_dgm.objectives.paths import Paths
from pyro_dgm.objectives.reporting import Reporting
from pyro_dgm.objectives.schedules import Schedule, Weight
from pyro_dgm.objectives.traces import run_pair


class ELBO(Reporting):
    r"""Negative evidence lower bound, summed over the data.

    .. math:: -\sum_i \mathbb{E}_{q(z \mid x_i)} [\log p(x_i \mid z)] - \mathrm{KL}(q(z \mid x_i) \,\|\, p(z))

    Scales (subsampling, ``poutine.scale``) and masks count. With ``kl="monte_carlo"`` value and gradient are those
    of Pyro's ``Trace_ELBO``, score-function terms included (also that of the density of a discrete auxiliary site,
    which Pyro leaves out). With ``kl="analytic"`` each latent site contributes
    :math:`\mathrm{KL}(q \,\|\, p)` in closed form; sites must then come in the same order in model and guide, be
    reparameterised and have a closed form, or the first call raises (``TraceMeanField_ELBO`` only warns).

    ``beta`` weighs the divergence, and ``free_bits`` gives a part of it for free. With a ``beta`` below 1 the loss is
    no bound, above 1 or with free bits a looser one; :meth:`report` tells the bound itself beside it. Both are means
    of training: in evaluation mode (``.eval()``, as in the validation by ``fit``) the loss is the untouched bound.

    Args:
        num_particles: number of draws from the guide that are averaged.
        kl: ``"monte_carlo"`` or ``"analytic"``.
        beta: weight of the divergence, a number or a schedule (:class:`Linear`, :class:`Cyclical`, :class:`Sigmoid`,
            or any function of the number of training steps, tensor to tensor).
        free_bits: threshold :math:`\lambda` in nats: a group of latents whose divergence, averaged over the data of a
            batch, is below it counts as :math:`\lambda`, and has no gradient from its divergence. Divergences are then
            in closed form where there is one, whatever ``kl`` says of the bound that is told.
        free_bits_per: what a group is: a ``"unit"`` of a site (a whole site where guide or prior does not factorise
            over units), or a ``"site"``.
        gradient: ``"pathwise"``, or ``"stl"`` (sticking the landing), which leaves out the term of zero expectation
            and so has no variance where the guide is the posterior. It runs the guide once more.

    Raises:
        InvalidInput: a wrong argument; or, at the first call, a pair for which this is no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=5, latent_dim=2)
        >>> x = torch.randn(10, 5)
        >>> loss = ELBO()(ppca.model, ppca.guide, x)  # the guide is exact: each sample gives -log p(x)
        >>> torch.allclose(loss, -ppca.log_prob(x).sum(), rtol=1e-4)
        True
        >>> told = ELBO(beta=0.5, free_bits=0.1).report(ppca.model, ppca.guide, x)
        >>> torch.allclose(told["elbo"], ppca.log_prob(x).sum(), rtol=1e-4)
        True

    Reference:
        Kingma and Welling, "Auto-encoding variational Bayes", 2014.
        Ranganath, Gerrish and Blei, "Black box variational inference", 2014.
        Higgins et al., "beta-VAE: learning basic visual concepts with a constrained variational framework", 2017.
        Kingma et al., "Improving variational inference with inverse autoregressive flow", 2016 (free bits).
        Roeder, Wu and Duvenaud, "Sticking the landing", 2017.
    """

    def __init__(
        self,
        num_particles: int = 1,
        *,
        kl: Literal["monte_carlo", "analytic"] = "monte_carlo",
        beta: float | Schedule | Callable[[Tensor], Tensor] = 1.0,
        free_bits: float = 0.0,
        free_bits_per: Groups = "unit",
        gradient: Literal["pathwise", "stl"] = "pathwise",
    ) -> None:
        super().__init__()
        require_option("kl", kl, ("monte_carlo", "analytic"))
        require_option("free_bits_per", free_bits_per, ("unit", "site"))
        require_option("gradient", gradient, ("pathwise", "stl"))
        if not 0.0 <= free_bits < float("inf"):
            raise InvalidInput(
                "bad threshold", where="free_bits", value=free_bits, expected="nats >= 0 per group", cure="0"
            )
        if gradient == "stl" and (kl == "analytic" or free_bits):
            raise InvalidInput(
                "options that exclude each other",
                where="gradient",
                value=f"'stl' with {'free_bits' if free_bits else 'kl'}={free_bits or kl!r}",
                expected="a divergence by the draws, whose gradient it is about",
                cure="kl='monte_carlo' without free bits, or gradient='pathwise'",
            )
        self.num_particles = require_particles(num_particles)
        self.kl = kl
        self.beta = Weight(beta, name="beta")
        self.free_bits = float(free_bits)
        self.free_bits_per: Groups = free_bits_per
        self.gradient = gradient
        self._layouts = Layouts(inspect_paths if gradient == "stl" else inspect_pair)

    def report(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> dict[str, Tensor]:
        """``loss`` in nats, and without gradient the untouched bound ``elbo`` and its ``kl``."""
        layout = self._layouts(model, guide, batch, self.num_particles)
        terms, runs = self._terms(model, guide, batch, layout)
        likelihood = torch.stack([term.likelihood for term in terms]).sum() / self.num_particles
        divergence = torch.stack([term.divergence for term in terms]).sum() / self.num_particles
        trained = divergence
        if self.training:
            if self.free_bits > 0.0:
                trained = free_divergence(runs, self.free_bits, self.free_bits_per) / self.num_particles
            trained = (self.beta() * trained).to(trained.dtype)
        bound = (likelihood - divergence).detach()
        return {"loss": trained - likelihood, "elbo": bound, "kl": divergence.detach()}

    def _terms(
        self, model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], layout: Any
    ) -> tuple[list[Terms], list[tuple[Trace, Trace]]]:
        if self.gradient == "stl" and torch.is_grad_enabled():
            paths: list[Paths] = []

            def through(guide: Callable[..., Any]) -> Paths:
                paths.append(Paths(guide))
                return paths[-1]

            runs = run_pair(model, guide, batch, self.num_particles, layout, through)
            for _, guide_trace in runs:
                require_reparameterised(guide_trace, "only paths are followed")
            return [path_terms(*run, path) for run, path in zip(runs, paths, strict=True)], runs
        runs = run_pair(model, guide, batch, self.num_particles, layout)
        of_run = analytic_terms if self.kl == "analytic" else monte_carlo_terms
        return [of_run(*run) for run in runs], runs
