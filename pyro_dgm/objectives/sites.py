"""Sites of a trace: which carry a density, which are latent, and what kind they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyro
import torch
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

Site = dict[str, Any]
EXACT = "_is_exact"  # in the ``infer`` of a site: its distribution is the conditional of the model itself


def sample_sites(trace: Trace) -> dict[str, Site]:
    """Sample sites of a trace that carry a density: neither subsampling nor what is computed from other sites.

    Computed are ``pyro.deterministic`` sites, and those that ``poutine.reparam`` has made of a latent.
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample" and not site_is_subsample(site) and not _is_computed(site)
    }


def _is_computed(site: Site) -> bool:
    if site["infer"].get("_deterministic", False):
        return True
    # Pyro's reparameterisations leave a Delta, masked out, that observes its own value.
    return bool(site["is_observed"]) and is_point(site) and is_masked_out(site)


def is_masked_out(site: Site) -> bool:
    """Whether a site has no density (``fn.mask(False)``, ``poutine.mask(mask=False)``), as flat priors are written."""
    masked = pyro.distributions.MaskedDistribution
    return site["mask"] is False or any(
        isinstance(layer, masked) and layer._mask is False for layer in layers(site)
    )


def mask_of(site: Site) -> Tensor | bool:
    """Mask of a site: ``poutine.mask``, and ``fn.mask`` of its distribution."""
    masks = [site["mask"], *(getattr(layer, "_mask", None) for layer in layers(site))]
    found: Tensor | bool = True
    for mask in masks:
        if mask is not None:
            found = (
                mask if found is True else torch.logical_and(torch.as_tensor(found), torch.as_tensor(mask))
            )
    return found


def observed_sites(model_trace: Trace) -> dict[str, Site]:
    """Observed sites of a model."""
    return {name: site for name, site in sample_sites(model_trace).items() if site["is_observed"]}


def latent_sites(trace: Trace) -> dict[str, Site]:
    """Latent sites of a model or a guide, without auxiliary ones."""
    return {
        name: site
        for name, site in sample_sites(trace).items()
        if not site["is_observed"] and not site["infer"].get("is_auxiliary", False)
    }


def is_marked(site: Site) -> bool:
    """Whether a latent is marked for enumeration, and has finitely many values."""
    return bool(site["infer"].get("enumerate") == "parallel" and is_finite(site))


def is_finite(site: Site) -> bool:
    """Whether a latent has finitely many values that can be listed."""
    return bool(getattr(site["fn"], "has_enumerate_support", False))


def plate_frames(*traces: Trace) -> list[Any]:
    """Frames of the plates of traces, those that are dimensions, as often as there are sites in them."""
    stacks = [site["cond_indep_stack"] for trace in traces for site in sample_sites(trace).values()]
    return [frame for stack in stacks for frame in stack if frame.vectorized]


def plate_nesting(*traces: Trace) -> int:
    """Number of dimensions that the plates of traces take."""
    return -min((frame.dim for frame in plate_frames(*traces)), default=0)


def has_auxiliary(guide_trace: Trace) -> bool:
    """Whether a guide builds latents from auxiliary sites."""
    return any(site["infer"].get("is_auxiliary") for site in sample_sites(guide_trace).values())


def point_sites(model_trace: Trace, guide_trace: Trace) -> list[str]:
    """Latents that are a Delta in the guide alone."""
    in_model = latent_sites(model_trace)
    return [
        name
        for name, site in latent_sites(guide_trace).items()
        if is_point(site) and not is_point(in_model[name])
    ]


def is_point(site: Site) -> bool:
    """Whether a site is a Delta."""
    return any(isinstance(layer, pyro.distributions.Delta) for layer in layers(site))


def layers(site: Site) -> Iterator[Any]:
    """Distribution of a site and, inwards, those that it wraps."""
    layer = site["fn"]
    while layer is not None:
        yield layer
        layer = getattr(layer, "base_dist", None)
