"""The evidence lower bound, by one sample per site or with analytic Kullback-Leibler divergences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.util import MultiFrameTensor
from pyro.poutine import Trace
from torch import Tensor, nn
from torch.distributions import Independent, kl_divergence

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.inspection import Layouts
from pyro_dgm.objectives.sites import Site, latent_sites, observed_sites, sample_sites
from pyro_dgm.objectives.traces import run_pair


class ELBO(nn.Module):
    r"""Negative evidence lower bound, summed over the data.

    .. math:: -\sum_i \mathbb{E}_{q(z \mid x_i)} [\log p(x_i, z) - \log q(z \mid x_i)]

    Scales (subsampling, ``poutine.scale``) and masks count. With ``kl="monte_carlo"`` value and gradient are those
    of Pyro's ``Trace_ELBO``, score-function terms included (also that of the density of a discrete auxiliary site,
    which Pyro leaves out). With ``kl="analytic"`` each latent site contributes
    :math:`\mathrm{KL}(q \,\|\, p)` in closed form; sites must then come in the same order in model and guide, be
    reparameterised and have a closed form, or the first call raises (``TraceMeanField_ELBO`` only warns).

    Args:
        num_particles: number of draws from the guide that are averaged.
        kl: ``"monte_carlo"`` or ``"analytic"``.

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

    Reference:
        Kingma and Welling, "Auto-encoding variational Bayes", 2014.
        Ranganath, Gerrish and Blei, "Black box variational inference", 2014.
    """

    def __init__(
        self, num_particles: int = 1, *, kl: Literal["monte_carlo", "analytic"] = "monte_carlo"
    ) -> None:
        super().__init__()
        bounds = {"monte_carlo": _monte_carlo_bound, "analytic": _analytic_bound}
        if kl not in bounds:
            raise InvalidInput(
                "unknown option", where="kl", value=repr(kl), expected=" or ".join(map(repr, bounds))
            )
        self.num_particles = require_particles(num_particles)
        self.kl = kl
        self._bound = bounds[kl]
        self._layouts = Layouts()

    def forward(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> Tensor:
        layout = self._layouts(model, guide, batch, self.num_particles)
        runs = run_pair(model, guide, batch, self.num_particles, layout)
        bounds = [self._bound(model_trace, guide_trace) for model_trace, guide_trace in runs]
        return -torch.stack(bounds).sum() / self.num_particles


def _monte_carlo_bound(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Sum of log p - log q, whose gradient is the path-wise one plus score-function terms."""
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    log_p: Tensor = sum(site["log_prob_sum"] for site in model_sites.values())
    bound: Tensor = log_p - sum(site["log_prob_sum"] for site in guide_sites.values())
    surrogate = log_p
    for site in guide_sites.values():
        _, score, entropy = site["score_parts"]
        if not is_identically_zero(entropy):
            surrogate = surrogate - entropy.sum()
        if not is_identically_zero(score):
            log_r = _log_ratio(model_sites, guide_sites)
            surrogate = surrogate + (log_r.sum_to(site["cond_indep_stack"]) * score).sum()
    return bound.detach() + (surrogate - surrogate.detach())


def _log_ratio(model_sites: dict[str, Any], guide_sites: dict[str, Any]) -> MultiFrameTensor:
    """log p - log q by plates: a site's score is multiplied only by the terms that share its plates."""
    log_r = MultiFrameTensor()
    for sign, sites in ((1.0, model_sites), (-1.0, guide_sites)):
        for site in sites.values():
            log_r.add((site["cond_indep_stack"], sign * site["log_prob"].detach()))
    return log_r


def _analytic_bound(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Expected log-likelihood by one sample, minus closed-form divergences."""
    bound: Tensor = sum(site["log_prob_sum"] for site in observed_sites(model_trace).values())
    priors, posteriors = latent_sites(model_trace), latent_sites(guide_trace)
    others = [name for name in sample_sites(guide_trace) if name not in posteriors]
    if others:
        raise InvalidInput(
            "a guide site that is no latent variable of the model",
            where="kl='analytic'",
            value=", ".join(others),
            expected="a guide without auxiliary sites, which leave no closed form (autoguides have them)",
            cure="kl='monte_carlo'",
        )
    if list(priors) != list(posteriors):
        raise InvalidInput(
            "different order of sites in model and guide",
            where="kl='analytic'",
            value=f"{', '.join(priors)} against {', '.join(posteriors)}",
            expected="the same order, or a closed-form divergence may be wrong",
            cure="kl='monte_carlo'",
        )
    for name, q in posteriors.items():
        p = priors[name]
        if not q["fn"].has_rsample:
            raise InvalidInput(
                "a site that is not reparameterised",
                where=f"site {name!r}",
                expected="a reparameterised distribution with kl='analytic'",
                cure="kl='monte_carlo', which adds its score-function term",
            )
        if not (is_same(q["scale"], p["scale"]) and is_same(q["mask"], p["mask"])):
            raise InvalidInput(
                "different scales or masks in model and guide",
                where=f"site {name!r}",
                expected="one scale and one mask for a divergence",
                cure="kl='monte_carlo'",
            )
        bound = bound - scale_and_mask(closed_form(q, p), q["scale"], q["mask"]).sum()
    return bound


def closed_form(q: Site, p: Site) -> Tensor:
    """KL(q || p) of two sites in nats, of their batch shape; raises InvalidInput where no closed form is known."""
    try:
        # Pyro takes a mask of one of the two (a flat prior, masked out) for a mask of both.
        if not is_same(_mask(q["fn"]), _mask(p["fn"])):
            raise NotImplementedError
        divergence: Any = kl_divergence(q["fn"], p["fn"])
        # Where both are masked out it is a plain number.
        return divergence if isinstance(divergence, Tensor) else torch.zeros(q["fn"].batch_shape)
    except NotImplementedError:
        raise InvalidInput(
            "no closed-form divergence",
            where=f"site {q['name']!r}",
            value=f"{q['fn']} from {p['fn']}",
            expected="a pair of families that torch or Pyro knows",
            cure="kl='monte_carlo', or Trace_ELBO",
        ) from None


def _mask(fn: Any) -> Any:
    """Mask of a distribution (``fn.mask(...)``), which is not that of its site."""
    while not isinstance(fn, MaskedDistribution):
        if not isinstance(fn, Independent):
            return None
        fn = fn.base_dist
    return fn._mask


def is_same(left: Any, right: Any) -> bool:
    """Whether two masks, or two scales, are the same."""
    if left is None or right is None:
        return left is right
    return torch.equal(torch.as_tensor(left), torch.as_tensor(right))
