"""A joint density as the product of conditionals, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution, validation_enabled
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.conditionals import (
    Conditionals,
    Values,
    drawn_in_order,
    known_first,
    naive_conditionals,
)
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import check_event

_DATA = "data of an autoregressive model"
_DRAWN_AT_ONCE = 512  # a network keeps what it has computed for all of these data


class Autoregressive(TorchDistribution):
    r"""The distribution :math:`p(x \mid c) = \prod_t p(x_{o(t)} \mid x_{o(1)}, \dots, x_{o(t-1)}, c)`.

    One pass of the network gives the parameters of all conditionals, so that ``log_prob`` is exact and costs one
    pass. Draws come element by element. A network that has ``conditionals`` keeps what it has computed for the
    elements drawn so far; any other is run anew for each element, which takes as many passes as there are elements.
    The draws are the same.

    The network must be causal: its outputs for an element depend on elements before it alone. Nothing checks that
    here; ``tests/laws`` does for the networks of this library.

    Args:
        network: maps data (..., *data_shape) and the context to outputs (..., num_params, *data_shape).
        observation: piece that maps these outputs to the distribution of the elements, such as an ``Observation``.
        context: what is conditioned on, (*batch_shape, *context event); passed to the network beside the data.
        event_shape: shape of one datum; that of the observation, its ``data_shape``, by default.
        context_dims: dimensions of one context.
        conditionals: function of (number of draws n, context (n, ...)) that makes a generator of conditionals; by
            default the network's own.
        order: positions of the elements in the order of the network, where it has no conditionals.
        validate_args: check values; Pyro's global setting if None.

    Raises:
        InvalidInput: from ``log_prob``, data of another shape.
        ValueError: from ``log_prob``, with validation, for values outside the support of the observation.

    Example:
        >>> from pyro_dgm.distributions import BernoulliObservation
        >>> weight = torch.tensor([[0.0, 0.0], [2.0, 0.0]])  # the second sees the first
        >>> p = Autoregressive(lambda x, c: (x @ weight.T).unsqueeze(-2), BernoulliObservation((2,)))
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
        >>> p.log_prob(x).exp().sum().item()
        1.0
        >>> p.sample((5,)).shape
        torch.Size([5, 2])

    Reference: The neural autoregressive distribution estimator (Larochelle, Murray, 2011).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        network: Callable[[Tensor, Tensor | None], Tensor],
        observation: Callable[[Tensor], Any],
        context: Tensor | None = None,
        *,
        event_shape: Sequence[int] | None = None,
        context_dims: int = 1,
        conditionals: Callable[[int, Tensor | None], Conditionals] | None = None,
        order: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.network, self.observation = network, observation
        self.context, self.context_dims = context, context_dims
        self._conditionals = getattr(network, "conditionals", None) if conditionals is None else conditionals
        self._order = order
        batch_shape = torch.Size() if context is None else context.shape[: context.dim() - context_dims]
        if event_shape is None:
            event_shape = observation.data_shape  # type: ignore[attr-defined]
        super().__init__(batch_shape, torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where the observation may have its values."""
        return self._of_zeros().support

    def _of_zeros(self) -> Any:
        """The observation's distribution at outputs of zero, or, for a plain function, at those for data of zero."""
        number = getattr(self.observation, "num_params", None)
        if number is not None:
            return self.observation(self._zeros(number))
        context = None if self.context is None else self.context[(0,) * len(self.batch_shape)]
        with torch.no_grad():
            return self.observation(self.network(self._zeros(), context))

    def _zeros(self, *shape: int) -> Tensor:
        """Zeros (*shape, *event_shape), of the type and on the device of the observation or the network."""
        pieces = [piece for piece in (self.observation, self.network) if isinstance(piece, torch.nn.Module)]
        tensors = [t for piece in pieces for t in (*piece.parameters(), *piece.buffers())]
        like = next((t for t in tensors if t.is_floating_point()), torch.zeros(()))
        return like.new_zeros(*shape, *self.event_shape)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Autoregressive:
        """The same distribution with a larger batch shape; contexts share memory."""
        new = self._get_checked_instance(Autoregressive, _instance)
        new.network, new.observation, new.context_dims = self.network, self.observation, self.context_dims
        new._conditionals, new._order, new.context = self._conditionals, self._order, self.context
        batch_shape = torch.Size(batch_shape)
        if self.context is not None:
            new.context = self.context.expand(batch_shape + self._context_shape)
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @property
    def _context_shape(self) -> torch.Size:
        assert self.context is not None
        return self.context.shape[self.context.dim() - self.context_dims :]

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | c), exact; ``value`` (..., *event_shape) to (...)."""
        leading = value.shape[: max(0, value.dim() - len(self.event_shape))]
        check_event(value, tuple(self.event_shape), _DATA)
        value = value if value.is_floating_point() else value.to(self._zeros().dtype)
        shape = self._with_batch(leading)
        context = self.context
        if context is not None:
            context = context.expand(shape + self._context_shape)
            value = value.expand(shape + self.event_shape)
        if self._validate_args:
            self._validate_sample(value)
        params = self.network(value, context)
        with validation_enabled(False):  # of the observation's own, which is made anew at each call
            log_p = self.observation(params).log_prob(value)
        return log_p.expand(shape)

    def _with_batch(self, leading: torch.Size) -> torch.Size:
        """Leading dimensions of data and of the contexts together."""
        try:
            return torch.broadcast_shapes(leading, self.batch_shape)
        except RuntimeError:
            raise InvalidInput(
                "other leading dimensions than those of the contexts",
                where=_DATA,
                value=tuple(leading),
                expected=f"what broadcasts with {tuple(self.batch_shape)}",
            ) from None

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws, (*sample_shape, *batch_shape, *event_shape), element by element."""
        return self._drawn(torch.Size(sample_shape) + self.batch_shape, None, None)

    def impute(self, x: Tensor, observed: Tensor) -> Tensor:
        """Data whose missing elements are drawn from their distribution given the others, exactly.

        That is one pass of the sampler where all elements known come before all missing ones in the network's order
        (the upper half of an image, say). Where they do not, no such sampler is exact.

        Args:
            x: data, (..., *event_shape); missing elements may hold any value.
            observed: boolean mask, (*event_shape), true where an element is known.

        Raises:
            InvalidInput: data of another shape, a known value outside the support, a mask of another shape or type, or
                an element that is known after a missing one.
        """
        check_event(x, tuple(self.event_shape), _DATA)
        if observed.shape != self.event_shape or observed.dtype != torch.bool:
            raise InvalidInput(
                "wrong mask",
                where="observed",
                value=f"{observed.dtype} {tuple(observed.shape)}",
                expected=f"torch.bool {tuple(self.event_shape)}, for all data",
            )
        possible = self._of_zeros()
        x = torch.where(observed, x, possible.sample()).to(self._zeros().dtype)
        inside = possible.support.check(x)
        if not bool(inside.all()):
            raise InvalidInput(
                "values outside the support",
                where="x",
                value=f"known elements of {int((~inside).sum())} of {inside.numel()} data",
                expected=f"values in {possible.support}",
            )
        leading = x.shape[: x.dim() - len(self.event_shape)]
        shape = self._with_batch(leading)
        return self._drawn(shape, x.expand(shape + self.event_shape), observed.flatten())

    def log_prob_of(self, x: Tensor, observed: Tensor) -> Tensor:
        """log p of the known elements alone, (...).

        They must come before all others in the order of the network, which :meth:`impute` checks and this does not.

        Args:
            x: data, (..., *event_shape), such as ``impute`` gives.
            observed: boolean mask, (*event_shape), true where an element is known.

        Raises:
            InvalidInput: an observation of a user's own that does not say how probable single elements are.
        """
        if not hasattr(self.observation, "at"):
            name, expected = type(self.observation).__name__, "a method at(params, index)"
            raise InvalidInput(
                "no log p of single elements", where="observation", value=name, expected=expected
            )
        index = observed.flatten().nonzero().squeeze(-1)
        context = self.context
        if context is not None:
            context = context.expand(x.shape[: x.dim() - len(self.event_shape)] + self._context_shape)
        params = self.network(x, context).flatten(-len(self.event_shape))[..., index]
        values = x.flatten(-len(self.event_shape))[..., index]
        return self.observation.at(params, index).log_prob(values).sum(-1)

    @torch.no_grad()
    def _drawn(self, shape: torch.Size, x: Tensor | None, observed: Tensor | None) -> Tensor:
        """Data, drawn not too many at once."""
        number = shape.numel()
        context = self.context
        if context is not None:
            context = context.expand(shape + self._context_shape).reshape(number, *self._context_shape)
        given = None if x is None else x.reshape(number, self.event_shape.numel())
        pieces = []
        for start in range(0, number, _DRAWN_AT_ONCE):
            rows = slice(start, min(start + _DRAWN_AT_ONCE, number))
            pieces.append(
                self._run(
                    rows.stop - rows.start,
                    None if context is None else context[rows],
                    None if given is None else given[rows],
                    observed,
                )
            )
        if not pieces:
            return self._zeros(*shape)
        return torch.cat(pieces).reshape(shape + self.event_shape)

    def _run(
        self, number: int, context: Tensor | None, given: Tensor | None, observed: Tensor | None
    ) -> Tensor:
        """Data (number, elements), drawn from first to last."""
        if self._conditionals is None:
            steps = naive_conditionals(self.network, self._zeros(), number, context, self._order)
        else:
            steps = self._conditionals(number, context)
        values: Values = self._element
        if given is not None and observed is not None:
            values = known_first(given, observed, self._element)
        return drawn_in_order(steps, values, (number, self.event_shape.numel()))

    def _element(self, params: Tensor, index: Tensor) -> Tensor:
        """Draws (n, k) of elements at ``index`` for their outputs (n, num_params, k)."""
        if hasattr(self.observation, "at"):
            return self.observation.at(params, index).sample()
        # A piece of a user's own maps whole data: the other elements are drawn and thrown away.
        whole = params.new_zeros(*params.shape[:2], self.event_shape.numel())
        whole[..., index] = params
        drawn = self.observation(whole.reshape(*params.shape[:2], *self.event_shape)).sample()
        return drawn.flatten(1)[:, index]
