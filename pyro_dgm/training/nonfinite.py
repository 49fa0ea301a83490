"""Why a step was refused: its data, and the site or parameter that stopped being finite, found by a second run."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions import Independent
from torch import Tensor

from pyro_dgm.errors import NonFiniteError
from pyro_dgm.objectives.player import HasPlayers
from pyro_dgm.training.learner import Learner

Loss = Callable[..., Any]


def explained(
    error: NonFiniteError | ValueError,
    learner: Learner,
    batch: tuple[Any, ...],
    index: Tensor | None,
    *,
    step: int,
) -> NonFiniteError | None:
    """The error again, with the batch's indices and the place that went bad; None for one of another kind.

    Pyro's argument checks raise ValueError for a distribution whose parameters are not finite: that is the
    same fault, one line earlier. The random state must be that of before the step.

    Args:
        error: what the step raised.
        learner: whose step it was.
        batch: its batch.
        index: indices of the batch in the training split.
        step: its number, from 1.
    """
    place = _site(learner, batch)
    data = [] if index is None else [_listed(index)]
    if not isinstance(error, NonFiniteError):
        if place is None:
            return None
        return NonFiniteError(
            "non-finite number",
            where=", ".join([f"step {step}", place, *data]),
            value=str(error).splitlines()[0],
            expected="finite numbers",
            cure="a lower learning rate, clip_norm, or a look at these data",
        )
    if "max_loss" not in error.what:
        data = [place or _parameter(learner) or "no single site or parameter", *data]
    return NonFiniteError(
        error.what,
        where=", ".join([error.where, *data]),
        value=error.value,
        expected=error.expected,
        cure=error.cure,
    )


def _site(learner: Learner, batch: tuple[Any, ...]) -> str | None:
    if learner.pair is None:
        return None
    objective = None if isinstance(learner.objective, HasPlayers) else learner.objective
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pyro warns of each NaN that is being looked for
        return locate_nonfinite(*learner.pair, *batch, objective=objective)


def _parameter(learner: Learner) -> str | None:
    """First parameter whose gradient is not finite."""
    for prefix, module in learner.modules.items():
        for name, parameter in module.named_parameters():
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all()):
                return f"gradient of the parameter {name!r} of the {prefix}"
    return None


def _listed(index: Tensor) -> str:
    first = ", ".join(str(i) for i in index[:10].tolist())
    return f"batch indices {first}{', ...' if len(index) > 10 else ''} ({len(index)} in all)"


class _Watch(poutine.messenger.Messenger):
    """Keeps each sample site that runs inside, with its log-density, and each parameter."""

    def __init__(self, role: str, sites: list[tuple[str, dict[str, Any]]], leaves: dict[int, Tensor]) -> None:
        super().__init__()
        self.role, self.sites, self.leaves = role, sites, leaves

    def _pyro_post_sample(self, message: dict[str, Any]) -> None:
        # Plates and subsampling are sites too, of an inner class whose density is zero.
        if type(message["fn"]).__name__ != "_Subsample":
            self.sites.append((self.role, dict(message)))

    def _pyro_post_param(self, message: dict[str, Any]) -> None:
        leaf = message["value"].unconstrained()
        self.leaves[id(leaf)] = leaf


def locate_nonfinite(
    model: Callable[..., Any], guide: Callable[..., Any], *batch: Any, objective: Loss | None = None
) -> str | None:
    """Name of the first sample site whose numbers are not finite, in the order of execution, or None.

    Looked at, for each site: log-density, value and the distribution's parameters; if all of them are finite,
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
    sites: list[tuple[str, dict[str, Any]]] = []
    leaves: dict[int, Tensor] = {}
    watched_model = _watched(model, "model", sites, leaves)
    watched_guide = _watched(guide, "guide", sites, leaves)
    with pyro.validation_enabled(False), torch.enable_grad():
        # Whatever breaks here, the fault to explain came first, and the sites that ran so far may explain it.
        with contextlib.suppress(Exception):
            (objective or _run)(watched_model, watched_guide, *batch)
        return _first_bad(sites, list(leaves.values()))


def _run(model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> None:
    trace = poutine.trace(guide).get_trace(*batch)
    poutine.replay(model, trace=trace)(*batch)


def _watched(
    function: Callable[..., Any],
    role: str,
    sites: list[tuple[str, dict[str, Any]]],
    leaves: dict[int, Tensor],
) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        with _Watch(role, sites, leaves):
            return function(*args, **kwargs)

    return run


def _first_bad(sites: list[tuple[str, dict[str, Any]]], leaves: list[Tensor]) -> str | None:
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    densities = []
    for role, message in sites:
        log_prob = _log_prob(message)
        densities.append((role, message["name"], log_prob))
        found = [f"log-density is {_worst(log_prob)}"] if _worst(log_prob) else []
        if message["mask"] is None and _worst(message["value"]):
            found.append(f"value is {_worst(message['value'])}")
        if found:
            found += _bad_parameters(message["fn"])
            return f"site {message['name']!r} of the {role} ({', '.join(found)})"
    for role, name, log_prob in densities:
        if not leaves or not log_prob.requires_grad:
            continue
        gradients = torch.autograd.grad(log_prob.sum(), leaves, retain_graph=True, allow_unused=True)
        bad = [_worst(gradient) for gradient in gradients if gradient is not None and _worst(gradient)]
        if bad:
            return f"site {name!r} of the {role} (gradient of its log-density is {bad[0]})"
    return None


def _log_prob(message: dict[str, Any]) -> Tensor:
    log_prob: Tensor = message["fn"].log_prob(message["value"])
    mask = message["mask"]
    if mask is None:
        return log_prob
    return torch.where(torch.as_tensor(mask, device=log_prob.device), log_prob, torch.zeros_like(log_prob))


def _bad_parameters(fn: Any) -> list[str]:
    while isinstance(fn, Independent):
        fn = fn.base_dist
    values = {name: getattr(fn, name) for name in fn.arg_constraints if name in fn.__dict__}
    return [f"parameter {name!r} is {_worst(value)}" for name, value in values.items() if _worst(value)]


def _worst(value: Any) -> str:
    """``nan``, ``inf`` or ``-inf`` if it occurs in a tensor, else nothing."""
    tensor = torch.as_tensor(value).detach()
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return ""
    return "nan" if bool(tensor.isnan().any()) else str(float(tensor[~tensor.isfinite()].flatten()[0]))
