"""Likely causes, in words, of a site whose log-density is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_dgm.diagnostics.nonfinite_numbers import Numbers, Places, numbers_of
from pyro_dgm.objectives.sites import Site

_TINY = 1e-12  # a scale at which a distance of order one, squared, leaves single precision or comes near it


@dataclass(frozen=True)
class Argument:
    """Argument of a distribution or of one inside it.

    Args:
        name: its name, after those of the distributions it lies in.
        value: the tensor.
        constraint: what it must satisfy.
        batch_shape: that of the distribution that holds it.
    """

    name: str
    value: Tensor
    constraint: Any
    batch_shape: torch.Size

    def outside(self, value: Tensor) -> Tensor:
        """Which finite numbers, or vectors and matrices of them, do not satisfy the constraint."""
        if isinstance(self.constraint, _UNCHECKABLE) or constraints.is_dependent(self.constraint):
            return torch.zeros((), dtype=torch.bool)
        wrong = ~self.constraint.check(value)
        event_dim = self.constraint.event_dim
        finite = value.isfinite()
        return wrong & (finite.flatten(-event_dim).all(-1) if event_dim else finite)

    def numbers(self) -> Numbers:
        """Range of all of it."""
        return numbers_of(
            self.name, self.value, outside=self.outside(self.value), domain=_words(self.constraint)
        )

    def at(self, bad: Tensor, batch_shape: torch.Size) -> Tensor:
        """Its part that belongs to bad entries of a site, (entries, *event); all of it where that is not known."""
        event_dim = self.constraint.event_dim
        event = self.value.shape[self.value.dim() - event_dim :]
        inner = len(self.batch_shape) - len(batch_shape)  # dimensions that to_event took from it
        mask = bad.reshape(bad.shape + (1,) * max(inner, 0))
        try:
            shape = torch.broadcast_shapes(self.batch_shape, mask.shape)
            return self.value.expand(shape + event)[mask.expand(shape)]
        except RuntimeError:
            return self.value


_UNCHECKABLE = (type(constraints.positive_definite), type(constraints.lower_cholesky))  # slow, or fail on NaN


def held_arguments(fn: Any, prefix: str = "") -> tuple[Argument, ...]:
    """Arguments that a distribution and those inside it (bases, components) hold."""
    found = []
    for name, constraint in fn.arg_constraints.items():
        value = vars(fn).get(name)
        if isinstance(value, Tensor) and value.is_floating_point():
            found.append(Argument(prefix + name, value.detach(), constraint, fn.batch_shape))
    for name, inner in _inner(fn):
        # A wrapper that adds nothing of its own keeps the names of what it wraps.
        found += held_arguments(inner, prefix if name == "base_dist" else f"{prefix}{name}.")
    names = [argument.name for argument in found]
    return tuple(argument for index, argument in enumerate(found) if argument.name not in names[:index])


def _inner(fn: Any) -> Iterator[tuple[str, Any]]:
    for name, value in vars(fn).items():
        if isinstance(value, torch.distributions.Distribution):
            yield name.lstrip("_"), value


def likely_cause(
    site: Site,
    log_prob: Tensor,
    bad: Tensor,
    held: tuple[Argument, ...],
    fields: tuple[Places, ...],
    places: Places,
    broken: tuple[str, ...],
) -> tuple[str, str]:
    """Cause and cure, in words: the first that applies of data, parameters, arguments, value and density.

    Args:
        site: the first site that is not finite.
        log_prob: its log-density.
        bad: which entries of it are not finite.
        held: arguments of its distribution.
        fields: rows of the batch that are not finite.
        places: data at which the site is not finite.
        broken: parameters that are not finite.
    """
    for field in fields:
        # Rows that a mask leaves out do no harm; where rows are not known, data come first.
        known = places.count == len(places.indices) and field.count == len(field.indices) and places.count
        if not known or set(field.indices) & set(places.indices):
            return (
                f"{field.what} is not finite in these data",
                "to mend or leave out these data, or to mask them",
            )
    if broken:
        return broken_parameter(broken[0])
    fn, value = site["fn"], site["value"]
    at_bad = [(argument, argument.at(bad, fn.batch_shape)) for argument in held]
    return _of_arguments(at_bad) or _of_value(site, value, bad) or _of_density(at_bad, fn, value, bad)


def broken_parameter(name: str) -> tuple[str, str]:
    """Cause and cure of a parameter that is not finite."""
    return (
        f"parameter {name!r} is not finite already, so an earlier update was bad",
        "the last checkpoint before that, with a lower learning rate or clipped gradients",
    )


def _of_arguments(at_bad: list[tuple[Argument, Tensor]]) -> tuple[str, str] | None:
    for argument, part in at_bad:
        what = f"argument {argument.name!r}"
        if bool(part.isnan().any()):
            return (
                f"{what} is NaN before the density is taken",
                "to look at how it is computed: 0 / 0, inf - inf, the log or root of a negative number",
            )
    for argument, part in at_bad:
        what = f"argument {argument.name!r}"
        if bool((part == torch.inf).any()):
            return (
                f"{what} is infinite: an overflow, as exp(89) is one",
                "softplus in place of exp, or a clamp inside it",
            )
        if bool((part == -torch.inf).any()):
            return (
                f"{what} is minus infinity, as log(0) is",
                "log(x + 1e-6), or log_softmax and logsigmoid in place of the log of a probability",
            )
    for argument, part in at_bad:
        what, constraint = f"argument {argument.name!r}", argument.constraint
        if constraint is constraints.unit_interval or constraint is constraints.simplex:
            cure = "logits= in place of probs=, or sigmoid and softmax"
            if bool(argument.outside(part).any()):
                return f"{what} is {_words(constraint, no=True)}", cure
            if bool(((part == 0) | (part == 1)).any()):
                return f"{what} is exactly 0 or 1, perhaps by rounding", cure
        elif getattr(constraint, "lower_bound", None) == 0 and bool((part == 0).any()):
            return f"{what} is 0: it has underflowed, or has no floor", "a floor, as in softplus(x) + 1e-4"
        elif bool(argument.outside(part).any()):
            return f"{what} is not {_words(constraint)}", "softplus or exp, or another map into its domain"
    return None


def _of_value(site: Site, value: Tensor, bad: Tensor) -> tuple[str, str] | None:
    fn = site["fn"]
    if value.numel() == 0:
        return None
    event = value.shape[value.dim() - fn.event_dim :]
    try:
        part = value.expand(bad.shape + event)[bad].detach()
    except RuntimeError:
        part = value.detach()
    if part.is_floating_point() and not bool(part.isfinite().all()):
        if site["is_observed"]:
            return (
                "the observed value is not finite, as log(0) in its preprocessing",
                "to mend it before it is observed",
            )
        return "the draw overflows, though the arguments are finite", "a smaller scale, or lighter tails"
    support = fn.support
    if constraints.is_dependent(support):
        return None
    if not bool(support.check(part).all()):
        return (
            f"value outside the support ({_words(support)})",
            "other preprocessing (binarize, scale, levels), or another distribution there",
        )
    base = getattr(support, "base_constraint", support)
    ends = [getattr(base, name, None) for name in ("lower_bound", "upper_bound")]
    if part.is_floating_point() and any(end is not None and bool((part == end).any()) for end in ends):
        return (
            f"a value at the edge of the support ({_words(support)}), where the density is 0 or infinite",
            "values squeezed into its inside, as (x + 0.001) / 1.002",
        )
    return None


def _of_density(
    at_bad: list[tuple[Argument, Tensor]], fn: Any, value: Tensor, bad: Tensor
) -> tuple[str, str]:
    for argument, part in at_bad:
        positive = getattr(argument.constraint, "lower_bound", None) == 0
        if positive and part.numel() and float(part.min()) < _TINY:
            return (
                f"argument {argument.name!r} is as small as {float(part.min()):.2g}, and the density overflows",
                "a floor, as in softplus(x) + 1e-4",
            )
    return (
        "the density of this value underflows: it lies too far out",
        "values and arguments of order one, or float64",
    )


def _words(constraint: Any, *, no: bool = False) -> str:
    if constraint is constraints.unit_interval:
        return "outside [0, 1]" if no else "in [0, 1]"
    if constraint is constraints.simplex:
        return "no probability vector" if no else "a probability vector"
    constraint = getattr(constraint, "base_constraint", constraint)
    lower, upper = (getattr(constraint, name, None) for name in ("lower_bound", "upper_bound"))
    if lower is not None and upper is not None:
        return f"between {lower:g} and {upper:g}"
    if lower is not None:
        closed = "Eq" in type(constraint).__name__
        return f"at least {lower:g}" if closed else f"greater than {lower:g}"
    return str(constraint)
