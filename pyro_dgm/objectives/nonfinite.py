"""The site or parameter of a (model, guide) pair that is not finite, found by a run that is watched."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import Site

Loss = Callable[..., Any]


@dataclass
class Recording:
    """What ran when a pair was watched, as far as it came.

    Args:
        sites: role (``model`` or ``guide``) and message of each sample site, in the order of execution.
        leaves: the unconstrained parameters by their names in Pyro's store.
        subsamples: indices that each plate of a known size drew, by name.
        loss: value of the objective; None where the run broke off.
        error: why it broke off.
    """

    sites: list[tuple[str, Site]] = field(default_factory=list)
    leaves: dict[str, Tensor] = field(default_factory=dict)
    subsamples: dict[str, Any] = field(default_factory=dict)
    loss: Any = None
    error: Exception | None = None

    def enumerated_dims(self) -> set[int]:
        """Dimensions (negative) along which discrete values are enumerated."""
        dims = {site["infer"].get("_enumerate_dim") for _, site in self.sites}
        return {dim for dim in dims if dim is not None}

    def trained(self) -> dict[str, Tensor]:
        """Those leaves that have gradients."""
        return {name: leaf for name, leaf in self.leaves.items() if leaf.requires_grad}


class _Watch(poutine.messenger.Messenger):
    """Keeps each sample site that runs inside, and each parameter."""

    def __init__(self, role: str, recording: Recording) -> None:
        super().__init__()
        self.role, self.recording = role, recording

    def _pyro_post_sample(self, message: dict[str, Any]) -> None:
        # Plates and subsampling are sites too, of an inner class whose density is zero.
        if type(message["fn"]).__name__ == "_Subsample":
            self.recording.subsamples[message["name"]] = message["value"]
        else:
            self.recording.sites.append((self.role, dict(message)))

    def _pyro_post_param(self, message: dict[str, Any]) -> None:
        self.recording.leaves[message["name"]] = message["value"].unconstrained()


def record(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    objective: Loss | None = None,
    *,
    rehearsed: bool = False,
) -> Recording:
    """Recording of one call of an objective, without Pyro's argument checks, which would stop it at the first fault.

    Args:
        model: a Pyro model.
        guide: its guide.
        batch: the arguments of both.
        objective: the loss whose runs of the two are watched, with all its particles; without one the guide and the
            replayed model run once, and the loss is log q - log p of that draw.
        rehearsed: whether to call the objective once before, unrecorded and with the same random numbers: some look
            at a pair that is new to them, by runs with other draws.
    """
    recording = Recording()

    def watched(function: Callable[..., Any], role: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with _Watch(role, recording):
                return function(*args, **kwargs)

        return run

    pair = watched(model, "model"), watched(guide, "guide")
    with pyro.validation_enabled(False), torch.enable_grad():
        if rehearsed and objective is not None:
            with as_found(), contextlib.suppress(Exception):
                objective(*pair, *batch)
            recording.sites.clear()
        # Whatever breaks here, the fault to explain came first, and the sites that ran so far may explain it.
        try:
            if objective is None:
                recording.loss = _plain(*pair, batch, recording)
            else:
                recording.loss = objective(*pair, *batch)
        except Exception as error:
            recording.error = error
    return recording


def _plain(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], recording: Recording
) -> Any:
    poutine.replay(model, trace=poutine.trace(guide).get_trace(*batch))(*batch)
    signs = {"guide": 1.0, "model": -1.0}
    return sum(
        signs[role] * scale_and_mask(log_density(site), scale=site["scale"]).sum()
        for role, site in recording.sites
    )


def log_density(site: Site) -> Tensor:
    """Log-density of a recorded site in nats, of its batch shape, zero where a mask leaves it out."""
    log_prob: Tensor = _unchecked(site["fn"]).log_prob(site["value"])
    return scale_and_mask(log_prob, mask=site["mask"])


def _unchecked(fn: Any) -> Any:
    """A distribution without argument checks, which one made before the run may have."""
    fn = copy.copy(fn)
    fn._validate_args = False
    if "base_dist" in vars(fn):
        fn.base_dist = _unchecked(fn.base_dist)
    return fn


def bad_entries(site: Site, log_prob: Tensor, enumerated: set[int]) -> Tensor:
    """Which entries of a site are not finite: booleans of the shape of its log-density.

    An enumerated value of probability zero is no fault, unless every value has it. A latent value counts too.
    """
    dims = [dim for dim in enumerated if -dim <= log_prob.dim()]
    impossible = log_prob == -torch.inf
    for dim in dims:
        impossible = impossible.all(dim, keepdim=True)
    bad = log_prob.isnan() | (log_prob == torch.inf) | impossible
    if worst(site["scale"]):
        bad = bad | ~torch.isfinite(torch.as_tensor(site["scale"], device=bad.device))
    if not site["is_observed"] and site["mask"] is None and not _masks_itself(site["fn"]):
        wrong = ~torch.isfinite(site["value"])
        wrong = wrong.flatten(-site["fn"].event_dim).any(-1) if site["fn"].event_dim else wrong
        bad = bad | wrong
    return bad


def _masks_itself(fn: Any) -> bool:
    while fn is not None and not isinstance(fn, MaskedDistribution):
        fn = getattr(fn, "base_dist", None)
    return fn is not None


def bad_gradients(value: Tensor, leaves: dict[str, Tensor]) -> dict[str, str]:
    """``nan`` or ``inf`` by name of those leaves for which the gradient of a value's sum is not finite."""
    if not leaves or not value.requires_grad:
        return {}
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
    found = {
        name: worst(gradient)
        for name, gradient in zip(leaves, gradients, strict=True)
        if gradient is not None
    }
    return {name: what for name, what in found.items() if what}


