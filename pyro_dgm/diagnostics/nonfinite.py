"""Why a (model, guide) pair gives a number that is not finite: where it begins, in which data, and a likely cause."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_dgm.diagnostics.nonfinite_causes import Argument, broken_parameter, held_arguments, likely_cause
from pyro_dgm.diagnostics.nonfinite_gradients import first_operation
from pyro_dgm.diagnostics.nonfinite_numbers import Numbers, Places, field_places, numbers_of, site_places
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.nonfinite import (
    Loss,
    Recording,
    bad_entries,
    bad_gradients,
    log_density,
    record,
    worst,
)
from pyro_dgm.objectives.pyro_elbo import PyroELBO
from pyro_dgm.objectives.sites import Site


@dataclass(frozen=True, kw_only=True)
class NonFiniteExplanation:
    """Where a pair stops being finite; ``str`` makes a few lines of it.

    Args:
        kind: what is not finite: ``log-density`` (of a site), ``gradient`` (of a finite loss), ``loss`` (of finite
            sites), or ``error`` (the run broke off, and data or parameters are not finite).
        site: name of the first site, in the order of execution; None where no single site is at fault.
        role: ``model`` or ``guide``, whose site it is.
        distribution: name of its distribution.
        arguments: numbers of each argument of the distribution, with those of its inner ones.
        value: numbers of the site's value.
        log_density: numbers of its log-density in nats, masks applied.
        places: data of the batch at which the site is not finite; of a gradient they are not known.
        fields: numbers and rows of the batch's tensors that are not finite themselves, by position in the batch.
        parameters: entries of Pyro's store that are not finite themselves, or whose gradients are not.
        operation: operation at which a gradient stops being finite, with the shape of its input and the positions.
        error: the error that ended the run, if one did.
        cause: a likely cause in words.
        cure: what to try.
    """

    kind: str
    site: str | None = None
    role: str | None = None
    distribution: str | None = None
    arguments: tuple[Numbers, ...] = ()
    value: Numbers | None = None
    log_density: Numbers | None = None
    places: Places | None = None
    fields: tuple[Places, ...] = ()
    parameters: tuple[str, ...] = ()
    operation: str | None = None
    error: str | None = None
    cause: str
    cure: str

    def __str__(self) -> str:
        lines = [f"not finite: {places}" for places in self.fields]
        where = f"site {self.site!r} of the {self.role}, {self.distribution}" if self.site else ""
        if self.kind == "log-density":
            lines.append(f"first: {where}" + (f": {self.places}" if self.places else ""))
        elif self.kind == "gradient":
            names = ", ".join(self.parameters[:3]) + (", ..." if len(self.parameters) > 3 else "")
            lines.append(f"the loss is finite, its gradient is not: {names} ({len(self.parameters)} in all)")
            lines += [f"first: gradient of the log-density of {where}"] if where else []
            lines += [f"first operation: {self.operation}"] if self.operation else []
        elif self.kind == "loss":
            lines.append("the loss is not finite, though every site is")
        else:
            lines.append(f"the run broke off: {self.error}")
        lines += [f"  {numbers}" for numbers in (*self.arguments, self.value, self.log_density) if numbers]
        lines.append(f"likely cause: {self.cause}; try {self.cure}")
        return "\n".join(lines)


def explain_nonfinite(
    model: Callable[..., Any], guide: Callable[..., Any], *batch: Any, objective: Loss | None = None
) -> NonFiniteExplanation | None:
    """Explanation of a loss or gradient that is NaN or infinite: site, arguments, data, parameters, likely cause.

    One run of the pair is watched, with Pyro's argument checks off. It draws from the random state at hand; a fault
    that only rare draws show needs the state, or the seed, that showed it. Random state, gradients, Pyro's parameter
    store and buffers are left as they were.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        objective: the loss ``objective(model, guide, *batch)`` that is not finite, or an ELBO object of Pyro's. Without
            one, log q - log p of one draw, with the sites enumerated that are marked so.

    Returns:
        The explanation, or None if the loss and its gradient are finite.

    Raises:
        Exception: that of the model, guide or objective, if it breaks off for another reason.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...         pyro.sample("x", dist.Normal(z, x.abs()), obs=x)
        >>> def guide(x):
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.Normal(torch.zeros(3), 1.0))
        >>> explanation = explain_nonfinite(model, guide, torch.tensor([1.0, 0.0, 2.0]))
        >>> explanation.site, explanation.places.indices, [str(a) for a in explanation.arguments[1:]]
        ('x', (1,), ['scale: 0 to 2 (3 numbers), 1 not greater than 0'])
        >>> print(explanation.cause)
        argument 'scale' is 0: it has underflowed, or has no floor
    """
    if isinstance(objective, pyro.infer.ELBO):
        objective = PyroELBO(objective)
    # Pyro warns of each NaN that is being looked for.
    with as_found(), _store_as_found(), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recording = _record(model, guide, batch, objective)
        explanation = _explain(recording, batch)
        has_graph = isinstance(recording.loss, Tensor) and recording.loss.requires_grad
        if explanation is None and isinstance(objective, PyroELBO) and not has_graph:
            # Some of Pyro's objects run backward themselves and have no graph: the densities have one.
            explanation = _explain(_record(model, guide, batch, None), batch)
        return explanation


def _record(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], objective: Loss | None
) -> Recording:
    if isinstance(objective, PyroELBO):
        objective = _differentiable(objective.elbo)
    with as_found():
        recording = record(model, guide, batch, objective, rehearsed=True)
    if objective is None and any(site["infer"].get("enumerate") for _, site in recording.sites):
        return record(model, guide, batch, _differentiable(pyro.infer.TraceEnum_ELBO()), rehearsed=True)
    return recording


def _differentiable(elbo: pyro.infer.ELBO) -> Loss:
    """Loss of one of Pyro's objects with its graph, where it has one: its gradient is taken apart afterwards."""
    elbo = copy.copy(elbo)  # it notes the nesting of the plates

    def loss(*args: Any) -> Any:
        try:
            return elbo.differentiable_loss(*args)
        except (AttributeError, NotImplementedError):
            return elbo.loss(*args)
        except ValueError as error:
            if "differentiated" not in str(error):  # without parameters, TraceEnum_ELBO refuses
                raise
            return elbo.loss(*args)

    return loss


