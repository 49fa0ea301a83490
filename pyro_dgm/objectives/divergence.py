"""Kullback-Leibler divergence of the guide from the prior, by site, datum and unit."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, constraints

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.elbo import closed_form, is_same
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.sites import Site, is_point, sample_sites
from pyro_dgm.objectives.traces import PARTICLES, Layout, run_pair
from pyro_dgm.objectives.weights import batch_plate

# Numbers at the latent sites of one pass; what the networks hold between them is a small multiple of it.
_ELEMENTS_PER_PASS = 2**21

COLLAPSED_SITE = 0.1  # nats per datum, below which a site says next to nothing
COLLAPSED_UNIT = 0.01
CURES = "KL annealing, free bits or a weaker decoder"


@dataclass(frozen=True)
class DivergenceTerms:
    """Terms of a divergence, one for each particle; their mean over particles estimates it without bias.

    Args:
        per_datum: (particles or 1, batch) in nats, (particles or 1,) of a site outside the plate of the data.
        per_unit: the same with a last dimension of units; None where guide or prior does not factorise over them.
    """

    per_datum: Tensor
    per_unit: Tensor | None


@dataclass(frozen=True)
class SiteDivergence:
    """KL(q || p) of one latent site, averaged over particles.

    Args:
        per_datum: (batch,) in nats, () of a site outside the plate of the data.
        standard_error: Monte Carlo standard error of each, by the spread over particles: zero where the closed form
            depends on no draw, NaN with a single particle.
        per_unit: (units,), averaged over the data; None where guide or prior does not factorise over units.
        is_local: whether the site lies in the plate of the data.
    """

    per_datum: Tensor
    standard_error: Tensor
    per_unit: Tensor | None
    is_local: bool

    @property
    def mean(self) -> float:
        """Mean over the data."""
        return self.per_datum.mean().item()


@torch.no_grad()
def site_divergences(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_particles: int = 10,
    layout: Layout | None = None,
) -> dict[str, SiteDivergence]:
    r"""KL(q(z | x) || p(z)) of each latent site, of each datum and of each unit.

    A site that depends on others has :math:`\mathbb{E}_q\,\mathrm{KL}(q(z_1 \mid z_2, x) \,\|\, p(z_1 \mid z_2))`,
    so that the sum over sites is the divergence of all latents. See :func:`divergence_terms` for what is in closed
    form. Draws are taken in passes of bounded memory.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_particles: number of draws from the guide.
        layout: what :func:`~pyro_dgm.objectives.inspection.inspect_pair` found, to save that run.

    Returns:
        Divergence by site.

    Raises:
        InvalidInput: no particles, or a pair that has no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae = VAE(data_shape=(1, 8, 8), latent_dim=2)
        >>> kl = site_divergences(vae.model, vae.guide, torch.zeros(5, 1, 8, 8))["z"]
        >>> kl.per_datum.shape, kl.per_unit.shape, kl.standard_error.max().item()
        (torch.Size([5]), torch.Size([2]), 0.0)

    Reference:
        Kingma and Welling, "Auto-encoding variational Bayes", 2014.
    """
    require_particles(num_particles)
    if layout is None:
        layout = inspect_pair(model, guide, batch, num_particles)
    values: dict[str, list[Tensor]] = {}
    units: dict[str, list[Tensor]] = {}
    done, per_pass = 0, 1  # the first draw shows how much a draw takes
    while done < num_particles:
        count = min(per_pass, num_particles - done)
        for traces in run_pair(model, guide, batch, count, layout):
            for name, terms in divergence_terms(*traces).items():
                values.setdefault(name, []).append(terms.per_datum.double())
                if terms.per_unit is not None:
                    per_unit = terms.per_unit.double()  # (particles, [batch,] units)
                    units.setdefault(name, []).append(per_unit.mean(1) if per_unit.dim() == 3 else per_unit)
        if not done:
            size = sum(site["value"].numel() for site in sample_sites(traces[0]).values())
            per_pass = max(1, _ELEMENTS_PER_PASS // max(1, size))
        done += count
    found = {}
    for name, pieces in values.items():
        of_draws = torch.cat(pieces)  # (particles, batch)
        # From the first draw, so that equal terms (a closed form that depends on no draw) have no rounding in them.
        spread = (of_draws - of_draws[:1]).std(0) if num_particles > 1 else of_draws[0] * math.nan
        found[name] = SiteDivergence(
            per_datum=of_draws.mean(0),
            standard_error=spread / math.sqrt(num_particles),
            per_unit=torch.cat(units[name]).mean(0) if name in units else None,
            is_local=of_draws.dim() == 2,
        )
    return found


def divergence_terms(model_trace: Trace, guide_trace: Trace) -> dict[str, DivergenceTerms]:
    r"""Terms of KL(q || p) of each latent site of one run, in nats.

    In closed form, where torch or Pyro has one and whatever the prior of the site may depend on is drawn before it
    in the guide too; otherwise :math:`\log q - \log p` of the draws. Masks count, scales do not. Differentiable
    along the paths of reparameterised guides.

    Latents that a guide computes from auxiliary sites (autoguides) have one divergence together, under their names
    joined by ``+``, unless each has auxiliary sites of its own right before it, as in ``AutoNormal``.

    Args:
        model_trace: of a model that has the guide's draws, with or without a dimension of particles.
        guide_trace: the guide's, both as :func:`~pyro_dgm.objectives.traces.run_pair` gives them.

    Returns:
        Terms by site, in the order of the guide.
    """
    model_sites, guide_sites = sample_sites(model_trace), sample_sites(guide_trace)
    latents = [name for name, site in guide_sites.items() if name in model_sites and not site["is_observed"]]
    frames = [frame for site in guide_sites.values() for frame in site["cond_indep_stack"]]
    particles = [frame.dim for frame in frames if frame.name == PARTICLES][:1]
    try:
        plate = batch_plate(model_trace)
    except InvalidInput:  # there is no datum then, only the whole data set
        plate = None
    found = {}
    for auxiliary, names in _groups(guide_sites, latents):
        sites = [guide_sites[name] for name in [*auxiliary, *names]]
        keep = list(particles)
        if plate is not None and all(is_in(plate, site) for site in sites):
            keep.append(plate.dim)
        if auxiliary or len(names) > 1:
            signed = [(1.0, site) for site in sites] + [(-1.0, model_sites[name]) for name in names]
            value: Any = sum(
                sign * arranged(masked(site["unscaled_log_prob"], site, 0), 0, keep).sum(-1)
                for sign, site in signed
            )
            terms = DivergenceTerms(value, None)
        else:
            (name,) = names
            parents = _before(name, [other for other in model_sites if other in latents])
            closed = parents <= _before(name, latents)
            terms = _of_one(guide_sites[name], model_sites[name], keep, closed=closed)
        if not particles:
            units = terms.per_unit
            terms = DivergenceTerms(terms.per_datum[None], None if units is None else units[None])
        found["+".join(names)] = terms
    return found


def is_in(plate: Any, site: Site) -> bool:
    """Whether a site lies in a plate (its frame)."""
    return any(frame.name == plate.name for frame in site["cond_indep_stack"])


def _before(name: str, names: list[str]) -> set[str]:
    return set(names[: names.index(name)])


def _groups(guide_sites: dict[str, Site], latents: list[str]) -> list[tuple[list[str], list[str]]]:
    """Auxiliary sites with the latents that have their density from them; other latents one by one."""
    groups: list[tuple[list[str], list[str]]] = []
    for name, site in guide_sites.items():
        if site["is_observed"]:
            continue
        auxiliary, names = groups[-1] if groups else ([], [])
        if name not in latents:
            if groups and not names:
                auxiliary.append(name)
            else:
                groups.append(([name], []))
        elif groups and auxiliary and (not names or is_point(site)):
            names.append(name)
        else:
            groups.append(([], [name]))
    if len(groups) > 1 and not groups[-1][1]:  # nothing comes of the last ones: they count with those before
        auxiliary, _ = groups.pop()
        groups[-1][0].extend(auxiliary)
    return [group for group in groups if group[1]]


def _of_one(q: Site, p: Site, keep: list[int], *, closed: bool) -> DivergenceTerms:
    """Terms of a latent that has a density of its own in the guide; closed where a closed form would be right."""
    of_q, of_p = _unit(q["fn"]), _unit(p["fn"])
    has_units = of_q.event_shape == of_p.event_shape and _is_variable(of_q) and _is_variable(of_p)
    if not has_units:
        of_q, of_p = q["fn"], p["fn"]
    extra = q["fn"].event_dim - of_q.event_dim
    term = None
    if closed and not is_point(q) and is_same(q["mask"], p["mask"]):
        with contextlib.suppress(InvalidInput):
            sites: Any = [{"name": q["name"], "fn": fn} for fn in (of_q, _as_multivariate(of_p, of_q))]
            term = masked(closed_form(*sites), q, extra)
    if term is None:
        value = q["value"]
        term = masked(of_q.log_prob(value), q, extra) - masked(of_p.log_prob(value), p, extra)
    per_unit = arranged(term, extra, keep)
    return DivergenceTerms(per_unit.sum(-1), per_unit if has_units else None)


def _unit(fn: Any) -> Any:
    """Distribution of one unit of a factorised one."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return fn


