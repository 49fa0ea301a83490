"""Transforms of torch and Pyro, used as maps here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.distributions import Transform, constraints

from pyro_dgm.distributions.transforms.bijection import Bijection, without_inverse
from pyro_dgm.errors import InvalidInput


class TorchTransform(Bijection):
    """A ``torch.distributions.Transform``, Pyro's among them, whose modules are trained.

    Some of Pyro's are wrong or lack an inverse: Sylvester's log-determinant, splines' inverses in float32, the inverses
    of planar and radial maps. Those of here replace them.

    Args:
        transform: the transform, which keeps nothing between calls here.
        event_shape: shape of one x.
        out_shape: shape of one y; that of x by default.

    Raises:
        InvalidInput: a transform of events of more dimensions, or one with parameters that no module of it holds.
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
        self._transform = (transform,)  # hidden from the module, which registers those inside by themselves
        inside = list(_inside(transform))
        self.held = nn.ModuleList(part for part in inside if isinstance(part, nn.Module))
        for part in inside:
            loose = [] if isinstance(part, nn.Module) else list(vars(part).items())
            for name, value in loose:
                if isinstance(value, Tensor) and value.requires_grad:
                    raise InvalidInput(
                        "a parameter that nothing trains",
                        where=f"{type(part).__name__}.{name}",
                        expected="parameters of a transform that is a module",
                        cure="a map of pyro_dgm.distributions.transforms",
                    )

    @property
    def codomain(self) -> constraints.Constraint:
        codomain: constraints.Constraint = self._transform[0].codomain
        while isinstance(codomain, constraints.independent):
            codomain = codomain.base_constraint
        return codomain

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        transform = self._forgotten()
        y = transform(x)
        log_det = transform.log_abs_det_jacobian(x, y)
        self._forgotten()
        return y, self._total(log_det)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        transform = self._forgotten()
        try:
            x = transform.inv(y)
        except (NotImplementedError, KeyError) as problem:  # Pyro's planar maps look into a cache
            raise without_inverse(transform, problem) from problem
        log_det = transform.log_abs_det_jacobian(x, y)
        self._forgotten()
        return x, -self._total(log_det)

    def _forgotten(self) -> Transform:
        """The transform, and all in it, without what they remember: values of old parameters, with their graphs."""
        for part in _inside(self._transform[0]):
            for name in [name for name in vars(part) if name.startswith("_cached")]:
                setattr(part, name, (None, None) if name == "_cached_x_y" else None)
        return self._transform[0]

    def _total(self, log_det: Tensor) -> Tensor:
        """The log-determinant of one event, from that of what the transform takes for one."""
        rest = len(self.event_shape) - self._transform[0].domain.event_dim
        return log_det.flatten(log_det.dim() - rest).sum(-1) if rest else log_det


def _inside(transform: Transform) -> Iterator[Transform]:
    """A transform and those that it is made of, each once."""
    found: list[Transform] = []
    waiting = [transform]
    while waiting:
        part = waiting.pop()
        if any(part is known for known in found):
            continue
        found.append(part)
        inner = [getattr(part, name, None) for name in ("_inv", "base_transform")]
        inner += [*getattr(part, "parts", ()), *getattr(part, "transforms", ())]
        waiting += [one for one in inner if isinstance(one, Transform)]
    yield from found
