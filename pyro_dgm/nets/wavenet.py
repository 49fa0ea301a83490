"""The network of WaveNet: gated dilated convolutions, in one pass or one sample after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.causal_conv import CausalConv1d, queue_slots
from pyro_dgm.shapes import check_event, count_in_a_row, positive_sizes

_MOST_DOUBLINGS = 24  # of the dilation


class WaveNetWeights(NamedTuple):
    """The weights of a :class:`WaveNetStack`, all layers side by side, each an affine map of rows: (..., in, out)."""

    first: Tensor  # (1, C), or a row for each level of the input, (levels, C)
    first_bias: Tensor
    past: Tensor  # (L, (k - 1) C, 2 G): of what the queues hold
    present: Tensor  # (L, C, 2 G)
    residual: Tensor  # (L - 1, G, C)
    residual_bias: Tensor
    skip: Tensor  # (L G, S): of all layers at once
    skip_bias: Tensor
    hidden: Tensor  # (S, S)
    hidden_bias: Tensor
    last: Tensor  # (S, num_params)
    last_bias: Tensor


def one_sample(
    weights: WaveNetWeights,
    terms: Tensor,
    queues: Tensor,
    slots: Tensor,
    x: Tensor,
    index: Tensor,
    *,
    product: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Tensor:
    """Parameters (number, num_params) of one sample, from what the layers have kept of those before it.

    Args:
        weights: of the network.
        terms: what is added before the gates: biases and contexts, (L, number or 1, 2 G).
        queues: inputs of the layers in the past, (places, number, C); the earliest make room for the present ones.
        slots: where the inputs are that each layer sees at each time, (T, L, k - 1): see :func:`queue_slots`.
        x: the sample before, (number, 1); any numbers at the first sample.
        index: position of the sample, (1,).
        product: of rows and matrices.
    """
    slots = slots.index_select(0, index).squeeze(0)
    past = queues[slots].movedim(1, 2).flatten(2)  # (L, number, (k - 1) C)
    terms = (
        product(past, weights.past) + terms
    )  # for all layers at once: the present alone waits for those below
    if len(weights.first) == 1:
        h = (2 * x - 1) * weights.first
    else:
        h = weights.first[(x.squeeze(-1) * (len(weights.first) - 1)).round().long()]
    h = torch.where(index > 0, h, 0.0) + weights.first_bias  # nothing comes before the first sample
    inputs, gated = [h], []
    for place, term in enumerate(terms):
        gated.append(_gated(term + product(h, weights.present[place]), dim=-1))
        if place < len(weights.residual):
            h = h + product(gated[-1], weights.residual[place]) + weights.residual_bias[place]
            inputs.append(h)
    queues.index_copy_(0, slots[:, -1], torch.stack(inputs))
    total = product(torch.cat(gated, -1), weights.skip) + weights.skip_bias
    hidden = product(total.relu(), weights.hidden) + weights.hidden_bias
    return product(hidden.relu(), weights.last) + weights.last_bias


def _gated(raw: Tensor, *, dim: int) -> Tensor:
    filtered, gate = raw.chunk(2, dim)
    return filtered.tanh() * gate.sigmoid()


def _affine(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Matrix (in, out) and bias of a convolution of single samples."""
    return layer.get_parameter("weight").squeeze(-1).T.contiguous(), layer.get_parameter("bias")