def _is_variable(fn: Any) -> bool:
    """Whether a draw is one variable, not a vector of dependent ones."""
    return fn.event_dim == 0 or fn.support is constraints.one_hot


def _as_multivariate(p: Any, q: Any) -> Any:
    """A factorised normal as a multivariate one, where only that has a closed form with q."""
    factorised = isinstance(p, Independent) and isinstance(p.base_dist, dist.Normal)
    if not (factorised and isinstance(q, dist.MultivariateNormal) and len(p.event_shape) == 1):
        return p
    return dist.MultivariateNormal(p.base_dist.loc, scale_tril=torch.diag_embed(p.base_dist.scale))


def masked(term: Tensor, site: Site, extra: int) -> Tensor:
    """A term with ``extra`` dimensions at the right that the site's mask lacks."""
    mask = site["mask"]
    if isinstance(mask, Tensor):
        mask = mask.reshape(mask.shape + (1,) * extra)
    return scale_and_mask(term, mask=mask)


def arranged(term: Tensor, extra: int, keep: list[int]) -> Tensor:
    """The batch dimensions to keep first (there are ``extra`` dimensions to their right), and all others as one."""
    dims = [dim - extra for dim in keep]
    missing = -min(dims, default=0) - term.dim()
    term = term.reshape((1,) * max(0, missing) + term.shape).movedim(dims, list(range(len(dims))))
    return term.flatten(len(dims)) if term.dim() > len(dims) else term.unsqueeze(-1)
