"""The network of NADE: one hidden layer for each element, all with the same weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.nets.flatten import flatten_event
from pyro_dgm.nets.masked import orders_of
from pyro_dgm.shapes import check_event, positive_sizes

_BLOCK = 16  # elements whose hidden layers are computed at once, and then stay in the caches


class SharedWeights(nn.Module):
    r"""Parameters of each element given those before it, by hidden layers that share their weights.

    .. math:: h_t = a\Big(b + C c + \sum_{s < t} W_{o(s)} x_{o(s)}\Big), \qquad
              \theta_{o(t)} = b'_{o(t)} + E_{o(t)} c + V_{o(t)} h_t

    The sums are those of the element before plus one term, so that all D hidden layers of width H take D H additions
    and not D^2 H. The order is saved with the weights: a network that loads some takes theirs.

    Args:
        data_shape: shape of one datum, of D elements.
        num_params: parameters of each element's distribution.
        hidden: width H of the hidden layers.
        activation: makes the elementwise activation layer.
        order: flat positions of the elements from first to last; as they lie by default.
        shuffle: whether the order is random.
        seed: of a random order.
        context_features: size of the context; 0 for none.

    Shape:
        ``x`` (..., *data_shape), ``context`` (..., context_features), output (..., num_params, *data_shape).

    Raises:
        InvalidInput: a size below one, or an order that is no permutation.

    Example:
        >>> SharedWeights((1, 8, 8), 1, hidden=50)(torch.zeros(20, 1, 8, 8)).shape
        torch.Size([20, 1, 1, 8, 8])

    Reference: The neural autoregressive distribution estimator (Larochelle, Murray, 2011).
    """

    order: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        *,
        hidden: int = 500,
        activation: Callable[[], nn.Module] = nn.Sigmoid,
        order: Sequence[int] | Tensor | None = None,
        shuffle: bool = False,
        seed: int = 0,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        self.size = math.prod(self.data_shape)
        self.num_params, self.hidden = positive_sizes((num_params, hidden), "num_params, hidden")
        generator = torch.Generator().manual_seed(seed)
        orders = orders_of(order, self.size, 1, shuffle=shuffle, generator=generator)
        self.register_buffer("order", orders[0])
        self.activation = activation()
        # Row t of each belongs to the element that comes t-th.
        self.weight_in = nn.Parameter(torch.randn(self.size, hidden) / math.sqrt(self.size))
        self.bias_in = nn.Parameter(torch.zeros(hidden))
        self.weight_out = nn.Parameter(torch.randn(self.size, num_params, hidden) / math.sqrt(hidden))
        self.bias_out = nn.Parameter(torch.zeros(self.size, num_params))
        self.context_features = context_features
        self.context_in = nn.Linear(context_features, hidden, bias=False) if context_features else None
        outputs = self.size * num_params
        self.context_out = nn.Linear(context_features, outputs, bias=False) if context_features else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of each element given those before it."""
        flat = flatten_event(x, self.data_shape)
        leading = flat.shape[:-1]
        rows = flat.reshape(math.prod(leading), self.size)[:, self.order]
        known, bias = self._start(len(rows), context)
        outputs = []
        for start in range(0, self.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            x, weight = rows[:, block], self.weight_in[block]
            # Row t of each datum's triangle holds the elements of the block before the t-th: one matrix product.
            before = x.unsqueeze(-2) * x.new_ones(x.shape[1], x.shape[1]).tril(-1)
            h = self.activation((before.flatten(0, 1) @ weight).unflatten(0, x.shape) + known[:, None])
            outputs.append(torch.einsum("nth,tph->ntp", h, self.weight_out[block]))
            known = known + x @ weight
        out = torch.cat(outputs, dim=1) + bias  # (rows, D, num_params)
        out = out[:, self.order.argsort()].movedim(-1, -2)
        return out.reshape((*leading, self.num_params, *self.data_shape))

    def _start(self, rows: int, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sums before any element is known, (rows, hidden), and biases of the outputs, (rows or 1, D, num_params)."""
        if self.context_in is None or self.context_out is None:
            return self.bias_in.expand(rows, -1), self.bias_out.unsqueeze(0)
        assert context is not None
        check_event(context, (self.context_features,), "SharedWeights context")
        context = context.reshape(-1, self.context_features)
        bias = self.context_out(context).reshape(-1, self.size, self.num_params) + self.bias_out
        return (self.bias_in + self.context_in(context)).expand(rows, -1), bias

    def conditionals(
        self, number: int, context: Tensor | None = None
    ) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Parameters of the elements one after the other, all in the time of one pass: see ``Autoregressive``."""
        known, bias = self._start(number, context)
        for place in range(self.size):
            params = self.activation(known) @ self.weight_out[place].T + bias[:, place]
            value = yield self.order[place : place + 1], params.unsqueeze(-1)
            known = known + value * self.weight_in[place]
