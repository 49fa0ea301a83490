"""Data against the supports of what observes them: every value of every part, before the first step."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.grid import UnitGrid
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import observed_sites
from pyro_dgm.training.batches import Split
from pyro_dgm.training.random_state import forked

_PIECE = 2**20  # elements checked at a time
_FEW = 4  # data that a pair is run with: enough for a plate, few enough for the largest model
_USUAL_LEVELS = (2, 4, 8, 16, 17, 32, 64, 128, 256, 1024, 4096, 65536)


@dataclass(frozen=True)
class _Observed:
    """A site that observes a field of the batches, and what it can observe.

    Args:
        name: of the site.
        place: of the field in a batch.
        shape: of one datum as the site takes it.
        support: of its distribution, the same for all data.
    """

    name: str
    place: int
    shape: tuple[int, ...]
    support: constraints.Constraint

    @property
    def element(self) -> constraints.Constraint:
        """The support of one element."""
        support = self.support
        # Of independent elements, and of a mixture's components.
        while (inner := getattr(support, "base_constraint", None)) is not None:
            support = inner
        return support

    def outside(self, field: Tensor) -> Tensor:
        """Which data of a field (B, ...) have an element outside the support, (B,)."""
        inside: Tensor = self.support.check(field.reshape(len(field), *self.shape))
        return ~inside.reshape(len(field), -1).all(1)

    def outside_elements(self, field: Tensor) -> Tensor:
        """Which elements are, of the field's shape; all of a bad datum where its support is of the whole."""
        inside = self.element.check(field)
        if inside.shape == field.shape:
            return ~inside
        whole = self.outside(field).reshape(-1, *(1,) * (field.dim() - 1))
        return whole.expand(field.shape)


