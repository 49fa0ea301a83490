"""The masked multilayer perceptron of MADE."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.flatten import flatten_event
from pyro_dgm.nets.masked import Block, MaskedLinear, causal_mask, degrees_of, orders_of, row_blocks
from pyro_dgm.shapes import check_event, positive_sizes


class MaskedMLP(nn.Module):
    r"""A network from data to the parameters of each element given those before it, in one pass.

    .. math:: h_1 = a(M_1 \odot W_1 x + C c + b_1), \quad h_l = a(M_l \odot W_l h_{l-1} + b_l), \quad
              \theta = M_{L+1} \odot V h_L + M_0 \odot A x + E c + b

    with the masks of :func:`~pyro_dgm.nets.masked.causal_mask`, the last two strict. With one mask the hidden degrees
    are spread evenly, which lets each element see all before it; with several each is drawn uniformly, the elements'
    order too with ``shuffle``. Under masks so different deep networks learn slowly: less ``degree_noise`` lets a unit
    see about as much under each. A context c is seen by everything; hidden units of degree 0 see nothing else. Orders
    and masks are saved with the weights: a network that loads some takes theirs.

    Args:
        data_shape: shape of one datum, of D elements.
        num_params: parameters of each element's distribution.
        hidden: widths of the hidden layers; none leaves logistic (or other generalised linear) regressions.
        activation: makes one elementwise activation layer.
        order: flat positions of the elements from first to last; as they lie by default.
        num_masks: number M of masks.
        shuffle: whether the order is random, another for each mask.
        num_orders: with ``shuffle``, the number of orders that the masks take in turn; M by default.
        degree_noise: weight of a uniform draw in a hidden degree, 0 to 1; the rest is that of an even spread. By
            default 0 with one mask and 1 with several.
        seed: of what is drawn at random.
        direct: whether there are weights A from data to outputs.
        context_features: size of the context; 0 for none.

    Shape:
        ``x`` (..., *data_shape), ``context`` (..., context_features), output (..., num_params, *data_shape).

    Raises:
        InvalidInput: a size below one, an order that is no permutation, more orders than masks, a degree_noise
            outside [0, 1], or, without direct weights, a hidden layer that is too narrow for each element to see the
            one before it.

    Example:
        >>> network = MaskedMLP((1, 8, 8), 1, hidden=(100,))
        >>> network(torch.zeros(50, 20, 1, 8, 8)).shape
        torch.Size([50, 20, 1, 1, 8, 8])

    Reference: MADE: masked autoencoder for distribution estimation (Germain, Gregor, Murray, Larochelle, 2015).
    """

    orders: Tensor

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        *,
        hidden: Sequence[int] = (500,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        order: Sequence[int] | Tensor | None = None,
        num_masks: int = 1,
        shuffle: bool = False,
        num_orders: int | None = None,
        degree_noise: float | None = None,
        seed: int = 0,
        direct: bool = True,
        context_features: int = 0,
    ) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        self.size = math.prod(self.data_shape)
        hidden = positive_sizes(hidden, "hidden")
        (self.num_params,) = positive_sizes((num_params,), "num_params")
        (self.num_masks,) = positive_sizes((num_masks,), "num_masks")
        if not hidden and not direct:
            raise InvalidInput("no layers", where="hidden", expected="a width, or direct=True")
        least = 0 if context_features else 1
        if not direct and min(hidden) < self.size - least:  # one unit for each degree
            raise InvalidInput(
                "a hidden layer too narrow for its masks",
                where="hidden",
                value=hidden,
                expected=f"{self.size - least} units or more, so that each element can see the one before it",
                cure="direct=True, by which it sees it without them",
            )
        noise = float(num_masks > 1) if degree_noise is None else degree_noise
        if not 0 <= noise <= 1:
            raise InvalidInput("no share of noise", where="degree_noise", value=noise, expected="0 to 1")
        generator = torch.Generator().manual_seed(seed)
        if num_orders is not None and not (shuffle and 1 <= num_orders <= num_masks):
            expected = f"1 to {num_masks}, one for each mask, and shuffle=True"
            raise InvalidInput(
                "a wrong number of orders", where="num_orders", value=num_orders, expected=expected
            )
        orders = orders_of(order, self.size, num_orders or num_masks, shuffle=shuffle, generator=generator)
        self.register_buffer("orders", orders[torch.arange(num_masks) % len(orders)])
        degrees = degrees_of(self.orders)  # (masks, D)
        self.register_buffer("degrees_0", degrees)
        for place, width in enumerate(hidden, start=1):
            below = self._degrees(place - 1).amin(-1) if place > 1 else torch.full((num_masks,), least)
            drawn = _hidden_degrees(width, self.size, below, noise, generator)
            self.register_buffer(f"degrees_{place}", drawn)
        widths, outputs = (self.size, *hidden), self.size * self.num_params
        self.hidden = nn.ModuleList(MaskedLinear(a, b) for a, b in pairwise(widths))
        self.activations = nn.ModuleList(activation() for _ in hidden)
        self.out = MaskedLinear(widths[-1], outputs)
        self.direct = MaskedLinear(self.size, outputs, bias=False) if direct and hidden else None
        nn.init.zeros_(
            (self.direct or self.out).weight
        )  # an element that never changes in the data has no say
        self.context_features = context_features
        self.context_in = self.context_out = None
        if context_features:
            self.context_out = nn.Linear(context_features, outputs, bias=False)
            if hidden:
                self.context_in = nn.Linear(context_features, hidden[0], bias=False)
        self._keep_masks()
        self.register_load_state_dict_post_hook(_keep_masks_of_what_was_loaded)

    def _keep_masks(self) -> None:
        """Keeps the masks of the layers where there is one of each, in the order of :meth:`_masks`."""
        self.blocks: list[list[Block]] = []
        if self.num_masks == 1:
            hidden, last, direct = self._made_masks(0)
            for place, mask in enumerate([*hidden, last, direct]):
                self.register_buffer(f"mask_{place}", mask.to(self.out.weight.dtype), persistent=False)
                self.blocks.append(row_blocks(mask))

    def _degrees(self, place: int) -> Tensor:
        """Degrees of the units of a layer, (masks, units); the data are layer 0."""
        return self.get_buffer(f"degrees_{place}")

    def _masks(self, which: Tensor | int) -> tuple[list[Tensor], Tensor, Tensor]:
        """Masks of the hidden layers, of the outputs and of the direct weights."""
        if self.blocks and (not isinstance(which, int) or which == 0):
            kept = [self.get_buffer(f"mask_{place}") for place in range(len(self.blocks))]
            return kept[:-2], kept[-2], kept[-1]
        return self._made_masks(which)

    def _made_masks(self, which: Tensor | int) -> tuple[list[Tensor], Tensor, Tensor]:
        which = torch.as_tensor(which, device=self.orders.device).reshape(1)
        degrees = [self._degrees(place).index_select(0, which)[0] for place in range(len(self.hidden) + 1)]
        outputs = degrees[0].repeat(self.num_params)
        hidden = [causal_mask(below, above, strict=False) for below, above in pairwise(degrees)]
        last, direct = (causal_mask(below, outputs, strict=True) for below in (degrees[-1], degrees[0]))
        return hidden, last, direct

    def forward(self, x: Tensor, context: Tensor | None = None, *, which: Tensor | int = 0) -> Tensor:
        """Parameters of each element given those before it, under the mask of this number."""
        data = h = flatten_event(x, self.data_shape)
        masks, last, direct = self._masks(which)
        *blocks, blocks_last, blocks_direct = self.blocks or [[] for _ in range(len(masks) + 2)]
        in_hidden, in_outputs = self._added(context)
        for place, (layer, mask) in enumerate(zip(self.hidden, masks, strict=True)):
            h = layer(h, mask, blocks[place])
            h = self.activations[place](h if place or in_hidden is None else h + in_hidden)
        out = self.out(h, last, blocks_last)
        out = out if in_outputs is None else out + in_outputs
        if self.direct is not None:
            out = out + self.direct(data, direct, blocks_direct)
        return out.reshape((*out.shape[:-1], self.num_params, *self.data_shape))

    def _added(self, context: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """What a context adds to the first hidden layer and to the outputs; None for nothing."""
        if self.context_out is None:
            return None, None
        assert context is not None
        check_event(context, (self.context_features,), "MaskedMLP context")
        return None if self.context_in is None else self.context_in(context), self.context_out(context)

    def conditionals(
        self, number: int, context: Tensor | None = None, *, which: int = 0
    ) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Parameters of the elements one after the other, each weight used once: see ``Autoregressive``.

        A hidden unit of degree d is computed once, as soon as the d-th element is known, and added to what comes
        after it. All elements together take as many multiplications as one pass.
        """
        masks, last, direct = self._masks(which)
        layers = [layer for layer in (*self.hidden, self.out) if isinstance(layer, MaskedLinear)]
        weights = [layer.weight * mask for layer, mask in zip(layers, [*masks, last], strict=True)]
        sums = [layer.bias.expand(number, -1).clone() for layer in layers]  # before the activations
        in_hidden, in_outputs = self._added(context)
        for place, added in ((0, in_hidden), (-1, in_outputs)):
            if added is not None:
                sums[place] += added
        weight_direct = None if self.direct is None else self.direct.weight * direct
        units = [_by_degree(self._degrees(place + 1)[which], self.size) for place in range(len(self.hidden))]
        for degree in range(self.size):  # of the elements known so far
            for place, groups in enumerate(units):
                group = groups[degree]
                if len(group):
                    h = self.activations[place](sums[place][:, group])
                    sums[place + 1] += h @ weights[place + 1][:, group].T
            index = self.orders[which, degree : degree + 1]
            value = yield index, sums[-1].reshape(number, self.num_params, self.size)[..., index]
            sums[0] += value @ weights[0][:, index].T
            if weight_direct is not None:
                sums[-1] += value @ weight_direct[:, index].T


def _keep_masks_of_what_was_loaded(network: MaskedMLP, _: object) -> None:
    network._keep_masks()


def _hidden_degrees(width: int, size: int, below: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Degrees of the units of a hidden layer, (masks, width), from the least of the layer below up to size - 1."""
    found = []
    for lowest in below.tolist():
        number = max(size - lowest, 1)
        drawn = lowest + torch.randint(number, (width,), generator=generator)
        evenly = lowest + torch.arange(width) * number // width
        found.append((noise * drawn + (1 - noise) * evenly).round().long())
    return torch.stack(found)


def _by_degree(degrees: Tensor, size: int) -> list[Tensor]:
    """Units of each degree, 0 to size - 1."""
    order = degrees.argsort(stable=True)
    return list(order.split(torch.bincount(degrees, minlength=size).tolist()))