def _explain(recording: Recording, batch: tuple[Any, ...]) -> NonFiniteExplanation | None:
    leaves, loss = recording.trained(), recording.loss
    gradients: dict[str, str] = {}
    if recording.error is None and not worst(loss):
        gradients = bad_gradients(torch.as_tensor(loss), leaves)
        if not gradients:
            return None
    fields = tuple(
        places
        for number, field in enumerate(batch)
        if (places := field_places(f"field {number} of the batch", field))
    )
    broken = tuple(name for name, leaf in recording.leaves.items() if worst(leaf))
    facts: dict[str, Any] = {"fields": fields, "parameters": broken or tuple(gradients)}
    if recording.error is not None:
        facts["error"] = str(recording.error).strip().splitlines()[0]
    if gradients:
        return _of_gradient(recording, facts, leaves)
    enumerated = recording.enumerated_dims()
    for role, site in recording.sites:
        log_prob = log_density(site)
        bad = bad_entries(site, log_prob, enumerated)
        if bool(bad.any()):
            places = site_places(recording, site, bad)
            held = held_arguments(site["fn"])
            cause, cure = likely_cause(site, log_prob, bad, held, fields, places, broken)
            seen = _seen(role, site, log_prob, held)
            return NonFiniteExplanation(
                kind="log-density", places=places, cause=cause, cure=cure, **seen, **facts
            )
    if recording.error is not None and not (fields or broken):
        raise recording.error
    kind = "loss" if recording.error is None else "error"
    cause = "a sum that overflows, or a term of the objective itself"
    cure = "to look at the objective's own terms, in float64"
    if fields:
        cause, cure = f"{fields[0].what} is not finite", "to mend or leave out these data"
    elif broken:
        cause, cure = broken_parameter(broken[0])
    cause += "" if recording.error is None else ", or what the error says"
    return NonFiniteExplanation(kind=kind, cause=cause, cure=cure, **facts)


def _of_gradient(
    recording: Recording, facts: dict[str, Any], leaves: dict[str, Tensor]
) -> NonFiniteExplanation:
    culprit, seen = torch.as_tensor(recording.loss), {}
    for role, site in recording.sites:
        log_prob = log_density(site)
        if bad_gradients(log_prob, leaves):
            culprit, seen = log_prob.sum(), _seen(role, site, log_prob, held_arguments(site["fn"]))
            break
    name, operation = first_operation(culprit, leaves)
    cause = f"the derivative of {name or 'some operation'} at its argument is infinite or undefined"
    cure = "a small number inside it, as in sqrt(x + 1e-6); torch.where does not help, since both branches are derived"
    if facts["fields"]:
        cause = "data that are not finite and that a mask leaves out of the value, but not of the gradient"
        cure = "any finite number in their place, behind the mask"
    return NonFiniteExplanation(kind="gradient", operation=operation, cause=cause, cure=cure, **seen, **facts)


def _seen(role: str, site: Site, log_prob: Tensor, held: tuple[Argument, ...]) -> dict[str, Any]:
    value, fn = site["value"], site["fn"]
    while hasattr(fn, "base_dist") and type(fn).__name__ in _WRAPPERS:
        fn = fn.base_dist
    return {
        "site": site["name"],
        "role": role,
        "distribution": type(fn).__name__,
        "arguments": tuple(argument.numbers() for argument in held),
        "value": numbers_of("value", value) if value.numel() else None,  # pyro.factor has none
        "log_density": numbers_of("log-density", log_prob),
    }


_WRAPPERS = {"Independent", "MaskedDistribution", "ExpandedDistribution"}


@contextmanager
def _store_as_found() -> Iterator[None]:
    store = pyro.get_param_store()
    with store.scope(store.get_state()):
        yield
