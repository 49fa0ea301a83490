"""Transforms of torch and Pyro, used as maps here."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_dgm.distributions.transforms.bijection import Bijection, without_inverse
from pyro_dgm.errors import InvalidInput


class TorchTransform(Bijection):
    """A ``torch.distributions.Transform``, Pyro's among them; its parameters are trained if it is a module.

    Some of Pyro's are wrong or lack an inverse: Sylvester's log-determinant, splines' inverses in float32, the inverses
    of planar and radial maps. Those of here replace them.

    Args:
        transform: the transform, which keeps no cache here.
        event_shape: shape of one x.
        out_shape: shape of one y; that of x by default.

    Raises:
        InvalidInput: a transform of events of another number of dimensions.
        IncompatibleModel: when its inverse is asked for, and it has none.

    Example:
        >>> import torch
        >>> import pyro.distributions.transforms as T
        >>> coupling = TorchTransform(T.affine_coupling(4), (4,))
        >>> y, log_det = coupling.forward_and_log_det(torch.randn(10, 4))
        >>> y.shape, log_det.shape
        (torch.Size([10, 4]), torch.Size([10]))
    """

    def __init__(
        self,
        transform: Transform,
        event_shape: Sequence[int],
        *,
        out_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(event_shape, out_shape=out_shape)
        if transform.domain.event_dim > len(self.event_shape):
            raise InvalidInput(
                "a transform of larger events",
                where="transform",
                value=f"{type(transform).__name__}, {transform.domain.event_dim} dimensions",
                expected=f"at most {len(self.event_shape)}",
            )
        # Pyro's transforms of modules are modules, and with_cache would make another of one.
        self.module = transform if isinstance(transform, nn.Module) else None
        self._transform = (transform,)

    @property
    def transform(self) -> Transform:
        """The transform, without what it remembers."""
        found: Transform = self._transform[0] if self.module is None else self.module  # a copy has a copy
        found._cached_x_y = None, None
        return found

    @property
    def codomain(self) -> constraints.Constraint:
        codomain = self.transform.codomain
        return getattr(codomain, "base_constraint", codomain)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        transform = self.transform
        y = transform(x)
        return y, self._total(transform.log_abs_det_jacobian(x, y))

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        transform = self.transform
        try:
            x = transform.inv(y)
        except (NotImplementedError, KeyError) as problem:  # Pyro's planar maps look into a cache
            raise without_inverse(transform) from problem
        return x, -self._total(transform.log_abs_det_jacobian(x, y))

    def _total(self, log_det: Tensor) -> Tensor:
        """The log-determinant of one event, from that of what the transform takes for one."""
        rest = len(self.event_shape) - self.transform.domain.event_dim
        return log_det.flatten(log_det.dim() - rest).sum(-1) if rest else log_det
