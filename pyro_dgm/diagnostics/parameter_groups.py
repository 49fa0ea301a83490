"""Parameters of a pair, by what they serve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.sites import sample_sites
from pyro_dgm.objectives.traces import Given


def parameters_of(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...], objective: Any
) -> tuple[list[Tensor], dict[str, set[int]]]:
    """Leaves that the densities or the objective depend on, and groups of their indices by name."""
    capture = poutine.trace(param_only=True)
    with capture:
        guide_trace = poutine.trace(guide).get_trace(*batch)
        values = {name: site["value"].detach() for name, site in sample_sites(guide_trace).items()}
        with Given(values):  # without the paths through the guide
            model_trace = poutine.trace(model).get_trace(*batch)
    named: dict[Tensor, str] = {}
    for name, site in capture.trace.nodes.items():
        leaf = site["value"].unconstrained()
        if leaf.requires_grad:
            named.setdefault(leaf, name)
    by_model, by_guide = _used(model_trace, list(named)), _used(guide_trace, list(named))
    own = list(objective.parameters()) if isinstance(objective, nn.Module) else []
    own = [leaf for leaf in own if leaf.requires_grad and leaf not in named]
    leaves = [leaf for leaf in named if leaf in by_model | by_guide] + own
    if not leaves:
        raise InvalidInput("no parameters", where="the model and the guide", expected="something to learn")
    of = {"model": by_model - by_guide, "guide": by_guide - by_model, "shared": by_model & by_guide}
    of |= {"objective": set(own)}
    places = {leaf: index for index, leaf in enumerate(leaves)}
    roles = {name: {places[leaf] for leaf in group} for name, group in of.items()}
    return leaves, {name: group for name, group in (roles | _parts(leaves, named)).items() if group}


def indices_of(name: str, tensors: Iterable[Tensor], leaves: list[Tensor]) -> set[int]:
    """Places of a group of tensors among the leaves."""
    places = {leaf: index for index, leaf in enumerate(leaves)}
    found = {places[tensor] for tensor in tensors if tensor in places}
    if not found:
        raise InvalidInput(
            "a network that neither the pair nor the objective uses",
            where=f"networks[{name!r}]",
            expected="leaf tensors, as module.parameters() gives them",
        )
    return found


def _used(trace: Any, leaves: list[Tensor]) -> set[Tensor]:
    """Leaves that values or densities of a trace depend on."""
    trace.compute_log_prob()
    sites = sample_sites(trace).values()
    outputs = [site[key] for site in sites for key in ("value", "log_prob") if site[key].requires_grad]
    if not outputs or not leaves:
        return set()
    total = torch.stack([output.sum().double() for output in outputs]).sum()
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    return {leaf for leaf, gradient in zip(leaves, gradients, strict=True) if gradient is not None}


def _parts(leaves: list[Tensor], named: Mapping[Tensor, str]) -> dict[str, set[int]]:
    """Leaves by the child of the module that holds them, or by the module where several are registered."""
    split = {index: named[leaf].rpartition("$$$") for index, leaf in enumerate(leaves) if leaf in named}
    several = len({module for module, _, _ in split.values() if module}) > 1
    parts: dict[str, set[int]] = {}
    for index, (module, _, name) in split.items():
        part = module if several and module else name.partition(".")[0] if "." in name else ""
        if part:
            parts.setdefault(part, set()).add(index)
    return parts
