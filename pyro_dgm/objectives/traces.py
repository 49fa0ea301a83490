"""Running a (model, guide) pair with many particles: what every bound and every weight begins with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import poutine
from pyro.infer.enum import get_importance_trace
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.objectives.checks import check_pair, in_one_line
from pyro_dgm.objectives.sites import Site

PARTICLES = "_particles"


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
    through: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None,
) -> list[tuple[Trace, Trace]]:
    """Traces (model, guide) with log-densities computed: one of all particles, or one per particle.

    Each run is checked, since a batch may have other sites than the last one.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_particles: number of draws.
        layout: of the pair.
        through: makes what is run in place of the guide, of the guide with its particles, anew for each trace.

    Raises:
        InvalidInput: a latent that the guide lacks, a guide site that the model lacks, a MAP guide; with Pyro's
            validation on, a value outside the support of its site.
        IncompatibleModel: the model observes nothing, or has no normalised density.
    """

    def once(model: Callable[..., Any], guide: Callable[..., Any], nesting: float) -> tuple[Trace, Trace]:
        guide = guide if through is None else through(guide)
        try:
            traces = get_importance_trace("flat", nesting, model, guide, batch, {})
        except ValueError as error:
            raise in_one_line(error) or error from None
        check_pair(*traces)
        return traces

    if num_particles > 1 and layout.vectorized:
        nesting = int(layout.max_plate_nesting) + 1
        plate = pyro.plate(PARTICLES, num_particles, dim=-nesting)
        return [once(plate(model), plate(guide), nesting)]
    return [once(model, guide, layout.max_plate_nesting) for _ in range(num_particles)]
