"""Couplings: some elements stay as they are and say how the others are mapped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32
from pyro_dgm.distributions.transforms.bijection import Bijection, sum_event
from pyro_dgm.distributions.transforms.univariate import Affine, Univariate
from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets import MLP


class Coupling(Bijection):
    r"""The map :math:`y_A = x_A, \; y_B = \tau(x_B; \theta(x_A, c))` of two sets A and B of elements.

    Both ways take one pass of the network, which may be any.

    Args:
        kept: boolean mask, (n,), true for A, along the first dimension of an event: elements of a vector, or channels.
        univariate: the map tau of one element; affine by default.
        network: from x_A (..., |A|, ...), with the context beside it where there is one, to the parameters
            (..., num_params, |B|, ...); a multilayer perceptron by default, for vectors.
        hidden: widths of the hidden layers of the default network.
        activation: makes one activation layer of the default network.
        event_shape: shape of one datum; (n,) by default.
        context_features: size of a context; 0 for none.

    Raises:
        InvalidInput: a mask with nothing on one side, or no network for more than vectors.

    Example:
        >>> coupling = Coupling([True, True, False, False], hidden=(32,))
        >>> x = torch.randn(10, 4)
        >>> y, log_det = coupling.forward_and_log_det(x)
        >>> torch.equal(y[:, :2], x[:, :2]), log_det.shape
        (True, torch.Size([10]))

    Reference:
        Dinh, Krueger and Bengio, "NICE: non-linear independent components estimation", 2015.
        Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017.
    """

    a: Tensor
    b: Tensor

    def __init__(
        self,
        kept: Sequence[bool] | Tensor,
        univariate: Univariate | None = None,
        *,
        network: nn.Module | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        event_shape: Sequence[int] | None = None,
        context_features: int = 0,
    ) -> None:
        kept = torch.as_tensor(kept)
        shape = tuple(kept.shape) if event_shape is None else tuple(event_shape)
        super().__init__(shape, context_shape=(context_features,) if context_features else ())
        require_both(kept, shape[:1])
        self.register_buffer("a", kept.nonzero().squeeze(-1))
        self.register_buffer("b", (~kept).nonzero().squeeze(-1))
        self.univariate = Affine() if univariate is None else univariate
        if network is None:
            if len(shape) > 1:
                raise InvalidInput(
                    "no network", where="network", value="None", expected=f"one for data {shape}"
                )
            outputs = (len(self.b), self.univariate.num_params)
            mlp = MLP(len(self.a) + context_features, hidden, outputs, activation=activation)
            with torch.no_grad():
                [*mlp.parameters()][-2].mul_(0.1)  # near the identity
            network = nn.Sequential(mlp, _ParamsFirst())
        self.network = network

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._mapped(x, context, self.univariate.forward_and_log_slope)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._mapped(y, context, self.univariate.inverse_and_log_slope)

    def _mapped(
        self, x: Tensor, context: Tensor | None, univariate: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        dim = x.dim() - len(self.event_shape)
        kept, changed = x.index_select(dim, self.a), x.index_select(dim, self.b)
        params = self.network(kept if context is None else beside(kept, context, len(self.event_shape)))
        params = at_least_float32(params).movedim(-1 - len(self.event_shape), -1)
        y, log_slopes = univariate(changed, params)
        back = torch.cat([self.a, self.b]).argsort()
        return torch.cat([kept, y], dim).index_select(dim, back), sum_event(log_slopes, self.event_shape)


class _ParamsFirst(nn.Module):
    """From (..., elements, num_params), which lie in memory as univariate maps read them, to the order of networks."""

    def forward(self, params: Tensor) -> Tensor:
        return params.movedim(-1, -2)


def beside(x: Tensor, context: Tensor, dims: int) -> Tensor:
    """Data with ``dims`` event dimensions and, as more elements or as more channels that are constant, contexts."""
    context = context.reshape(*context.shape, *(1,) * (dims - 1))
    leading = torch.broadcast_shapes(x.shape[: x.dim() - dims], context.shape[: context.dim() - dims])
    context = context.expand(*leading, context.shape[-dims], *x.shape[x.dim() - dims + 1 :])
    return torch.cat([x.expand(*leading, *x.shape[x.dim() - dims :]), context], -dims)


def require_both(kept: Tensor, shape: Sequence[int]) -> None:
    """Raises InvalidInput unless ``kept`` is a boolean mask of this shape with elements on both sides."""
    if kept.dtype != torch.bool or kept.shape != torch.Size(shape) or bool(kept.all() | ~kept.any()):
        raise InvalidInput(
            "no coupling",
            where="kept",
            value=f"{kept.dtype} {tuple(kept.shape)}, {int(kept.sum())} kept",
            expected=f"booleans {tuple(shape)}, some true and some false",
        )
