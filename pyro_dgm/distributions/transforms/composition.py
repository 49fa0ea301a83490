"""Maps made of maps: one after the other, and backwards."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.distributions import constraints

from pyro_dgm.distributions.transforms.bijection import Bijection, shared_context
from pyro_dgm.errors import InvalidInput


class Chain(Bijection):
    """Maps one after the other, the first first. Each that takes a context gets the same.

    Args:
        parts: the maps.

    Raises:
        InvalidInput: none, shapes that do not follow one another, or contexts of different shapes.

    Example:
        >>> import torch
        >>> from pyro_dgm.distributions.transforms import Permutation
        >>> chain = Chain([Inverse(Permutation([1, 2, 0])), Permutation([1, 2, 0])])
        >>> chain.forward_and_log_det(torch.tensor([1.0, 2.0, 3.0]))
        (tensor([1., 2., 3.]), tensor(0.))
    """

    def __init__(self, parts: Sequence[Bijection]) -> None:
        parts = list(parts)
        if not parts:
            raise InvalidInput("no parts", where="parts", value="none", expected="one map or more")
        for before, after in pairwise(parts):
            if before.out_shape != after.event_shape:
                names = f"{type(before).__name__} gives {before.out_shape}, {type(after).__name__}"
                raise InvalidInput(
                    "parts that do not fit", where="parts", value=f"{names} takes {after.event_shape}"
                )
        context_shape = shared_context(parts, "parts")
        super().__init__(parts[0].event_shape, out_shape=parts[-1].out_shape, context_shape=context_shape)
        self.parts = nn.ModuleList(parts)

    def _maps(self) -> list[Bijection]:
        return [part for part in self.parts if isinstance(part, Bijection)]

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(())
        for part in self._maps():
            x, log_det = part._forward(x, context if part.context_shape else None)
            total = total + log_det
        return x, total

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        total = y.new_zeros(())
        for part in reversed(self._maps()):
            y, log_det = part._inverse(y, context if part.context_shape else None)
            total = total + log_det
        return y, total

    @property
    def codomain(self) -> constraints.Constraint:
        return self._maps()[-1].codomain

    def start(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        for part in reversed(self._maps()):
            y = part.start(y, context if part.context_shape else None)
        return y


class Inverse(Bijection):
    """A map backwards.

    Args:
        of: the map.

    Example:
        >>> import torch
        >>> from pyro_dgm.distributions.transforms import Permutation
        >>> Inverse(Permutation([1, 2, 0])).forward_and_log_det(torch.tensor([2.0, 3.0, 1.0]))[0]
        tensor([1., 2., 3.])
    """

    def __init__(self, of: Bijection) -> None:
        super().__init__(of.out_shape, out_shape=of.event_shape, context_shape=of.context_shape)
        self.of = of

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.of._inverse(x, context)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.of._forward(y, context)
