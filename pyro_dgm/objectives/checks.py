"""What a (model, guide) pair must be to have a bound, each fault said in one line that names the site."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from pyro.poutine import Trace

from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.objectives.sites import (
    EXACT,
    Site,
    has_auxiliary,
    is_finite,
    is_marked,
    latent_sites,
    layers,
    mask_of,
    observed_sites,
    point_sites,
    sample_sites,
)


def require_particles(num_particles: int) -> int:
    """``num_particles`` if it is an integer from one upwards."""
    if not (num_particles >= 1 and num_particles % 1 == 0):
        raise InvalidInput(
            "no particles", where="num_particles", value=num_particles, expected="an integer >= 1", cure="1"
        )
    return num_particles


def require_option(where: str, value: str, known: Sequence[str]) -> str:
    """``value`` if it is one of those known."""
    if value not in known:
        raise InvalidInput(
            "unknown option", where=where, value=repr(value), expected=" or ".join(map(repr, known))
        )
    return value


def check_pair(model_trace: Trace, guide_trace: Trace) -> None:
    """Raises if a pair has no bound.

    Args:
        model_trace: of the model, replayed with the guide.
        guide_trace: of the guide.

    Raises:
        InvalidInput: a latent that the guide lacks, a guide site that the model lacks, a MAP guide.
        IncompatibleModel: the model observes nothing, or has no normalised density.
    """
    for name, site in sample_sites(model_trace).items():
        for layer in layers(site):
            if getattr(layer, "unnormalized", False):
                raise IncompatibleModel(
                    "no normalised density",
                    where=f"site {name!r}",
                    expected="a density that integrates to one",
                    cure=getattr(layer, "cure", "a contrastive objective"),
                )
    if not observed_sites(model_trace):
        raise IncompatibleModel(
            "the model observes nothing",
            expected="at least one observed site",
            cure="to pass the data, or an adversarial objective if the model is implicit",
        )
    in_model, in_guide = latent_sites(model_trace), latent_sites(guide_trace)
    for name in in_model:
        if name not in in_guide:
            raise InvalidInput(
                "latent variable without a guide",
                where=f"site {name!r}",
                expected=f"pyro.sample({name!r}, ...) in the guide",
                cure="to add it" + _cure_by_enumeration(in_model[name]),
            )
    for name in in_guide:
        if name not in in_model:
            raise InvalidInput(
                "guide site that the model lacks",
                where=f"site {name!r}",
                expected="a latent variable of the model",
                cure="infer={'is_auxiliary': True} if the guide builds its latents from it",
            )
    if not has_auxiliary(guide_trace):
        refuse_points(point_sites(model_trace, guide_trace))


def _cure_by_enumeration(site: Site) -> str:
    if not is_finite(site):
        return ""
    if not is_marked(site):
        return ", or pyro.infer.config_enumerate(model), so that it can be summed out"
    return ", complete_guide(model, guide, batch), or PyroELBO(TraceEnum_ELBO()) for training"


def refuse_subsample(name: str, site: Site) -> None:
    """Raises if a site lies in a plate that holds a part of its data."""
    for frame in site["cond_indep_stack"]:
        if frame.full_size is not None and frame.full_size != frame.size:
            raise InvalidInput(
                "a subsample",
                where=f"plate {frame.name!r}",
                value=f"{frame.size} of {frame.full_size}, at site {name!r}",
                expected="the whole data",
                cure="a plate without subsampling",
            )


def refuse_points(names: list[str]) -> None:
    """Raises if there is a point estimate."""
    if names:
        raise InvalidInput(
            "a point estimate (Delta) in the guide",
            where=f"site {names[0]!r}",
            expected="a density, since MAP is not a bound on log p(x)",
            cure="AutoNormal in place of AutoDelta, or Pyro's Trace_ELBO through PyroELBO",
        )


def require_plates(*traces: Trace) -> None:
    """Raises if a site has a batch dimension that no plate declares, which Pyro checks where its validation is on."""
    for trace in traces:
        for name, site in sample_sites(trace).items():
            shape = site["unscaled_log_prob"].shape
            plates = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
            if any(size > 1 and dim not in plates for dim, size in enumerate(shape, -len(shape))):
                raise _unplated(name, str(list(shape)), "a plate for each dimension")


def require_equal_masks(model_trace: Trace, guide_trace: Trace) -> None:
    """Raises if log p counts other entries of a latent than log q, as where a guide forgets the ``obs_mask``."""
    in_guide = latent_sites(guide_trace)
    for name, site in latent_sites(model_trace).items():
        masks = [torch.as_tensor(mask_of(one)) for one in (site, in_guide[name])]
        if not masks[0].any() or all(mask.all() for mask in masks):
            continue  # a flat prior, without any density; or none
        ours, theirs = torch.broadcast_tensors(*(mask.to(masks[0].device) for mask in masks))
        if not torch.equal(ours, theirs):
            raise InvalidInput(
                "entries that are masked in the model and not in the guide, or the reverse",
                where=f"site {name!r}",
                value=f"{int((ours != theirs).sum())} of {ours.numel()}",
                expected="one mask for log p and log q, or the bound is none",
                cure="poutine.mask around the guide's site (for obs_mask, its complement)",
            )


def _unplated(name: str, shape: str, expected: str) -> InvalidInput:
    return InvalidInput(
        "a batch outside any plate",
        where=f"site {name!r}",
        value=f"log-densities of shape {shape}",
        expected=expected,
        cure="pyro.plate('data', len(x)) around the site, or .to_event() if its dimensions are one datum",
    )


def in_one_line(error: ValueError) -> InvalidInput | None:
    """Pyro's pages about values outside a support and batches outside plates, and those that it adds to ours.

    None for any other error.
    """
    if isinstance(error, InvalidInput):
        return InvalidInput(str(error).partition(" Trace Shapes:")[0])
    if isinstance(error.__cause__, InvalidInput):
        return error.__cause__
    if site := re.search(
        r" at site '(.*?)':\n.* to be within the support \((.*)\) of the distribution", str(error)
    ):
        return InvalidInput(
            "value outside the support",
            where=f"site {site[1]!r}",
            expected=f"values in {site[2]}",
            cure="other preprocessing (binarize, scale, levels), or another distribution there; for a latent, a guide "
            "whose support is within that of its prior",
        )
    if site := re.search(
        r'at site "(.*?)", invalid log_prob shape\s+Expected \[(.*)\], actual \[(.*)\]', str(error)
    ):
        return _unplated(site[1], f"[{site[3]}]", f"[{site[2]}], the sizes of its plates")
    return None


def require_reparameterised(guide_trace: Trace, reason: str, *, takes_exact: bool = False) -> None:
    """Raises if a trained site of a guide is not reparameterised.

    Args:
        guide_trace: from a run with gradients.
        reason: why it has to be.
        takes_exact: whether exact conditionals may stay, on whose draws no weight depends.
    """
    for name, site in sample_sites(guide_trace).items():
        if takes_exact and site["infer"].get(EXACT):
            continue
        if not site["fn"].has_rsample and not site["is_observed"] and site["log_prob"].requires_grad:
            raise InvalidInput(
                "a site that is not reparameterised",
                where=f"site {name!r}",
                expected=f"reparameterised guide sites, since {reason}",
                cure="ELBO, which adds the score-function term, or a score-function bound such as VIMCO",
            )