def require_supported(
    parts: Mapping[str, Split],
    pair: tuple[Callable[..., Any], Callable[..., Any]],
    *,
    refuses: Callable[..., object],
    device: torch.device,
    batch_size: int = _FEW,
) -> None:
    """An error for values that an observed site of the model can never take, which names the first.

    One pass over the data and one run of the pair. Left to the first steps are sites whose support depends on
    parameters, whose value is no field of the batch, or that take any number; and what ``refuses`` takes after all:
    entries that are masked, a site whose checks are off, an objective that asks for no density.

    Args:
        parts: the parts of the data, by what to call them.
        pair: model and guide, whose parameters exist.
        refuses: called with a batch that has such a value; raises ValueError if it is one.
        device: where the data lie.
        batch_size: the number of data that training has in a batch, if it is less than a few.

    Raises:
        InvalidInput: a value outside the support.
    """
    first = next(iter(parts.values()))
    with forked(device), as_found(), poutine.block(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # training gives the same ones
        few = min(_FEW, batch_size, len(first))
        for observed in _observed(pair, first.batch(torch.arange(few, device=device))):
            for name, part in parts.items():
                row = _first_bad(part, observed, device)
                if row is None:
                    continue
                # With others, since batch norm takes no single one.
                rows = torch.tensor([row, *range(1, few)], device=device).clamp_max(len(part) - 1)
                try:
                    refuses(*part.batch(rows))
                except ValueError:
                    raise _fault(part, observed, row, name, device) from None


def _observed(pair: tuple[Callable[..., Any], Callable[..., Any]], batch: Sequence[Any]) -> list[_Observed]:
    """Sites whose value is a field of the batch, with supports that are the same whatever the parameters."""
    model, guide = pair
    found = []
    # Whatever breaks here breaks the first step too, which says what it was and where.
    with contextlib.suppress(Exception):
        latents = poutine.trace(guide).get_trace(*batch)
        trace = poutine.trace(poutine.replay(model, trace=latents)).get_trace(*batch)
        for name, site in observed_sites(trace).items():
            support, value = site["fn"].support, site["value"]
            place = next((i for i, field in enumerate(batch) if _is_same(field, value)), None)
            if place is not None and _is_fixed(support) and len(support.check(value)) == len(value):
                found.append(_Observed(name, place, tuple(value.shape[1:]), support))
    return [observed for observed in found if observed.element is not constraints.real]


def _is_same(field: Any, value: Tensor) -> bool:
    """Whether a value is a field or, the data apart from each other, another view of all of it."""
    return isinstance(field, Tensor) and (
        field is value
        or (
            field.data_ptr() == value.data_ptr()
            and field.numel() == value.numel()
            and field.dtype == value.dtype
            and field.shape[:1] == value.shape[:1]
            and field.is_contiguous()
            and value.is_contiguous()
        )
    )


def _is_fixed(support: Any) -> bool:
    """Whether no tensor is part of a constraint: bounds may be parameters, or of the shape of a batch."""
    if isinstance(support, Tensor):
        return False
    inside: Iterable[Any] = support if isinstance(support, list | tuple) else vars(support).values()
    return all(
        _is_fixed(part) for part in inside if isinstance(part, Tensor | constraints.Constraint | list | tuple)
    )


def _fields(part: Split, observed: _Observed, device: torch.device) -> Iterator[tuple[int, Tensor]]:
    """Pieces of a field, each with the number of its first datum."""
    size = part.batch(torch.arange(1, device=device))[observed.place].numel()
    for rows in torch.arange(len(part), device=device).split(max(1, _PIECE // max(1, size))):
        yield int(rows[0]), part.batch(rows)[observed.place]


def _first_bad(part: Split, observed: _Observed, device: torch.device) -> int | None:
    for start, field in _fields(part, observed, device):
        bad = observed.outside(field)
        if bool(bad.any()):
            return start + int(bad.to(torch.uint8).argmax())
    return None


def _fault(part: Split, observed: _Observed, row: int, name: str, device: torch.device) -> InvalidInput:
    """What is wrong with the values of a part, of which the datum ``row`` is the first bad one."""
    datum = part.batch(torch.tensor([row], device=device))[observed.place]
    bad = observed.outside_elements(datum)[0]
    position = tuple(int(i) for i in np.unravel_index(int(bad.flatten().to(torch.uint8).argmax()), bad.shape))
    count = int(sum(observed.outside_elements(field).sum() for _, field in _fields(part, observed, device)))
    ends = [torch.aminmax(field) for _, field in _fields(part, observed, device)]
    low, high = min(float(end.min) for end in ends), max(float(end.max) for end in ends) + 0.0
    place = f"sample {row}" + (f", position {position}" if position else "")
    number = datum[0][position].item()
    some = f"{number:.6g}, and {count} of {len(part) * bad.numel()} values in all"
    element = observed.element
    if element is constraints.boolean and (low < 0 or high > 1):
        what, value = f"is {number:.6g}, neither 0 nor 1", f"values from {low:.6g} to {high:.6g}"
        expected, of_site, cure = "0 or 1", "", "scale=255 (--data.init_args.scale=255)"
    elif element is constraints.boolean:
        what, value, expected, of_site = "is grey", some, "0 or 1", ", a Bernoulli observation"
        cure = (
            'binarize="dynamic" or "static", or an observation for grey values (discretised logistic, '
            "beta-binomial, continuous Bernoulli)"
        )
    elif isinstance(element, UnitGrid):
        last = element.levels - 1
        what, value = "is off the grid", f"{some}, from {low:.6g} to {high:.6g}"
        expected = f"k / {last} with k = 0..{last}"
        of_site = f", whose observation has {element.levels} levels"
        cure = _grid_cure(part, observed, element.levels, (low, high), device)
    else:
        what, value = "is outside the support", f"{some}, from {low:.6g} to {high:.6g}"
        expected, of_site = f"values in {observed.support}", ""
        cure = "other preprocessing (scale, levels, binarize), or an observation that has these values"
    return InvalidInput(
        f"{place} {what}",
        where=name,
        value=value,
        expected=f"{expected} for the site {observed.name!r}{of_site}",
        cure=cure,
    )


def _grid_cure(
    part: Split, observed: _Observed, levels: int, ends: tuple[float, float], device: torch.device
) -> str:
    """What helps values that are off the grid: another number of levels, a scale, or another observation."""
    low, high = ends

    def fits(number: int, scale: float = 1.0) -> bool:
        grid = UnitGrid(number)
        return all(bool(grid.check(field / scale).all()) for _, field in _fields(part, observed, device))

    if low >= 0 and high <= 1:
        number = next((k for k in _USUAL_LEVELS if k != levels and fits(k)), None)
        if number is None:
            return "data on that grid (without dequantize=True), or an observation of real values"
        return f"an observation with levels={number}, on whose grid these data are"
    if fits(levels, levels - 1):
        return f"scale={levels - 1} (--data.init_args.scale={levels - 1})"
    top = round(high * (levels - 1))
    if low >= 0 and top < 2 * levels and fits(top + 1, high):
        return f"leaving such samples out, or levels={top + 1} for data that are divided by {high:.6g}"
    return "leaving such samples out, or a scale that brings the data into [0, 1]"
