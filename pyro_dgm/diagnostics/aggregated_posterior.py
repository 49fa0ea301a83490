"""The aggregated posterior of a batch: what the latents say about the datum, and how far they are from the prior."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import Tensor

from pyro_dgm.diagnostics.draw_table import as_numpy
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.divergence_terms import arranged, is_in, masked
from pyro_dgm.objectives.sites import Site, is_point, latent_sites, sample_sites
from pyro_dgm.objectives.traces import PARTICLES, Given, Layout, run_pair
from pyro_dgm.objectives.weights import batch_plate

_ELEMENTS_PER_PASS = 2**21  # numbers in the pairs of one pass
_PAIRS = 2**25  # pairs of data beyond which there is a single draw
_NEAR_CEILING = 0.1  # share of a datum's own posterior in the aggregated one at its draw


@dataclass(frozen=True)
class AggregatedPosterior:
    """What :func:`aggregated_posterior` returns; None where ``notes`` says why.

    Args:
        mutual_information: of datum and local latents, in nats.
        mutual_information_standard_error: its standard error.
        divergence: KL(q(z) || p(z)) in nats.
        divergence_standard_error: its standard error.
        ceiling: log N, the largest mutual information that N data can show.
        moments: mean and standard deviation of q(z) by site, each (units,).
        notes: what limits these numbers, one sentence each.
    """

    mutual_information: float | None = None
    mutual_information_standard_error: float | None = None
    divergence: float | None = None
    divergence_standard_error: float | None = None
    ceiling: float | None = None
    moments: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _Refused(Exception):
    """Why a pair has no mutual information per datum."""


@dataclass(frozen=True)
class _Draw:
    """One draw of all latents, with what belongs to the plate of the data.

    Args:
        model_trace: of the model.
        guide_trace: of the guide.
        plate: the frame of the data.
        latents: local latents of the model.
        sources: local sites of the guide that have a density, from which it computes its latents.
    """

    model_trace: Trace
    guide_trace: Trace
    plate: Any
    latents: dict[str, Site]
    sources: dict[str, Site]


def aggregated_posterior(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    num_samples: int,
    layout: Layout,
) -> AggregatedPosterior:
    r"""Mutual information of datum and latents, and divergence of the aggregated posterior from the prior.

    .. math:: I = \frac1N \sum_i \log \frac{q(z_i \mid x_i)}{q(z_i)}, \qquad
              \mathrm{KL} = \frac1N \sum_i \log \frac{q(z_i)}{p(z_i)}, \qquad
              q(z) = \frac1N \sum_j q(z \mid x_j), \qquad z_i \sim q(z \mid x_i)

    With its own term (j = i) in the sum, I is at most log N, and too low by about half the share that a datum's own
    posterior has in q(z) at its draw, by which the KL is too high; its standard error counts that too.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_samples: largest number of draws; fewer above 1,800 data.
        layout: of the pair.

    Reference:
        Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound", 2016.
    """
    moments: dict[str, list[Tensor]] = {}
    rows = []
    done, number = 0, num_samples
    while done < number:
        ((model_trace, guide_trace),) = run_pair(model, guide, batch, 1, layout)
        try:
            draw = _draw(model_trace, guide_trace)
            if not done:
                _require_shared_map(guide, batch, draw)
                has_one_prior = _has_one_prior(model, batch, draw)
                number = max(1, min(num_samples, _PAIRS // draw.plate.size**2))
        except _Refused as refused:
            return AggregatedPosterior(notes=(f"no mutual information: {refused}",))
        for name, site in draw.latents.items():
            value = arranged(site["value"], site["fn"].event_dim, [draw.plate.dim]).double()  # (N, units)
            moments.setdefault(name, []).append(torch.stack([value.mean(0), (value**2).mean(0)]))
        rows.append(_row(guide, batch, draw, layout))
        done += 1
    told, apart, share = torch.stack(rows).mean(0)  # each (N,)
    size, own = len(told), share.mean().item()
    notes = []
    information, error = told.mean().item(), (told.std() / math.sqrt(size)).item()
    if information < 0:
        notes.append(f"the mutual information is negative by noise ({information:.3f}): read it as zero")
    if own > _NEAR_CEILING:
        notes.append(
            f"the mutual information is near log {size} = {math.log(size):.2f} nats, the most that {size} data can "
            f"show: a lower bound, and the KL of the aggregated posterior an upper one; more data would tell more"
        )
    if not has_one_prior:
        notes.append("no KL of the aggregated posterior: the prior depends on the datum")
    return AggregatedPosterior(
        mutual_information=information,
        mutual_information_standard_error=error,
        divergence=apart.mean().item() if has_one_prior else None,
        divergence_standard_error=math.hypot((apart.std() / math.sqrt(size)).item(), own / 2)
        if has_one_prior
        else None,
        ceiling=math.log(size),
        moments={name: _mean_and_deviation(torch.stack(parts).mean(0)) for name, parts in moments.items()},
        notes=tuple(notes),
    )


def _mean_and_deviation(moments: Tensor) -> tuple[np.ndarray, np.ndarray]:
    mean, square = moments
    return as_numpy(mean), as_numpy((square - mean**2).clamp(min=0).sqrt())


def _draw(model_trace: Trace, guide_trace: Trace) -> _Draw:
    try:
        plate = batch_plate(model_trace)
    except InvalidInput as error:
        raise _Refused(str(error)) from None
    latents = {name: site for name, site in latent_sites(model_trace).items() if is_in(plate, site)}
    sources = {
        name: site
        for name, site in sample_sites(guide_trace).items()
        if is_in(plate, site) and not site["is_observed"] and not is_point(site)
    }
    if not latents or not sources:
        raise _Refused(f"no latent variable that the guide draws inside plate {plate.name!r}, for each datum")
    if plate.size < 2:
        raise _Refused("a single datum")
    for site in [*latents.values(), *sources.values()]:
        if site["mask"] is not None and not bool(torch.as_tensor(site["mask"]).all()):
            raise _Refused(f"site {site['name']!r} is masked for some data")
    return _Draw(model_trace, guide_trace, plate, latents, sources)


def _rolled(draw: _Draw, sites: dict[str, Site], trace: Trace) -> dict[str, Tensor]:
    """Values of a trace; those of ``sites`` moved on to the next datum."""
    values = {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}
    for name, site in sites.items():
        values[name] = values[name].roll(1, draw.plate.dim - site["fn"].event_dim)
    return values


def _require_shared_map(guide: Callable[..., Any], batch: tuple[Any, ...], draw: _Draw) -> None:
    """Latents computed from other sites must be the same function of them for each datum."""
    points = {name: site for name, site in draw.latents.items() if name not in draw.sources}
    if not points:
        return
    values = _rolled(draw, draw.sources, draw.guide_trace)
    with Given({name: value for name, value in values.items() if name not in points}):
        again = poutine.trace(guide).get_trace(*batch)
    for name, value in _rolled(draw, points, draw.guide_trace).items():
        if name in points and not torch.allclose(again.nodes[name]["value"], value, rtol=1e-3, atol=1e-3):
            raise _Refused(f"the guide computes site {name!r} by a function that depends on the datum")


def _has_one_prior(model: Callable[..., Any], batch: tuple[Any, ...], draw: _Draw) -> bool:
    """Whether the prior of the local latents is the same for each datum."""
    with Given(_rolled(draw, draw.latents, draw.model_trace)):
        again = poutine.trace(model).get_trace(*batch)
    again.compute_log_prob(lambda name, site: name in draw.latents)
    log_p = _log_density(again, draw.latents, [draw.plate.dim])
    return torch.allclose(
        log_p, _log_density(draw.model_trace, draw.latents, [draw.plate.dim]).roll(1), rtol=1e-3, atol=1e-3
    )


def _log_density(trace: Trace, names: Any, keep: list[int]) -> Tensor:
    """Sum of the log-densities of the sites, over all dimensions but those to keep."""
    sites = [trace.nodes[name] for name in names]
    return sum(arranged(masked(site["unscaled_log_prob"], site, 0), 0, keep).sum(-1) for site in sites)  # type: ignore[return-value]


def _row(guide: Callable[..., Any], batch: tuple[Any, ...], draw: _Draw, layout: Layout) -> Tensor:
    """log q(z_i | x_i) - log q(z_i), log q(z_i) - log p(z_i), and the share of i in q(z_i): (3, N)."""
    keep = [draw.plate.dim]
    # Densities of the sources become those of the latents.
    change = [name for name in draw.latents if name not in draw.sources]
    log_p = _log_density(draw.model_trace, draw.latents, keep).double()
    if change:
        log_p = log_p - _log_density(draw.guide_trace, change, keep).double()
    pieces, start = [], 0
    for log_q in _pairs(guide, batch, draw, layout):
        log_q = log_q.double()
        own = log_q.diagonal(start)
        total = log_q.logsumexp(1)
        mixture = total - math.log(draw.plate.size)
        pieces.append(
            torch.stack([own - mixture, mixture - log_p[start : start + len(own)], (own - total).exp()])
        )
        start += len(own)
    return torch.cat(pieces, 1)


def _pairs(
    guide: Callable[..., Any], batch: tuple[Any, ...], draw: _Draw, layout: Layout
) -> Iterator[Tensor]:
    """Pieces (rows i, N) of log q(z_i | x_j), the joint density of all sources."""
    nesting, plate = int(layout.max_plate_nesting), draw.plate
    particle_dim = -1 - nesting
    values = {
        name: site["value"] for name, site in draw.guide_trace.nodes.items() if site["type"] == "sample"
    }
    by_datum = {}  # (N, batch with 1 for the data, event)
    for name, site in draw.sources.items():
        value, event_dim = site["value"], site["fn"].event_dim
        value = value.reshape((1,) * (nesting + event_dim - value.dim()) + value.shape)
        dim = plate.dim - event_dim
        by_datum[name] = value.movedim(dim, 0).unsqueeze(dim)
    numbers = sum(value[0].numel() for value in by_datum.values())
    # A single source has the distribution that the trace holds; others depend on the draws of those before.
    alone = next(iter(draw.sources.values())) if len(draw.sources) == 1 else None
    rows = max(1, _ELEMENTS_PER_PASS // (plate.size * numbers)) if alone or layout.vectorized else 1
    for start in range(0, plate.size, rows):
        pieces = {name: value[start : start + rows] for name, value in by_datum.items()}
        if alone is not None:
            log_q = alone["fn"].log_prob(pieces[alone["name"]])
            yield arranged(log_q, 0, [particle_dim, plate.dim]).sum(-1)
            continue
        given = {}
        for name, value in pieces.items():
            shape = list(value.shape)
            shape[plate.dim - draw.sources[name]["fn"].event_dim] = plate.size
            given[name] = value.expand(shape) if layout.vectorized else value.expand(shape)[0]
        again = guide
        if layout.vectorized:
            again = pyro.plate(PARTICLES, len(next(iter(given.values()))), dim=particle_dim)(guide)
        points = {name for name in draw.latents if name not in draw.sources}
        with Given({name: value for name, value in values.items() if name not in points} | given):
            trace = poutine.trace(again).get_trace(*batch)
        trace.compute_log_prob(lambda name, site: name in draw.sources)
        yield _log_density(trace, draw.sources, [particle_dim, plate.dim])