def locate_nonfinite(
    model: Callable[..., Any], guide: Callable[..., Any], *batch: Any, objective: Loss | None = None
) -> str | None:
    """Name of the first sample site whose numbers are not finite, in the order of execution, or None.

    Looked at, for each site: log-density, latent value and the distribution's parameters; if all of them are finite,
    the gradient of its log-density with respect to the parameters in Pyro's store. Entries that a mask leaves
    out do not count. The run draws from the random state at hand, so put the state of the failed step back
    first. It does not change any gradient.

    Args:
        model: a Pyro model.
        guide: its guide.
        batch: the arguments of both.
        objective: the loss whose runs of the two are watched, with all its particles; without one the guide
            and the replayed model run once.

    Returns:
        A phrase such as ``site 'x' of the model (log-density is nan, parameter 'loc' is nan)``.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(z, 1.0), obs=x)
        >>> def guide(x):
        ...     pyro.sample("z", dist.Normal(x.log(), 1.0))
        >>> locate_nonfinite(model, guide, torch.tensor(0.0))
        "site 'z' of the guide (log-density is nan, value is -inf, parameter 'loc' is -inf)"
    """
    recording = record(model, guide, batch, objective)
    enumerated, leaves = recording.enumerated_dims(), recording.trained()
    densities = []
    for role, site in recording.sites:
        with torch.enable_grad():
            log_prob = log_density(site)
        densities.append((role, site["name"], log_prob))
        if bool(bad_entries(site, log_prob, enumerated).any()):
            found = {"log-density": worst(log_prob), "its poutine.scale": worst(site["scale"])}
            if site["mask"] is None:
                found["value"] = worst(site["value"])
            found |= {f"parameter {name!r}": worst(value) for name, value in arguments(site["fn"]).items()}
            described = ", ".join(f"{name} is {what}" for name, what in found.items() if what)
            return f"site {site['name']!r} of the {role} ({described})"
    for role, name, log_prob in densities:
        bad = bad_gradients(log_prob, leaves)
        if bad:
            return f"site {name!r} of the {role} (gradient of its log-density is {next(iter(bad.values()))})"
    return None


def arguments(fn: Any) -> dict[str, Any]:
    """Arguments that a distribution holds, by name; those of the base of ``to_event`` are its own."""
    while isinstance(fn, Independent):
        fn = fn.base_dist
    return {name: getattr(fn, name) for name in fn.arg_constraints if name in fn.__dict__}


def worst(value: Any) -> str:
    """``nan``, ``inf`` or ``-inf`` if it occurs in a tensor, else nothing."""
    # A number of Python's has double precision, and may be out of the range of torch's default.
    tensor = torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None).detach()
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return ""
    return "nan" if bool(tensor.isnan().any()) else str(float(tensor[~tensor.isfinite()].flatten()[0]))
