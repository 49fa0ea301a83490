"""Parameters of a map: its own, or linear functions of a context."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32


class Parameters(nn.Module):
    """Named tensors: parameters, or, with a context, parts of W c + b.

    Args:
        shapes: shape of each by name.
        context_features: size of a context; 0 for none.
        scale: standard deviation of what they start from; with 0 nothing is drawn.
        start: tensors, (*shape), that some start from.

    Example:
        >>> {name: tuple(value.shape) for name, value in Parameters({"u": (3,), "b": ()}, 5)(torch.zeros(7, 5)).items()}
        {'u': (7, 3), 'b': (7,)}
    """

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        context_features: int = 0,
        *,
        scale: float = 0.1,
        start: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.shapes = {name: tuple(shape) for name, shape in shapes.items()}
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.sizes = sizes
        first = {name: _noise(scale, *shape) for name, shape in self.shapes.items()} | dict(start or {})
        self.bias = nn.Parameter(torch.cat([first[name].flatten() for name in self.shapes]))
        self.weight = None
        if context_features:
            self.weight = nn.Parameter(
                _noise(scale / math.sqrt(context_features), sum(sizes), context_features)
            )

    def forward(self, context: Tensor | None = None) -> dict[str, Tensor]:
        """The tensors by name, (*shape), or (..., *shape) for contexts (..., context_features)."""
        flat: Tensor = self.bias
        if self.weight is not None and context is not None:
            flat = at_least_float32(nn.functional.linear(context, self.weight, self.bias))
        parts = flat.split(self.sizes, -1)
        return {
            name: part.reshape((*flat.shape[:-1], *shape))
            for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }


def _noise(scale: float, *shape: int) -> Tensor:
    return scale * torch.randn(shape) if scale else torch.zeros(shape)
