"""Latent traversals: what one latent unit does to the means of the data that a model makes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import as_found, inspect_pair
from pyro_dgm.objectives.sites import Site, latent_sites, observed_sites
from pyro_dgm.objectives.weights import batch_plate


@dataclass(frozen=True)
class Traversals:
    """Means of an observed site while one latent unit moves.

    Args:
        means: (units, steps, *event), what the observed site of one datum has.
        units: name of each unit, such as ``z[3]``, the most active first.
        offsets: (steps,), in standard deviations of the unit over the data.
        activity: (units,), variance over the data of the unit's posterior mean.
        observed: name of the observed site.
    """

    means: np.ndarray
    units: tuple[str, ...]
    offsets: np.ndarray
    activity: np.ndarray
    observed: str


@torch.no_grad()
def latent_traversals(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    datum: int = 0,
    num_units: int = 8,
    num_steps: int = 11,
    width: float = 2.5,
    observed: str | None = None,
) -> Traversals:
    r"""Means of :math:`p(x \mid z)` at :math:`z = \mathbb E_q[z \mid x_i] + t s_u e_u` for the most active units u.

    :math:`s_u` is the standard deviation of a draw of the unit over the data, t goes from -width to width. The other
    latents keep their posterior means, but for those whose prior depends on the moved one: they follow it, at the mean
    of that prior. A distribution without a known mean (a flow), or a discrete one, is drawn from instead.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both; a tensor with as many rows as there are data holds one datum a row.
        datum: number of the datum around whose posterior mean the units move.
        num_units: units to move, at most.
        num_steps: values of each.
        width: largest t.
        observed: the observed site that is looked at; the one with the most numbers if None.

    Raises:
        InvalidInput: no such datum or site, no continuous latent in the plate of the data, fewer than two data, or
            nothing to traverse.

    Example:
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> found = latent_traversals(ppca.model, ppca.guide, torch.randn(20, 4), num_steps=5)
        >>> found.means.shape, sorted(found.units)
        ((2, 5, 4), ['z[0]', 'z[1]'])
    """
    if num_units < 1 or num_steps < 2 or not width > 0:
        given = f"{num_units}, {num_steps}, {width}"
        where, expected = "num_units, num_steps, width", "at least 1, at least 2, above 0"
        raise InvalidInput("nothing to traverse", where=where, value=given, expected=expected)
    guide = complete_guide(model, guide, batch)
    inspect_pair(model, guide, batch)
    with as_found():
        with _AtMeans():
            central = poutine.trace(guide).get_trace(*batch)
        drawn = poutine.trace(guide).get_trace(*batch)
        trace = poutine.trace(poutine.replay(model, trace=central)).get_trace(*batch)
        plate = batch_plate(trace)
        if not 0 <= datum < plate.size or plate.size < 2:
            expected = f"0 to {plate.size - 1}, of at least two data"
            raise InvalidInput("no such datum", where="datum", value=datum, expected=expected)
        shown = _shown(observed_sites(trace), observed, plate)
        sites = {name: site for name, site in latent_sites(trace).items() if _in_plate(site, plate)}
        moved: list[tuple[float, str, int, float]] = []  # activity, site, unit, standard deviation
        for name, site in sites.items():
            if site["value"].is_floating_point() and not site["fn"].support.is_discrete:
                spread = _rows(drawn.nodes[name]["value"], site, plate).std(0)
                activity = _rows(site["value"], site, plate).var(0)
                moved += [(float(a), name, unit, float(spread[unit])) for unit, a in enumerate(activity)]
        moved = sorted(moved, key=lambda one: -one[0])[:num_units]
        if not moved:
            expected = f"a continuous latent in plate {plate.name!r}"
            raise InvalidInput("no latent to traverse", where="guide", expected=expected)
        offsets = torch.linspace(-width, width, num_steps)
        values = {name: site["value"] for name, site in latent_sites(trace).items()}
        means: dict[tuple[int, int], Tensor] = {}
        for name in dict.fromkeys(one[1] for one in moved):
            cells = [(u, t) for u, one in enumerate(moved) if one[1] == name for t in range(num_steps)]
            for u, t in cells:
                # In the row of that very datum, which may have covariates that no argument holds.
                rows = _rows(values[name], sites[name], plate).clone()
                rows[datum, moved[u][2]] += offsets[t] * moved[u][3]
                there = {**values, name: _unrows(rows, sites[name], plate)}
                with _Moved(there, name, plate):
                    found = poutine.trace(model).get_trace(*batch).nodes[shown]
                mean = _mean(found["fn"])
                mean = _plate_first(found["fn"].sample() if mean is None else mean, found, plate)
                means[u, t] = mean[datum].cpu()
    stacked = torch.stack([means[u, t] for u in range(len(moved)) for t in range(num_steps)])
    return Traversals(
        stacked.reshape(len(moved), num_steps, *stacked.shape[1:]).numpy(),
        tuple(f"{name}[{unit}]" for _, name, unit, _ in moved),
        offsets.numpy(),
        np.array([one[0] for one in moved]),
        shown,
    )


class _AtMeans(Messenger):
    """Gives each latent site the mean of its distribution, where it has one."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not msg["done"] and type(msg["fn"]).__name__ != "_Subsample":
            mean = _latent_mean(msg["fn"])
            if mean is not None:
                msg["value"], msg["done"] = mean, True