class WaveNetStack(nn.Module):
    r"""A network from audio to the parameters of each sample given those before it, by stacks of dilated convolutions.

    .. math:: h_0 = W_0 \, e(x_{t-1}), \qquad
              z_l = \tanh(W_l * h_{l-1} + V_l c) \odot \sigma(W'_l * h_{l-1} + V'_l c), \qquad
              h_l = h_{l-1} + R_l z_l

    .. math:: \theta_t = A \, \mathrm{relu}\Big(B \, \mathrm{relu}\Big(\sum_l S_l z_l\Big)\Big)

    The first layer alone is shifted by one; the convolutions * see the present and the past, with the dilations
    1, 2, 4, ..., 2^(num_layers - 1) in each stack. A context is global, one vector c for a whole waveform, or local,
    one vector for each sample; a sample then depends on the vectors up to its own time.

    Args:
        data_shape: (T,), the number of samples that ``conditionals`` gives; a pass takes any length.
        num_params: parameters of each sample's distribution.
        channels: residual channels C.
        gate_channels: channels G of the gated units; C by default.
        skip_channels: channels S of the skip connections; 2 C by default.
        num_layers: layers of a stack.
        num_stacks: number of stacks.
        kernel_size: samples k that each convolution sees, at least 2.
        input_levels: number of levels of x in [0, 1], each of which then has a vector e(x) of C numbers; by default
            e(x) = 2 x - 1.
        context_features: size of a context vector; 0 for none.
        local: whether there is a context vector for each sample.

    Shape:
        ``x`` (..., T), ``context`` (..., context_features) or, if local, (..., context_features, T), output
        (..., num_params, T).

    Raises:
        InvalidInput: a size below one, data with channels, a kernel that sees no past, or a context of another shape.

    Example:
        >>> network = WaveNetStack((1600,), 256, channels=8, num_layers=3, num_stacks=2)
        >>> network(torch.zeros(20, 5, 1600)).shape, network.receptive_field
        (torch.Size([20, 5, 256, 1600]), 15)

    Reference: WaveNet: a generative model for raw audio (van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves,
    Kalchbrenner, Senior, Kavukcuoglu, 2016); Fast WaveNet generation algorithm (Le Paine, Khorrami, Chang, Zhang,
    Ramachandran, Hasegawa-Johnson, Huang, 2016).
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        *,
        channels: int = 32,
        gate_channels: int | None = None,
        skip_channels: int | None = None,
        num_layers: int = 10,
        num_stacks: int = 1,
        kernel_size: int = 2,
        input_levels: int | None = None,
        context_features: int = 0,
        local: bool = False,
    ) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        if len(self.data_shape) != 1:
            raise InvalidInput("more than time", where="data_shape", value=self.data_shape, expected="(T,)")
        if kernel_size < 2:
            raise InvalidInput("no past", where="kernel_size", value=kernel_size, expected="an integer >= 2")
        gates = channels if gate_channels is None else gate_channels
        skips = 2 * channels if skip_channels is None else skip_channels
        count_in_a_row(num_layers * num_stacks, "num_layers * num_stacks")
        if num_layers > _MOST_DOUBLINGS:
            expected = f"at most {_MOST_DOUBLINGS}, the last of which looks {2 ** (_MOST_DOUBLINGS - 1)} samples back"
            raise InvalidInput(
                "a dilation beyond all sound", where="num_layers", value=num_layers, expected=expected
            )
        if input_levels is not None and input_levels < 2:
            raise InvalidInput(
                "too few levels",
                where="input_levels",
                value=input_levels,
                expected="an integer >= 2, or None",
            )
        self.num_params, self.channels, *_ = positive_sizes(
            (num_params, channels, gates, skips), "num_params, channels, gate_channels, skip_channels"
        )
        self.context_features, self.local = context_features, local
        self.embedding = None if input_levels is None else nn.Embedding(input_levels, channels)
        self.first = CausalConv1d(1 if input_levels is None else channels, channels, 1, strict=True)
        dilations = [2**layer for layer in range(num_layers)] * num_stacks
        self.gates = nn.ModuleList(
            CausalConv1d(channels, 2 * gates, kernel_size, dilation=dilation) for dilation in dilations
        )
        self.residuals = nn.ModuleList(nn.Conv1d(gates, channels, 1) for _ in dilations[1:])
        self.skips = nn.ModuleList(nn.Conv1d(gates, skips, 1) for _ in dilations)
        self.contexts = nn.ModuleList(
            nn.Linear(context_features, 2 * gates, bias=False) for _ in dilations if context_features
        )
        self.hidden, self.last = nn.Conv1d(skips, skips, 1), nn.Conv1d(skips, self.num_params, 1)

    @property
    def receptive_field(self) -> int:
        """Number of samples before its own that an output sees: those right before it."""
        return self.first.reach + sum(layer.reach for layer in self._gates())

    def _gates(self) -> list[CausalConv1d]:
        return list(self.gates)  # type: ignore[arg-type]

    def _embedded(self, x: Tensor) -> Tensor:
        """What the first layer sees, (..., T) to (..., 1 or channels, T)."""
        if self.embedding is None:
            return (2 * x - 1).unsqueeze(-2)
        k = (x * (self.embedding.num_embeddings - 1)).round().long()
        return self.embedding(k).movedim(-1, -2)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of each sample given those before it."""
        leading, terms = x.shape[:-1], None
        if self.context_features:
            assert context is not None
            event = (self.context_features, *x.shape[-1:]) if self.local else (self.context_features,)
            check_event(context, event, "WaveNetStack context")
            leading = torch.broadcast_shapes(leading, context.shape[: context.dim() - len(event)])
            x, context = x.expand(*leading, x.shape[-1]), context.expand(*leading, *event)
            rows = context.reshape(math.prod(leading), *event)
            terms = rows.movedim(1, -1) if self.local else rows.unsqueeze(1)  # (rows, T or 1, features)
        h = self.first(self._embedded(x.reshape(math.prod(leading), x.shape[-1])))  # (rows, C, T)
        total: Tensor | float = 0.0
        for place, gate in enumerate(self.gates):
            raw = gate(h)
            if terms is not None:
                raw = raw + self.contexts[place](terms).movedim(-1, 1)
            z = _gated(raw, dim=1)
            total = total + self.skips[place](z)
            if place < len(self.residuals):
                h = h + self.residuals[place](z)
        assert isinstance(total, Tensor)
        out = self.last(self.hidden(total.relu()).relu())
        return out.reshape((*leading, self.num_params, x.shape[-1]))

    def conditionals(
        self, number: int, context: Tensor | None = None, *, step: Callable[..., Tensor] | None = None
    ) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Parameters of the samples one after the other, each layer run once for each: see ``Autoregressive``.

        A ``step`` stands for :func:`one_sample`, such as the same compiled; what it returns is yielded.
        """
        if self.context_features and context is not None:
            event = (self.context_features, *self.data_shape) if self.local else (self.context_features,)
            check_event(context, event, "WaveNetStack context")
        gates, weights = self._gates(), self.weights()
        bias = torch.stack([gate.conv.get_parameter("bias") for gate in gates]).unsqueeze(1)  # (L, 1, 2 G)
        c, matrices = bias.new_zeros(number, 0), bias.new_zeros(len(gates), 0, bias.shape[-1])
        if self.context_features:
            assert context is not None
            c, matrices = context, torch.stack([layer.get_parameter("weight").T for layer in self.contexts])
        slots, places = queue_slots(gates, self.data_shape[0])
        slots = slots.to(bias.device)
        queues, value = bias.new_zeros(places, number, self.channels), bias.new_zeros(number, 1)
        terms = None
        for index in torch.arange(len(slots), device=bias.device).split(1):
            if terms is None or self.local:
                now = c.index_select(-1, index).squeeze(-1) if self.local else c
                terms = bias + now @ matrices  # (L, number, 2 G)
            out = (one_sample if step is None else step)(weights, terms, queues, slots, value, index)
            value = yield index, out.unsqueeze(-1)

    def weights(self) -> WaveNetWeights:
        """The weights as :func:`one_sample` takes them."""
        taps = torch.stack([gate.taps.transpose(-1, -2) for gate in self._gates()])  # (L, k, C, 2 G)
        skips, skip_biases = zip(*map(_affine, self.skips), strict=True)
        residuals = [_affine(layer) for layer in self.residuals]
        first, first_bias = _affine(self.first.conv)
        none = taps.new_zeros(0, len(skips[0]), self.channels)  # a single layer has no residual
        return WaveNetWeights(
            first if self.embedding is None else self.embedding.weight @ first,
            first_bias,
            taps[:, 1:].flatten(1, 2).contiguous(),
            taps[:, 0].contiguous(),
            torch.cat([none, *(matrix.unsqueeze(0) for matrix, _ in residuals)]),
            torch.cat([none[:, 0], *(bias.unsqueeze(0) for _, bias in residuals)]),
            torch.cat(skips),
            torch.stack(skip_biases).sum(0),
            *_affine(self.hidden),
            *_affine(self.last),
        )
