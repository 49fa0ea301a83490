"""Running a (model, guide) pair with many particles: what every bound and every weight begins with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dgm.errors import IncompatibleModel, InvalidInput

PARTICLES = "_particles"
Site = dict[str, Any]


@dataclass(frozen=True)
class Layout:
    """What one run of a pair has shown of it.

    Args:
        max_plate_nesting: number of batch dimensions that the pair's own plates take.
        vectorized: whether a plate of particles to the left of them works.
        has_latents: whether the guide samples anything.
    """

    max_plate_nesting: float
    vectorized: bool
    has_latents: bool


def require_particles(num_particles: int) -> int:
    """``num_particles`` if it is at least one."""
    if num_particles < 1:
        raise InvalidInput(
            "no particles", where="num_particles", value=num_particles, expected="an integer >= 1", cure="1"
        )
    return num_particles


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
        isinstance(layer, masked) and layer._mask is False for layer in _layers(site)
    )


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


class Given(poutine.messenger.Messenger):
    """Gives sites their values and no more (``poutine.replay`` replaces what a ``GuideMessenger`` keeps of a site).

    A plate that is entered inside leaves a given site alone.

    Args:
        values: by name of the site; others are drawn as ever.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.values and not msg["is_observed"] and not msg["done"]:
            msg["value"], msg["done"] = self.values[msg["name"]], True


def prior_of(model: Callable[..., Any]) -> Callable[..., Any]:
    """Guide that draws the latents of a model from its own prior.

    Args:
        model: a Pyro model.
    """
    return poutine.block(model, hide_fn=_is_no_latent)


def _is_no_latent(site: Site) -> bool:
    return site["type"] == "sample" and bool(site["is_observed"])


def run_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    num_particles: int,
    layout: Layout,
) -> list[tuple[Trace, Trace]]:
    """Traces (model, guide) with log-densities computed: one of all particles, or one per particle.

    Each run is checked, since a batch may have other sites than the last one.

    Raises:
        InvalidInput: a latent that the guide lacks, a guide site that the model lacks, a MAP guide; with Pyro's
            validation on, a value outside the support of its site.
        IncompatibleModel: the model observes nothing, or has no normalised density.
    """

    def once(model: Callable[..., Any], guide: Callable[..., Any], nesting: float) -> tuple[Trace, Trace]:
        try:
            traces = get_importance_trace("flat", nesting, model, guide, batch, {})
        except ValueError as error:
            raise in_one_line(error) or error from None
        _check(*traces)
        return traces

    if num_particles > 1 and layout.vectorized:
        nesting = int(layout.max_plate_nesting) + 1
        plate = pyro.plate(PARTICLES, num_particles, dim=-nesting)
        return [once(plate(model), plate(guide), nesting)]
    return [once(model, guide, layout.max_plate_nesting) for _ in range(num_particles)]


def in_one_line(error: ValueError) -> InvalidInput | None:
    """Pyro's pages about a value outside the support of its site and about a batch outside plates; None for others."""
    if site := re.search(
        r" at site '(.*?)':\n.* to be within the support \((.*)\) of the distribution", str(error)
    ):
        return InvalidInput(
            "value outside the support",
            where=f"site {site[1]!r}",
            expected=f"values in {site[2]}",
            cure="other preprocessing (binarize, scale, levels), or another distribution there",
        )
    if site := re.search(
        r'at site "(.*?)", invalid log_prob shape\s+Expected \[(.*)\], actual \[(.*)\]', str(error)
    ):
        return _unplated(site[1], f"[{site[3]}]", f"[{site[2]}], the sizes of its plates")
    return None


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
        masks = [site["mask"], in_guide[name]["mask"]]
        if any(isinstance(mask, Tensor) for mask in masks):
            log_prob = site["unscaled_log_prob"]
            ours, theirs = (
                torch.as_tensor(True if mask is None else mask, device=log_prob.device).expand(log_prob.shape)
                for mask in masks
            )
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


def _check(model_trace: Trace, guide_trace: Trace) -> None:
    for name, site in sample_sites(model_trace).items():
        if any(getattr(layer, "unnormalized", False) for layer in _layers(site)):
            raise IncompatibleModel(
                "no normalised density",
                where=f"site {name!r}",
                expected="a density that integrates to one",
                cure="a contrastive objective",
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
        return ", or infer={'enumerate': 'parallel'} in the model, so that it can be summed out"
    return ", complete_guide(model, guide, batch), or PyroELBO(TraceEnum_ELBO()) for training"


def plate_frames(*traces: Trace) -> list[Any]:
    """Frames of the plates of traces, those that are dimensions, as often as there are sites in them."""
    stacks = [site["cond_indep_stack"] for trace in traces for site in sample_sites(trace).values()]
    return [frame for stack in stacks for frame in stack if frame.vectorized]


def plate_nesting(*traces: Trace) -> int:
    """Number of dimensions that the plates of traces take."""
    return -min((frame.dim for frame in plate_frames(*traces)), default=0)


def is_marked(site: Site) -> bool:
    """Whether a latent is marked for enumeration, and has finitely many values."""
    return bool(site["infer"].get("enumerate") == "parallel" and is_finite(site))


def is_finite(site: Site) -> bool:
    """Whether a latent has finitely many values that can be listed."""
    return bool(getattr(site["fn"], "has_enumerate_support", False))


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


def require_reparameterised(guide_trace: Trace, reason: str) -> None:
    """Raises if a trained site of a guide is not reparameterised.

    Args:
        guide_trace: from a run with gradients.
        reason: why it has to be.
    """
    for name, site in sample_sites(guide_trace).items():
        if not site["fn"].has_rsample and not site["is_observed"] and site["log_prob"].requires_grad:
            raise InvalidInput(
                "a site that is not reparameterised",
                where=f"site {name!r}",
                expected=f"reparameterised guide sites, since {reason}",
                cure="ELBO, which adds the score-function term, or a score-function bound such as VIMCO",
            )


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


def _layers(site: Site) -> Iterator[Any]:
    """Distribution of a site and, inwards, those that it wraps."""
    layer = site["fn"]
    while layer is not None:
        yield layer
        layer = getattr(layer, "base_dist", None)


def is_point(site: Site) -> bool:
    """Whether a site is a Delta."""
    return any(isinstance(layer, pyro.distributions.Delta) for layer in _layers(site))
