"""Running a (model, guide) pair with many particles: what every bound and every weight begins with."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator
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
        score_sites: guide sites that depend on parameters and cannot be reparameterised.
        has_latents: whether the guide samples anything.
    """

    max_plate_nesting: int
    vectorized: bool
    score_sites: tuple[str, ...]
    has_latents: bool


def require_particles(num_particles: int) -> int:
    """``num_particles`` if it is at least one."""
    if num_particles < 1:
        raise InvalidInput(
            "no particles", where="num_particles", value=num_particles, expected="an integer >= 1", cure="1"
        )
    return num_particles


def sample_sites(trace: Trace) -> dict[str, Site]:
    """Sample sites of a trace that carry a density: neither subsampling nor ``pyro.deterministic``."""
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site_is_subsample(site)
        and not site["infer"].get("_deterministic", False)
    }


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


def run_pair(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    num_particles: int,
    layout: Layout,
) -> list[tuple[Trace, Trace]]:
    """Traces (model, guide) with log-densities computed: one of all particles, or one per particle."""

    def once(model: Callable[..., Any], guide: Callable[..., Any], nesting: int) -> tuple[Trace, Trace]:
        return get_importance_trace("flat", nesting, model, guide, batch, {})

    if num_particles > 1 and layout.vectorized:
        nesting = layout.max_plate_nesting + 1
        plate = pyro.plate(PARTICLES, num_particles, dim=-nesting)
        return [once(plate(model), plate(guide), nesting)]
    return [once(model, guide, layout.max_plate_nesting) for _ in range(num_particles)]


def inspect_pair(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_particles: int = 1
) -> Layout:
    """Layout of a pair, from one run whose random numbers are given back.

    Raises:
        InvalidInput: a latent that the guide lacks, a guide site that the model lacks, a MAP guide.
        IncompatibleModel: the model observes nothing, or has no normalised density.
    """
    devices = sorted({t.device.index or 0 for t in batch if isinstance(t, Tensor) and t.is_cuda})
    with torch.random.fork_rng(devices=devices), poutine.block(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pyro only warns of is an error below
        with torch.enable_grad():
            model_trace, guide_trace = get_importance_trace("flat", float("inf"), model, guide, batch, {})
        _check(model_trace, guide_trace)
        frames = [
            frame
            for trace in (model_trace, guide_trace)
            for site in sample_sites(trace).values()
            for frame in site["cond_indep_stack"]
            if frame.vectorized
        ]
        nesting = -min((frame.dim for frame in frames), default=0)
        failure = ""
        if num_particles > 1:
            # A number of particles that no plate has: a wrong shape then cannot pass by coincidence.
            trial = next(n for n in (2, 3, 5, 7, 11, 13) if all(frame.size != n for frame in frames))
            try:
                with torch.no_grad():
                    run_pair(model, guide, batch, trial, Layout(nesting, True, (), True))
            except Exception as error:
                failure = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    if failure:
        warnings.warn(
            f"this model or guide does not take a dimension of particles ({failure}); its {num_particles} particles "
            "run one after the other, which is slower",
            stacklevel=3,
        )
    score_sites = tuple(
        name
        for name, site in sample_sites(guide_trace).items()
        if not site["fn"].has_rsample and not site["is_observed"] and site["log_prob"].requires_grad
    )
    return Layout(nesting, not failure, score_sites, bool(sample_sites(guide_trace)))


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
                cure="to add it, or TraceEnum_ELBO if it is to be enumerated",
            )
    auxiliary = any(site["infer"].get("is_auxiliary") for site in sample_sites(guide_trace).values())
    for name, site in in_guide.items():
        if name not in in_model:
            raise InvalidInput(
                "guide site that the model lacks",
                where=f"site {name!r}",
                expected="a latent variable of the model",
                cure="infer={'is_auxiliary': True} if the guide builds its latents from it",
            )
        if _is_point(site) and not _is_point(in_model[name]) and not auxiliary:
            raise InvalidInput(
                "a point estimate (Delta) in the guide",
                where=f"site {name!r}",
                expected="a density, since MAP is not a bound on log p(x)",
                cure="AutoNormal in place of AutoDelta, or Pyro's Trace_ELBO through PyroELBO",
            )


def _layers(site: Site) -> Iterator[Any]:
    """Distribution of a site and, inwards, those that it wraps."""
    layer = site["fn"]
    while layer is not None:
        yield layer
        layer = getattr(layer, "base_dist", None)


def _is_point(site: Site) -> bool:
    return any(isinstance(layer, pyro.distributions.Delta) for layer in _layers(site))


class Layouts:
    """Layouts of the pairs that an objective has met, so that each pair is inspected once; forgotten with the pair."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, dict[Any, Layout]] = weakref.WeakKeyDictionary()

    def __call__(
        self, model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_particles: int
    ) -> Layout:
        owner = getattr(
            model, "__self__", model
        )  # a bound method is a new object each time, its owner is not
        functions = getattr(model, "__func__", None), getattr(guide, "__func__", None)
        key = (*functions, id(getattr(guide, "__self__", guide)))
        layouts = self._known.setdefault(owner, {})
        if key not in layouts:
            layouts[key] = inspect_pair(model, guide, batch, num_particles)
        return layouts[key]