class _Moved(Messenger):
    """Gives latent sites their values; those whose prior the moved one changes have the mean of that prior."""

    def __init__(self, values: dict[str, Tensor], moved: str, plate: Any) -> None:
        super().__init__()
        self.values, self.moved, self.plate, self.passed = values, moved, plate, False

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self.values or msg["is_observed"]:
            return
        value, mean = self.values[name], _latent_mean(msg["fn"]) if self.passed else None
        if mean is not None and _in_plate(msg, self.plate):
            rows = _rows(mean, msg, self.plate)
            if not torch.allclose(rows, rows[:1].expand_as(rows)):
                value = mean
        self.passed |= name == self.moved
        msg["value"], msg["done"] = value, True


def _latent_mean(fn: Any) -> Tensor | None:
    """Mean of a latent, None where there is none; that of a discrete one is no value of it."""
    return None if fn.support.is_discrete else _mean(fn)


def _mean(fn: Any) -> Tensor | None:
    try:
        mean = fn.mean
    except NotImplementedError:
        return None
    return mean.expand(fn.shape()) if bool(mean.isfinite().all()) else None


def _in_plate(site: Site, plate: Any) -> bool:
    return any(frame.name == plate.name for frame in site["cond_indep_stack"])


def _plate_first(value: Tensor, site: Site, plate: Any) -> Tensor:
    return value.movedim(plate.dim - site["fn"].event_dim, 0)


def _rows(value: Tensor, site: Site, plate: Any) -> Tensor:
    """Value of a site as (data, units)."""
    return _plate_first(value.expand(site["fn"].shape()), site, plate).reshape(plate.size, -1)


def _unrows(rows: Tensor, site: Site, plate: Any) -> Tensor:
    """The value again, of (data, units)."""
    shape = list(site["fn"].shape())
    size = shape.pop(plate.dim - site["fn"].event_dim)
    return rows.reshape(size, *shape).movedim(0, plate.dim - site["fn"].event_dim)


def _shown(sites: dict[str, Site], name: str | None, plate: Any) -> str:
    sizes = {
        known: site["value"].numel()
        for known, site in sites.items()
        if _in_plate(site, plate) and site["value"].numel()
    }
    if not sizes or (name is not None and name not in sizes):
        expected = (
            f"one of {', '.join(map(repr, sizes))}" if sizes else "a site with values in the data's plate"
        )
        raise InvalidInput("no such observed site", where="observed", value=name, expected=expected)
    return name if name is not None else max(sizes, key=lambda known: sizes[known])
