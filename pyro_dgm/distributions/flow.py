"""The distribution of what a bijection makes of draws of another distribution."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.transforms import Bijection
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import check_event


class FlowDistribution(TorchDistribution):
    r"""The distribution of :math:`y = f(x; c)` with :math:`x \sim p_0`, by the change of variables.

    .. math:: \log p(y \mid c) = \log p_0(f^{-1}(y; c)) + \log |\det \partial f^{-1}(y; c) / \partial y|

    Value and log-determinant come from one pass of the networks. The density of a tensor that :meth:`rsample` has
    just made uses the draw it came from, so that a guide needs no inverse; once that tensor, its context or a parameter
    of the map is written to (but through ``.data``, which torch does not count), it is computed anew.

    Args:
        base: the distribution of x, of event shape ``bijection.event_shape``.
        bijection: the map from x to y.
        context: what is conditioned on, (*batch_shape, *bijection.context_shape).
        validate_args: check values; Pyro's global setting if None.

    Raises:
        InvalidInput: a base of another event shape, or one whose batch shape does not fit the contexts.
        IncompatibleModel: a context that is missing or not taken.

    Example:
        >>> import pyro.distributions as dist
        >>> from pyro_dgm.distributions.transforms import Coupling
        >>> base = dist.Normal(torch.zeros(4), 1.0).to_event(1)
        >>> p = FlowDistribution(base, Coupling([True, True, False, False]))
        >>> p.log_prob(p.rsample((10,))).shape
        torch.Size([10])

    Reference: Normalizing flows for probabilistic modeling and inference (Papamakarios, Nalisnick, Rezende, Mohamed,
        Lakshminarayanan, 2021).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        base: Any,
        bijection: Bijection,
        context: Tensor | None = None,
        *,
        validate_args: bool | None = None,
    ) -> None:
        bijection.check_context(context)
        if tuple(base.event_shape) != bijection.event_shape:
            raise InvalidInput(
                "a base of another event shape",
                where="base",
                value=tuple(base.event_shape),
                expected=f"{bijection.event_shape}, as {type(bijection).__name__} takes",
            )
        batch_shape = base.batch_shape
        if context is not None:
            given = context.shape[: context.dim() - len(bijection.context_shape)]
            try:
                batch_shape = torch.broadcast_shapes(batch_shape, given)
            except RuntimeError:
                expected = f"what broadcasts with {tuple(given)}"
                raise InvalidInput(
                    "other batches than those of the contexts",
                    where="base",
                    value=tuple(batch_shape),
                    expected=expected,
                ) from None
            context = context.expand(batch_shape + bijection.context_shape)
        self.base, self.bijection, self.context = base.expand(batch_shape), bijection, context
        self._drawn: tuple[Tensor, Tensor, Tensor, Any] | None = None
        super().__init__(batch_shape, torch.Size(bijection.out_shape), validate_args=validate_args)

    @property
    def has_rsample(self) -> bool:
        return bool(self.base.has_rsample)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """Where the map takes the support of the base."""
        return self.bijection.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> FlowDistribution:
        """The same distribution with a larger batch shape; contexts share memory."""
        new = self._get_checked_instance(FlowDistribution, _instance)
        batch_shape = torch.Size(batch_shape)
        new.base, new.bijection, new.context = self.base.expand(batch_shape), self.bijection, self.context
        if self.context is not None:
            new.context = self.context.expand(batch_shape + self.bijection.context_shape)
        new._drawn = None
        TorchDistribution.__init__(new, batch_shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws with gradients, (*sample_shape, *batch_shape, *event_shape)."""
        return self._made(self.base.rsample(sample_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws without gradients, (*sample_shape, *batch_shape, *event_shape)."""
        with torch.no_grad():
            return self._made(self.base.sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(y | c), ``value`` (..., *event_shape) to (...)."""
        if self._validate_args:
            self._check_support(value)
        drawn = self._drawn
        if drawn is not None and drawn[0] is value and drawn[3] == self._state(value):
            return self.base.log_prob(drawn[1]) - drawn[2]
        context = self.context
        if context is not None:
            leading = torch.broadcast_shapes(
                value.shape[: value.dim() - len(self.event_shape)], self.batch_shape
            )
            context = context.expand(leading + self.bijection.context_shape)
            value = value.expand(leading + self.event_shape)
        x, log_det = self.bijection.inverse_and_log_det(value, context)
        return self.base.log_prob(x) + log_det if log_det.numel() else log_det  # torch checks no empty batch

    def _check_support(self, value: Tensor) -> None:
        check_event(value, tuple(self.event_shape), "data of a flow")
        codomain = self.bijection.codomain
        if value.numel() == 0:
            return
        if codomain is constraints.real:
            return self._validate_sample(value)
        inside = codomain.check(value)
        if not bool(inside.all()):
            found = value[~inside]
            raise InvalidInput(
                "data outside the support of a flow",
                where="x",
                value=f"{found.flatten()[0].item():.6g}, {len(found)} of {inside.numel()} elements",
                expected=f"{codomain}, what {type(self.bijection).__name__} maps to",
            )

    def _made(self, x: Tensor) -> Tensor:
        y, log_det = self.bijection.forward_and_log_det(x, self.context)
        self._drawn = (y, x, log_det, self._state(y))
        return y

    def _state(self, y: Tensor) -> Any:
        """What changes with a draw and with the map: their tensors, and how often they were written to."""
        if torch.compiler.is_compiling():  # nothing is written to between a draw and its density in one graph
            return None
        tensors = [y, *self.bijection.parameters(), *self.bijection.buffers()]
        tensors += [] if self.context is None else [self.context]
        return torch.is_grad_enabled(), [(id(tensor), tensor._version) for tensor in tensors]
