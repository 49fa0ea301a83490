"""Ranges of numbers, and the data at which some of them are not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.objectives.nonfinite import Recording
from pyro_dgm.objectives.sites import Site
from pyro_dgm.objectives.traces import PARTICLES

_LISTED = 10
_PARTICLE_PLATES = (PARTICLES, "num_particles_vectorized")  # ours and Pyro's


@dataclass(frozen=True)
class Numbers:
    """Range of a tensor.

    Args:
        name: what it is.
        count: how many numbers.
        minimum: smallest finite number; NaN if none is finite.
        maximum: largest finite number; NaN if none is finite.
        num_nan: how many are NaN.
        num_infinite: how many are infinite, of either sign.
        num_minus_infinite: how many are minus infinity.
        num_outside: how many finite ones are outside the domain.
        domain: what an argument of a distribution must be, in words.
    """

    name: str
    count: int
    minimum: float
    maximum: float
    num_nan: int
    num_infinite: int
    num_minus_infinite: int = 0
    num_outside: int = 0
    domain: str = ""

    def __str__(self) -> str:
        finite = self.count > self.num_nan + self.num_infinite
        low, high = f"{self.minimum:.4g}", f"{self.maximum:.4g}"
        text = "no finite number" if not finite else low if low == high else f"{low} to {high}"
        text = f"{self.name}: {text} ({self.count} number{'s' * (self.count != 1)})"
        plus = self.num_infinite - self.num_minus_infinite
        parts = [(self.num_nan, "NaN"), (plus, "inf"), (self.num_minus_infinite, "-inf")]
        parts.append((self.num_outside, f"not {self.domain}"))
        return text + "".join(f", {number} {what}" for number, what in parts if number)


@dataclass(frozen=True)
class Places:
    """Data at which something is not finite.

    Args:
        what: the thing.
        indices: the first ten of them. Positions in the batch; where a plate subsamples, indices that it drew.
        count: how many there are.
        size: out of how many.
        plate: the plate that the data are in; None for a field of the batch, and for data in no plate.
        first: position and value of the first number, for a field of the batch.
        steps: number of the round, from 0, of each sequential plate that the site is in.
    """

    what: str
    indices: tuple[int, ...]
    count: int
    size: int
    plate: str | None = None
    first: str = ""
    steps: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        listed = ", ".join(map(str, self.indices)) + (", ..." if self.count > len(self.indices) else "")
        plate = f" of plate {self.plate!r}" if self.plate else ""
        text = f"{self.what} at {self.count} of {self.size}{plate}: {listed}" if self.size else self.what
        text += "".join(f", round {number} of plate {name!r}" for name, number in self.steps)
        return text + (f" (first: {self.first})" if self.first else "")


def numbers_of(name: str, value: Any, *, outside: Tensor | None = None, domain: str = "") -> Numbers:
    """Range of a tensor or number; ``outside`` says which are outside the domain."""
    tensor = torch.as_tensor(value).detach()
    values = tensor.double() if tensor.is_floating_point() else tensor.to(torch.float64)
    finite = values[values.isfinite()]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (math.nan, math.nan)
    infinite, minus = int(values.isinf().sum()), int((values == -math.inf).sum())
    num_outside = int(outside.sum()) if outside is not None else 0
    return Numbers(
        name, values.numel(), low, high, int(values.isnan().sum()), infinite, minus, num_outside, domain
    )


def field_places(what: str, field: Any) -> Places | None:
    """Rows of a field of the batch that are not finite, or None."""
    if isinstance(field, np.ndarray) and field.dtype.kind == "f":
        field = torch.from_numpy(field)
    if not isinstance(field, Tensor) or not (field.is_floating_point() or field.is_complex()):
        return None
    bad = ~field.detach().isfinite()
    if not bool(bad.any()):
        return None
    position = tuple(bad.nonzero()[0].tolist())
    first = f"{float(field[position])} at {position}" if position else str(float(field))
    rows = bad.reshape(len(bad), -1).any(1) if bad.dim() else bad.reshape(1)
    return _places(what, rows.nonzero()[:, 0].tolist(), len(rows), first=first)


def site_places(recording: Recording, site: Site, bad: Tensor) -> Places:
    """Data of the batch to which bad entries of a site belong.

    The batch is the outermost plate that all observed sites share; a site outside it has its own outermost plate, and
    one in no plate the first dimension of its log-density.
    """
    for frame in site["cond_indep_stack"]:
        if frame.name in _PARTICLE_PLATES and frame.vectorized and bad.dim() >= -frame.dim:
            bad = bad.any(frame.dim, keepdim=True)
    frames = _frames(site)
    shared = _shared_plate(recording)
    vectorized = [frame for frame in frames if frame.vectorized]
    drawn = recording.subsamples
    steps = tuple(
        (frame.name, int(drawn[frame.name][frame.counter - 1])) for frame in frames if not frame.vectorized
    )
    chosen = next((frame for frame in vectorized if frame.name == shared), None)
    chosen = chosen or next(iter(vectorized), None)
    if chosen is None:
        rows = bad.flatten().any() if recording.enumerated_dims() else bad.squeeze()
        if not rows.dim() or steps:
            return Places("not finite", (), 0, 0, steps=steps)
        return _places("not finite", _along(rows, -rows.dim()), len(rows))
    if bad.dim() < -chosen.dim or bad.shape[chosen.dim] == 1:  # the same for all data
        indices = list(range(chosen.size))
    else:
        indices = _along(bad, chosen.dim)
    if chosen.name in drawn:
        indices = [int(drawn[chosen.name][index]) for index in indices]
    return _places("not finite", indices, chosen.size, plate=chosen.name, steps=steps)


def _frames(site: Site) -> list[Any]:
    """Plates of a site, outermost first, without those of the particles."""
    return [frame for frame in site["cond_indep_stack"] if frame.name not in _PARTICLE_PLATES]


def _shared_plate(recording: Recording) -> str | None:
    observed = [site for role, site in recording.sites if role == "model" and _is_data(site)]
    stacks = [[frame.name for frame in _frames(site) if frame.vectorized] for site in observed]
    common = set.intersection(*map(set, stacks)) if stacks else set()
    return next((name for name in stacks[0] if name in common), None) if stacks else None


def _is_data(site: Site) -> bool:
    return site["is_observed"] and not site["infer"].get("_deterministic", False)


def _along(bad: Tensor, dim: int) -> list[int]:
    """Indices along one dimension (negative) at which anything is true."""
    others = [other for other in range(-bad.dim(), 0) if other != dim]
    return (bad.any(others) if others else bad).nonzero()[:, 0].tolist()


def _places(what: str, indices: list[int], size: int, **more: Any) -> Places:
    return Places(what, tuple(indices[:_LISTED]), len(indices), size, **more)
