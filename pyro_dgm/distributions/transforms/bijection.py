"""What all invertible maps share: values with their log-determinants, both ways, and a transform of torch's kind."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.shapes import check_event, positive_sizes


class Bijection(nn.Module):
    r"""A smooth invertible map :math:`y = f(x; c)` with parameters, of a context c where it takes one; abstract.

    It is a module, a piece: called, with a context where it takes one, it returns a ``torch.distributions.Transform``
    for Pyro's ``TransformedDistribution``. That keeps nothing between calls, so that a density after an update of the
    parameters is the new one. :class:`~pyro_dgm.distributions.FlowDistribution` gets values and log-determinants in
    one pass of the networks, where torch's interface takes two.

    Args:
        event_shape: shape of one x.
        out_shape: shape of one y; that of x by default.
        context_shape: shape of one context; () for none.

    Raises:
        InvalidInput: a size below one, or, when called, data or contexts of another shape.
        IncompatibleModel: when called, a context that is missing or not taken; or an inverse that is not implemented.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        out_shape: Sequence[int] | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.event_shape = positive_sizes(event_shape, "event_shape")
        self.out_shape = self.event_shape if out_shape is None else positive_sizes(out_shape, "out_shape")
        self.context_shape = positive_sizes(context_shape, "context_shape")

    def forward(self, context: Tensor | None = None) -> BoundTransform:
        """The map for this context, (*batch_shape, *context_shape), as a transform of torch's kind."""
        return BoundTransform(self, context)

    def forward_and_log_det(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """y (..., *out_shape) and log|det dy/dx| (...) of ``x`` (..., *event_shape)."""
        check_event(x, self.event_shape, f"data of {type(self).__name__}")
        self.check_context(context)
        return self._forward(x, context)

    def inverse_and_log_det(self, y: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (..., *event_shape) and log|det dx/dy| (...) of ``y`` (..., *out_shape)."""
        check_event(y, self.out_shape, f"data of the inverse of {type(self).__name__}")
        self.check_context(context)
        try:
            return self._inverse(y, context)
        except NotImplementedError as problem:
            raise without_inverse(self, problem) from problem

    @abstractmethod
    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`forward_and_log_det`, of what was checked."""

    @abstractmethod
    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """As :meth:`inverse_and_log_det`, of what was checked."""

    @property
    def codomain(self) -> constraints.Constraint:
        """Where the elements of y may be; the line by default."""
        return constraints.real

    @property
    def support(self) -> constraints.Constraint:
        """Where y as a whole may be."""
        return constraints.independent(self.codomain, len(self.out_shape) - self.codomain.event_dim)

    def start(self, y: Tensor, context: Tensor | None = None) -> Tensor:
        """Starts what depends on data, (..., *out_shape), as :class:`ActNorm` does, and maps them back."""
        return self.inverse_and_log_det(y, context)[0]

    def check_context(self, context: Tensor | None) -> None:
        """Raises where a context is missing, not taken, or of another shape."""
        owner = type(self).__name__
        if (context is None) != (not self.context_shape):
            found, expected = ("no context", self.context_shape) if context is None else ("a context", "none")
            raise IncompatibleModel(found, where=owner, expected=f"{expected} for each datum")
        if context is not None:
            check_event(context, self.context_shape, f"context of {owner}")


class BoundTransform(Transform):
    """A bijection at a context, with torch's interface and without its cache.

    Args:
        bijection: the map.
        context: its context, or None.
    """

    bijective = True

    def __init__(self, bijection: Bijection, context: Tensor | None = None) -> None:
        super().__init__(cache_size=0)
        bijection.check_context(context)
        self.bijection, self.context = bijection, context
        self.domain = constraints.independent(constraints.real, len(bijection.event_shape))
        self.codomain = bijection.support

    def _call(self, x: Tensor) -> Tensor:
        return self.bijection.forward_and_log_det(x, self.context)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return self.bijection.inverse_and_log_det(y, self.context)[0]

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """log|det dy/dx|, (...), by another pass."""
        return self.bijection.forward_and_log_det(x, self.context)[1]

    def with_cache(self, cache_size: int = 1) -> BoundTransform:
        """Itself: it has no cache, whatever is asked."""
        return self

    def forward_shape(self, shape: Sequence[int]) -> torch.Size:
        return self._shape(shape, self.bijection.event_shape, self.bijection.out_shape)

    def inverse_shape(self, shape: Sequence[int]) -> torch.Size:
        return self._shape(shape, self.bijection.out_shape, self.bijection.event_shape)

    def _shape(self, shape: Sequence[int], old: tuple[int, ...], new: tuple[int, ...]) -> torch.Size:
        return torch.Size((*shape[: len(shape) - len(old)], *new))


def sum_event(log_slopes: Tensor, event_shape: Sequence[int]) -> Tensor:
    """The log-determinant (...) of a triangular map from the logarithms of its slopes, (..., *event_shape)."""
    return log_slopes.flatten(-len(event_shape)).sum(-1)


def exactly(x: Tensor) -> torch.autocast:
    """What keeps the map itself out of bfloat16, which is for networks: its log-determinant would be another map's."""
    return torch.autocast(x.device.type, enabled=False)


def shared_context(parts: Sequence[Bijection], where: str) -> tuple[int, ...]:
    """Shape of the context of all parts that take one; () for none.

    Raises:
        InvalidInput: contexts of different shapes.
    """
    shapes = {part.context_shape for part in parts if part.context_shape}
    if len(shapes) > 1:
        raise InvalidInput("contexts of several shapes", where=where, value=shapes, expected="one for all")
    return next(iter(shapes), ())


def without_inverse(map_: object, problem: Exception) -> IncompatibleModel:
    """The error for a map whose inverse is asked for, and which has none; with what the problem itself says."""
    return IncompatibleModel(
        "a map without an inverse",
        where=type(map_).__name__,
        value=str(problem) or None,  # torch says so too of operators that a data type or a device lacks
        expected="one that has an inverse, for the density of data",
        cure="a map of pyro_dgm.distributions.transforms, or Inverse(...) of it as the map to noise",
    )
