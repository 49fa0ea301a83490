"""Maps of one element after the other, with the parameters of each given those before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.conditionals import drawn_in_order
from pyro_dgm.distributions.numerics import at_least_float32
from pyro_dgm.distributions.transforms.bijection import Bijection, sum_event
from pyro_dgm.distributions.transforms.univariate import Affine, Univariate
from pyro_dgm.nets import MaskedMLP


class MaskedAutoregressive(Bijection):
    r"""The triangular map :math:`y_t = \tau(x_t; \theta_t(x_{<t}, c))`.

    Forward is one pass of a masked network. The inverse goes element by element, but computes each unit of the network
    once, so that it costs as many multiplications as one pass. From noise to data it is the inverse autoregressive
    flow, with fast draws; backwards, by :class:`Inverse`, the masked autoregressive flow, with fast densities.

    Args:
        event_shape: shape of one datum.
        univariate: the map tau of one element; affine by default.
        hidden: widths of the hidden layers.
        activation: makes one elementwise activation layer.
        order: flat positions of the elements from first to last; as they lie by default.
        direct: whether the data are also seen by the outputs directly, as in MADE.
        context_features: size of a context; 0 for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.nets.MaskedMLP`.

    Example:
        >>> import torch
        >>> bijection = MaskedAutoregressive((4,), hidden=(32,))
        >>> y, log_det = bijection.forward_and_log_det(torch.randn(10, 4))
        >>> y.shape, log_det.shape
        (torch.Size([10, 4]), torch.Size([10]))

    Reference:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever and Welling, "Improved variational inference with inverse
        autoregressive flow", 2016.
        Papamakarios, Pavlakou and Murray, "Masked autoregressive flow for density estimation", 2017.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        univariate: Univariate | None = None,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Callable[[], nn.Module] = nn.ReLU,
        order: Sequence[int] | Tensor | None = None,
        direct: bool = True,
        context_features: int = 0,
    ) -> None:
        super().__init__(event_shape, context_shape=(context_features,) if context_features else ())
        self.univariate = Affine() if univariate is None else univariate
        self.network = MaskedMLP(
            self.event_shape,
            self.univariate.num_params,
            hidden=hidden,
            activation=activation,
            order=order,
            direct=direct,
            context_features=context_features,
        )
        with torch.no_grad():  # near the identity
            self.network.out.weight.mul_(0.1)
            self.network.out.bias.zero_()
            if self.network.context_out is not None:
                self.network.context_out.weight.mul_(0.1)

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        y, log_slopes = self.univariate.forward_and_log_slope(x, self._params(x, context))
        return y, sum_event(log_slopes, self.event_shape)

    @torch.compiler.disable  # torch.compile would unroll it, element by element
    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        leading = y.shape[: y.dim() - len(self.event_shape)]
        flat = y.reshape(leading.numel(), self.network.size)  # (n, D)
        if context is not None:
            context = context.expand(*leading, *self.context_shape).reshape(len(flat), *self.context_shape)

        found: list[Tensor] = []

        def values(params: Tensor, index: Tensor) -> Tensor:
            params = at_least_float32(params).movedim(-2, -1)
            x, log_slope = self.univariate.inverse_and_log_slope(flat[:, index], params)
            found.append(log_slope)
            return x

        x = drawn_in_order(self.network.conditionals(len(flat), context), values, (len(flat), flat.shape[1]))
        log_det = torch.stack([log_slope.sum(-1) for log_slope in found]).sum(0)
        return x.reshape(y.shape), log_det.reshape(leading)

    def _params(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Parameters of each element, (..., *event_shape, num_params)."""
        return at_least_float32(self.network(x, context)).movedim(-1 - len(self.event_shape), -1)
