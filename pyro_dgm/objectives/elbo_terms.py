"""The two terms of the evidence lower bound, of one run of a pair: each with the gradient of its expectation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.util import MultiFrameTensor
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_reparameterised
from pyro_dgm.objectives.closed_form import closed_form, is_same
from pyro_dgm.objectives.divergence_terms import divergence_terms
from pyro_dgm.objectives.paths import Paths
from pyro_dgm.objectives.sites import latent_sites, observed_sites, sample_sites

Groups = Literal["unit", "site"]


@dataclass(frozen=True)
class Terms:
    """Terms of one run, summed over data and particles; the bound is their difference.

    Args:
        likelihood: of E_q log p(x | z), a scalar.
        divergence: of E_q [log q(z | x) - log p(z)], a scalar.
    """

    likelihood: Tensor
    divergence: Tensor


def monte_carlo_terms(model_trace: Trace, guide_trace: Trace) -> Terms:
    """Both terms by the draws of a run; gradients are path-wise, with score-function terms where these are needed."""
    observed, latent = observed_sites(model_trace), latent_sites(model_trace)
    in_guide = sample_sites(guide_trace)
    values = [_sum(observed.values()), _sum(in_guide.values()) - _sum(latent.values())]
    surrogates = [values[0], -_sum(latent.values())]
    for site in in_guide.values():
        _, score, entropy = site["score_parts"]
        if not is_identically_zero(entropy):
            surrogates[1] = surrogates[1] + entropy.sum()
        if not is_identically_zero(score):
            pieces = [_by_plates((1.0, observed)), _by_plates((1.0, in_guide), (-1.0, latent))]
            for place, piece in enumerate(pieces):
                weighed = piece.sum_to(site["cond_indep_stack"]) * score
                surrogates[place] = surrogates[place] + weighed.sum()
    return Terms(*(_with_gradient(v, s) for v, s in zip(values, surrogates, strict=True)))


def path_terms(model_trace: Trace, guide_trace: Trace, paths: Paths) -> Terms:
    """Both terms by the draws of a run, with gradients along the paths of the draws alone."""
    in_guide = sample_sites(guide_trace)
    if not in_guide:  # there are no paths
        return monte_carlo_terms(model_trace, guide_trace)
    log_q: Tensor = _sum(in_guide.values())
    divergence = paths.along(log_q) - _sum(latent_sites(model_trace).values())
    return Terms(_sum(observed_sites(model_trace).values()), divergence)


def analytic_terms(model_trace: Trace, guide_trace: Trace) -> Terms:
    """The first term by the draws of a run, the second in closed form."""
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
    divergence: Any = 0.0
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
        divergence = divergence + scale_and_mask(closed_form(q, p), q["scale"], q["mask"]).sum()
    likelihood: Tensor = _sum(observed_sites(model_trace).values())
    return Terms(likelihood, divergence if posteriors else likelihood.new_zeros(()))


def free_divergence(runs: Sequence[tuple[Trace, Trace]], threshold: float, groups: Groups) -> Tensor:
    r"""Divergence of which each group g of latents has a part for free.

    .. math:: N \sum_g \max(\lambda, \frac1N \sum_i \mathrm{KL}_{ig})

    The mean is taken over all particles too, in one run or in several. Data that are masked out count among the N,
    with a divergence of zero.

    Args:
        runs: traces (model, guide), of all particles.
        threshold: :math:`\lambda` in nats per datum and group.
        groups: what a group is, a unit of a site or a whole site.

    Returns:
        A scalar, summed over particles as the other terms are.
    """
    values: dict[str, list[Tensor]] = {}
    for model_trace, guide_trace in runs:
        require_reparameterised(guide_trace, "free bits have no score-function term")
        for name, terms in divergence_terms(model_trace, guide_trace).items():
            by_unit = groups == "unit" and terms.per_unit is not None
            value = terms.per_unit if by_unit else terms.per_datum.unsqueeze(-1)
            assert value is not None
            values.setdefault(name, []).append(value)  # (particles, [batch,] groups)
    total: Any = 0.0
    for name, pieces in values.items():
        scale = _one_scale(name, runs[0])
        value = torch.cat(pieces)
        num_data = value.shape[1] if value.dim() == 3 else 1
        mean = value.flatten(0, -2).mean(0)  # (groups,)
        total = total + mean.clamp(min=threshold).sum() * (num_data * value.shape[0]) * scale
    return torch.as_tensor(total)


def _one_scale(name: str, run: tuple[Trace, Trace]) -> Any:
    """Scale of a site, or of those that have one divergence, which must be one number in model and guide."""
    in_model, in_guide = (sample_sites(trace) for trace in run)
    sites = [in_guide[one] for one in name.split("+")] + [in_model[one] for one in name.split("+")]
    scale = sites[0]["scale"]
    if any(isinstance(site["scale"], Tensor) and site["scale"].dim() for site in sites):
        value, expected = "a scale for each datum", "one scale, since free bits are of the mean over the data"
    elif not all(is_same(scale, site["scale"]) for site in sites):
        value, expected = "different scales in model and guide", "one scale for a divergence"
    else:
        return scale
    raise InvalidInput(value, where=f"site {name!r}", expected=expected, cure="free_bits=0")


def _sum(sites: Any) -> Any:
    return sum(site["log_prob_sum"] for site in sites)


def _by_plates(*signed: tuple[float, dict[str, Any]]) -> MultiFrameTensor:
    """Densities by plates: a site's score is multiplied only by the terms that share its plates."""
    found = MultiFrameTensor()
    for sign, sites in signed:
        for site in sites.values():
            found.add((site["cond_indep_stack"], sign * site["log_prob"].detach()))
    return found


def _with_gradient(value: Any, surrogate: Any) -> Any:
    """A value with the gradient of another; of no sites the value is the plain number zero."""
    if not isinstance(value, Tensor):
        return torch.zeros(())
    return value.detach() + (surrogate - surrogate.detach())
