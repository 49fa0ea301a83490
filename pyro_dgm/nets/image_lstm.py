"""LSTMs over an image: all pixels of a line at once, or one pixel after the other with what is known kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.nets.lines import over_lines
from pyro_dgm.nets.masked_conv import Cursor, MaskedConv2d, channel_groups, check_maps
from pyro_dgm.nets.recurrent import Memory, remember
from pyro_dgm.shapes import positive_sizes


class Kept:
    """What an LSTM over an image keeps of the last two rows while pixels come one after the other.

    Args:
        cursor: the pixel that is being computed.
    """

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._memories: dict[tuple[int, int, int], Memory] = {}
        self._gates: dict[tuple[int, int], Tensor] = {}

    def memory(self, direction: int, row: int, column: int, like: Tensor) -> Memory:
        """The memory of a direction at a place, zero beyond the image; ``like`` (n, hidden)."""
        zero = torch.zeros_like(like)
        return self._memories.get((direction, row % 2, column), Memory(zero, zero))

    def keep(self, direction: int, row: int, column: int, memory: Memory) -> None:
        """Keeps the memory of a direction at a place."""
        self._memories[direction, row % 2, column] = memory

    def gates(self, row: int, column: int) -> Tensor:
        """What :meth:`keep_gates` was given there."""
        return self._gates[row % 2, column]

    def keep_gates(self, row: int, column: int, gates: Tensor) -> None:
        """Keeps what an input adds to the gates of a direction that cannot go on yet."""
        self._gates[row % 2, column] = gates


class ImageLSTM(nn.Module, ABC):
    """An LSTM over the lines of an image, at each pixel of which it sees pixels up to that one only; abstract.

    Feature map j of the input, of each gate and of the output belongs to channel group j % num_groups. What the
    input at a pixel adds to the gates is masked (mask B); the states before it are of earlier pixels, so that nothing
    is masked there.

    Args:
        hidden: feature maps h of the state; the input has 2h.
        num_groups: channels of the data.
        directions: number of ways in which the lines are gone through, each with its own weights.
        kernel_size: width of the masked convolution of a row of the input, odd.
        taps: number of places of the line before that a place sees.
        before: how many of them lie before the place.

    Shape:
        ``x`` (N, 2 hidden, H, W); ``added`` to the gates (N, num_gates, 1, 1) or (N, num_gates, H, W); output
        (N, hidden, H, W). With ``kept``, what stands at one pixel: ``x`` (N, 2 hidden, 1, 1), output (N, hidden, 1, 1).

    Raises:
        InvalidInput: a size below one, an even kernel, or fewer feature maps than groups.
    """

    def __init__(
        self, hidden: int, num_groups: int, *, directions: int, kernel_size: int, taps: int, before: int
    ) -> None:
        super().__init__()
        self.hidden, self.num_groups = positive_sizes((hidden, num_groups), "hidden, num_groups")
        check_maps(hidden, num_groups, "hidden")
        self.directions, self.before = directions, before
        self.num_gates = 4 * hidden * directions
        self.gates = MaskedConv2d(
            2 * hidden,
            self.num_gates,
            (1, kernel_size),
            strict=False,
            in_groups=channel_groups(2 * hidden, num_groups),
            out_groups=channel_groups(hidden, num_groups).repeat(4 * directions),
        )
        bound = 1 / math.sqrt(taps * hidden)
        self.of_states = nn.Parameter(
            torch.empty(directions, taps * hidden, 4 * hidden).uniform_(-bound, bound)
        )

    def forward(self, x: Tensor, added: Tensor | None = None, kept: Kept | None = None) -> Tensor:
        """States at all pixels, or at the pixel of the cursor of what is kept, after all before it."""
        cursor = None if kept is None else kept.cursor
        gates = self.gates(x, cursor)
        if added is not None:
            gates = gates + (added if cursor is None else cursor.cut(added))
        if kept is not None:
            return self._at(gates.flatten(1), kept)[..., None, None]
        # Features lie side by side from here on, so that what is moved is moved in blocks.
        lines = self._lines(gates.unflatten(1, (self.directions, 4 * self.hidden)).permute(1, 3, 4, 0, 2))
        image = self._image(over_lines(lines, self.of_states.to(lines.dtype), before=self.before))
        return image.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)

    def _step(
        self,
        sums: Tensor,
        place: tuple[int, int],
        seen: Sequence[tuple[int, int]],
        own: int,
        kept: Kept,
        direction: int,
    ) -> Tensor:
        """State at a place that sees those at others, the cell of one of which it goes on with."""
        like = sums[:, : self.hidden]
        memories = [kept.memory(direction, *one, like) for one in seen]
        sums = sums + torch.cat([memory.h for memory in memories], -1) @ self.of_states[direction]
        memory = remember(sums, memories[own].cell, -1)
        kept.keep(direction, *place, memory)
        return memory.h

    @abstractmethod
    def _at(self, gates: Tensor, kept: Kept) -> Tensor:
        """States (n, hidden) at the cursor's pixel for what the inputs add to its gates, (n, num_gates)."""

    @abstractmethod
    def _lines(self, gates: Tensor) -> Tensor:
        """Gates (directions, H, W, batch, maps) to (lines, directions, places, batch, maps)."""

    @abstractmethod
    def _image(self, states: Tensor) -> Tensor:
        """States (lines, directions, places, batch, hidden) to one image of them, (H, W, batch, hidden)."""
