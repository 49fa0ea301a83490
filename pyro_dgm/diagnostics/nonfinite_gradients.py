"""The operation of a backward pass at which a gradient stops being finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_dgm.objectives.nonfinite import worst


def first_operation(value: Tensor, leaves: dict[str, Tensor]) -> tuple[str, str | None]:
    """Name of the first operation, backwards, whose gradient is not finite though it was given a finite one."""
    found: list[tuple[str, str]] = []

    def watch(node: Any) -> Any:
        def look(inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
            if found or any(worst(gradient) for gradient in outputs if gradient is not None):
                return
            bad = [gradient for gradient in inputs if gradient is not None and worst(gradient)]
            if bad:
                name = node.name().partition("Backward")[0].lower()
                shape = tuple(bad[0].shape)
                positions = (~bad[0].isfinite()).nonzero()
                first = ", ".join(str(tuple(position)) for position in positions[:3].tolist() if position)
                at = f", at {first}{', ...' if len(positions) > 3 else ''}" if first else ""
                found.append((name, f"{name}, input of shape {shape}{at}"))

        return node.register_hook(look)

    handles, seen, waiting = [], set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        handles.append(watch(node))
        waiting += [next_node for next_node, _ in node.next_functions]
    try:
        torch.autograd.grad(value, list(leaves.values()), retain_graph=True, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ("", None)
