"""Terms of the divergence of a guide from the prior, site by site, of one run of a pair."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, constraints

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.closed_form import closed_form, is_same
from pyro_dgm.objectives.sites import Site, is_point, sample_sites
from pyro_dgm.objectives.traces import PARTICLES
from pyro_dgm.objectives.weights import batch_plate


@dataclass(frozen=True)
class DivergenceTerms:
    """Terms of a divergence, one for each particle; their mean over particles estimates it without bias.

    Args:
        per_datum: (particles or 1, batch) in nats, (particles or 1,) of a site outside the plate of the data.
        per_unit: the same with a last dimension of units; None where guide or prior does not factorise over them.
    """

    per_datum: Tensor
    per_unit: Tensor | None


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
