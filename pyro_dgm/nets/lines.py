"""The recurrence of LSTMs that go over an image line by line, all places of a line at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def over_lines(gates: Tensor, weight: Tensor, *, before: int) -> Tensor:
    r"""States of an LSTM that goes from line to line and sees, at each place, some places of the line before.

    .. math:: (f, i, o, g)_{t,l} = a_{t,l} + \sum_k h_{t-1, l-b+k} W_k, \quad
              c_{t,l} = \sigma(f) \, c_{t-1,l} + \sigma(i) \tanh(g), \quad h_{t,l} = \sigma(o) \tanh(c_{t,l})

    States are zero before the first line and beyond the ends of a line. The gradient can be taken once only: it is
    written out, in as few products as the states, so that it takes as little time and as small a compiled graph.

    Args:
        gates: what the inputs add to the gates, a, (lines, directions, places, batch, 4 hidden).
        weight: the matrices W one below the other, (directions, taps * hidden, 4 hidden).
        before: number b of taps that lie before a place.

    Returns:
        h, (lines, directions, places, batch, hidden).

    Example:
        >>> over_lines(torch.zeros(8, 2, 5, 3, 16), torch.zeros(2, 3 * 4, 16), before=1).shape
        torch.Size([8, 2, 5, 3, 4])
    """
    places, batch = gates.shape[2:4]
    states: Tensor = _OverLines.apply(gates.flatten(2, 3), weight, before, batch)
    return states.unflatten(2, (places, batch))


def _seen(states: Tensor, taps: int, before: int, batch: int) -> Tensor:
    """States that each place sees, side by side: (..., places * batch, h) to (..., places * batch, taps * h)."""
    rows = states.shape[-2]
    padded = F.pad(states, (0, 0, before * batch, (taps - 1 - before) * batch))
    return torch.cat([padded[..., k * batch : k * batch + rows, :] for k in range(taps)], -1)


class _OverLines(torch.autograd.Function):
    """:func:`over_lines` for (lines, directions, rows, 4 hidden), with places * batch rows."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, weight: Tensor, before: int, batch: int) -> Tensor:
        hidden = gates.shape[-1] // 4
        taps = weight.shape[-2] // hidden
        states: list[Tensor] = []
        saved: list[Tensor] = []
        cell = gates.new_zeros(())
        for sums in gates.unbind():
            if states:
                sums = torch.baddbmm(sums, _seen(states[-1], taps, before, batch), weight)
            kept, let_in, let_out = sums[..., : 3 * hidden].sigmoid().chunk(3, -1)
            new = sums[..., 3 * hidden :].tanh()
            cell = kept * cell + let_in * new
            shown = cell.tanh()
            states.append(let_out * shown)
            saved += [kept, let_in, let_out, new, cell, shown]
        stacked = torch.stack(states)
        ctx.save_for_backward(weight, stacked, *saved)
        ctx.before, ctx.batch = before, batch
        return stacked

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, states, *saved = ctx.saved_tensors
        before, batch = ctx.before, ctx.batch
        hidden, rows = states.shape[-1], states.shape[-2]
        taps = weight.shape[-2] // hidden
        matrices = weight.unflatten(-2, (taps, hidden)).mT.unbind(1)
        lines = [saved[start : start + 6] for start in range(0, len(saved), 6)]
        to_cell = grad.new_zeros(())
        d_sums: list[Tensor] = []  # from the last line to the first
        for t, to_state in reversed(list(enumerate(grad.unbind()))):
            kept, let_in, let_out, new, _, shown = lines[t]
            if d_sums:
                padded = F.pad(d_sums[-1], (0, 0, (taps - 1 - before) * batch, before * batch))
                for k, matrix in enumerate(reversed(matrices)):  # place l is tap k of the place l + b - k
                    to_state = torch.baddbmm(to_state, padded[:, k * batch : k * batch + rows], matrix)
            to_cell = to_cell + to_state * let_out * (1 - shown * shown)
            parts = [
                to_cell * lines[t - 1][4] * kept * (1 - kept) if t else torch.zeros_like(kept),
                to_cell * new * let_in * (1 - let_in),
                to_state * shown * let_out * (1 - let_out),
                to_cell * let_in * (1 - new * new),
            ]
            d_sums.append(torch.cat(parts, -1))
            to_cell = to_cell * kept
        d_gates = torch.stack(d_sums[::-1])
        d_weight = (_seen(states[:-1], taps, before, batch).mT @ d_gates[1:]).sum(0)
        return d_gates, d_weight, None, None
