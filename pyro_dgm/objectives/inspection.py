"""Inspection of a (model, guide) pair: whether it has a bound at all, and how its particles can be run."""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import refuse_points, require_equal_masks, require_plates
from pyro_dgm.objectives.paths import Paths
from pyro_dgm.objectives.sites import (
    has_auxiliary,
    is_point,
    plate_frames,
    plate_nesting,
    point_sites,
    sample_sites,
)
from pyro_dgm.objectives.traces import Given, Layout, run_pair


def inspect_pair(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_particles: int = 1
) -> Layout:
    """Layout of a pair, from runs whose random numbers and buffers are given back.

    Raises:
        InvalidInput: a latent that the guide lacks, a guide site that the model lacks, a MAP guide, a batch outside
            any plate.
        IncompatibleModel: the model observes nothing, or has no normalised density.
    """
    with as_found(), poutine.block(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pyro only warns of is an error in run_pair
        ((model_trace, guide_trace),) = run_pair(model, guide, batch, 1, Layout(math.inf, False, True))
        require_plates(model_trace, guide_trace)
        require_equal_masks(model_trace, guide_trace)
        if has_auxiliary(guide_trace):
            refuse_points(_unmoved(point_sites(model_trace, guide_trace), guide, batch, guide_trace))
        frames = plate_frames(model_trace, guide_trace)
        nesting = plate_nesting(model_trace, guide_trace)
        failure = ""
        if num_particles > 1:
            # A number of particles that no plate has: a wrong shape then cannot pass by coincidence.
            trial = next(n for n in (2, 3, 5, 7, 11, 13) if all(frame.size != n for frame in frames))
            failure = _trial(model, guide, batch, trial, Layout(nesting, True, True))
    if failure:
        warnings.warn(
            f"this model or guide does not take a dimension of particles ({failure}); its {num_particles} particles "
            "run one after the other, which is slower",
            stacklevel=3,
        )
    return Layout(nesting, not failure, bool(sample_sites(guide_trace)))


def inspect_paths(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_particles: int = 1
) -> Layout:
    """Layout of a pair whose guide must have the same density when it is run again at given draws.

    Raises:
        InvalidInput: it has not, or what :func:`inspect_pair` refuses.
        IncompatibleModel: the model observes nothing, or has no normalised density.
    """
    layout = inspect_pair(model, guide, batch, num_particles)
    cure = "gradient='pathwise' (of IWAE, 'standard')"
    with as_found(), poutine.block(), torch.enable_grad():
        paths = Paths(guide)
        try:
            again = poutine.trace(paths).get_trace(*batch)
            again.compute_log_prob()
            paths.drawn.compute_log_prob()
            with Given(_held(paths.drawn)):
                fixed = poutine.trace(guide).get_trace(*batch)
            fixed.compute_log_prob()
        except (KeyError, NotImplementedError) as error:
            raise InvalidInput(
                "a density that is known at its own draws only",
                where="the guide",
                value=f"{type(error).__name__}: {error}".splitlines()[0],
                expected="distributions whose log_prob takes any value (planar flows have none)",
                cure=cure,
            ) from error
    for name, site in sample_sites(paths.drawn).items():
        if name not in again.nodes or not _agree([again.nodes[name]["log_prob"]], [site["log_prob"]]):
            raise InvalidInput(
                "a guide with noise of its own",
                where=f"site {name!r}",
                expected="the same density when the guide is run again at the same draws",
                cure=cure,
            )
        if is_point(site) and fixed.nodes[name]["log_prob"].requires_grad:
            raise InvalidInput(
                "a computed latent whose density has parameters of its own",
                where=f"site {name!r}",
                expected="parameters in the auxiliary site alone: the gradient at fixed draws is not zero on average",
                cure=cure,
            )
    return layout


def _held(trace: Trace) -> dict[str, Tensor]:
    """Draws of a trace, without gradient; what is computed from them is left to be computed again."""
    sites = {name: site for name, site in sample_sites(trace).items() if not is_point(site)}
    values = {name: site["value"] for name, site in sites.items() if not site["is_observed"]}
    return {name: value.detach() if value.requires_grad else value for name, value in values.items()}


@contextmanager
def as_found() -> Iterator[None]:
    """Block that leaves torch's random numbers and the buffers of all modules (batch norm) as it found them."""
    kept: dict[Tensor, Tensor] = {}

    def keep(module: nn.Module, inputs: Any) -> None:
        for buffer in module.buffers(recurse=False):
            if not nn.parameter.is_lazy(buffer):
                kept.setdefault(buffer, buffer.clone())

    hook = nn.modules.module.register_module_forward_pre_hook(keep)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        hook.remove()
        with torch.no_grad():
            for buffer, value in kept.items():
                if not torch.equal(buffer, value):  # a write would spoil graphs that wait for backward()
                    buffer.copy_(value)


@contextmanager
def apart() -> Iterator[None]:
    """Block as :func:`as_found`, with noise of its own: it follows the global seed, and a second block draws anew."""
    seed = new_seed()
    with as_found():
        torch.manual_seed(seed)
        yield


def new_seed() -> int:
    """A seed that torch's own random numbers determine."""
    return int(torch.randint(2**62, ()).item())


def _unmoved(
    points: list[str], guide: Callable[..., Any], batch: tuple[Any, ...], guide_trace: Trace
) -> list[str]:
    """Those Delta sites that no draw of the auxiliary sites moves; a discrete draw may repeat, 20 in a row hardly."""
    for _ in range(20):
        if not points:
            break
        again = poutine.trace(guide).get_trace(*batch)
        points = [
            name
            for name in points
            if torch.equal(again.nodes[name]["value"], guide_trace.nodes[name]["value"])
        ]
    return points


def _trial(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    num_particles: int,
    layout: Layout,
) -> str:
    """Why a plate of particles does not work, or "": equal particles must have the densities of a single one."""
    trace = poutine.trace(guide).get_trace(*batch)
    single = {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}
    equal = dict(single)
    for name, site in sample_sites(trace).items():
        gap = int(layout.max_plate_nesting) + site["fn"].event_dim - single[name].dim()
        equal[name] = single[name].expand((num_particles,) + (1,) * gap + single[name].shape)

    def densities(values: dict[str, Tensor], number: int) -> list[Tensor]:
        with Given(values):  # outside the plate, which leaves a given site alone
            (traces,) = run_pair(model, guide, batch, number, layout)
        return [site["log_prob"] for trace in traces for site in sample_sites(trace).values()]

    try:
        many, one = densities(equal, num_particles), densities(single, 1)
        if any(density.dim() > layout.max_plate_nesting + 1 for density in many):
            # Pyro's check of shapes does not look there, and each particle would be counted many times.
            return "a density has a dimension to the left of the particles"
        # A model with noise of its own (dropout) repeats nothing, and its values tell nothing.
        if _agree(many, one) or not _agree(densities(single, 1), one):
            return ""
    except Exception as error:
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return "its densities change, as if that were the dimension of the data"


def _agree(left: list[Tensor], right: list[Tensor]) -> bool:
    # Wide: kernels of low precision round otherwise in another shape, and a mix-up is no matter of percents.
    return all(
        torch.allclose(a, b, rtol=0.05, atol=0.05, equal_nan=True) for a, b in zip(left, right, strict=True)
    )


class Layouts:
    """Layouts of the pairs that an objective has met, so that each pair is inspected once; forgotten with the pair.

    Args:
        inspect: what looks at a pair, called as :func:`inspect_pair` is.
    """

    def __init__(self, inspect: Callable[..., Any] = inspect_pair) -> None:
        self._inspect = inspect
        # By model, then by guide, both weakly: an id() would be given to another guide when this one is gone.
        self._known: weakref.WeakKeyDictionary[Any, weakref.WeakKeyDictionary[Any, dict[Any, Any]]] = (
            weakref.WeakKeyDictionary()
        )

    def __call__(
        self, model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], num_particles: int
    ) -> Any:
        # A bound method is a new object each time, its owner is not.
        owners = getattr(model, "__self__", model), getattr(guide, "__self__", guide)
        key = getattr(model, "__func__", None), getattr(guide, "__func__", None), num_particles > 1
        layouts = self._known.setdefault(owners[0], weakref.WeakKeyDictionary()).setdefault(owners[1], {})
        if key not in layouts:
            layouts[key] = self._inspect(model, guide, batch, num_particles)
        return layouts[key]
