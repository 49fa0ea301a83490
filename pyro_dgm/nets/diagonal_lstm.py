"""The diagonal bidirectional LSTM, which sees everything above and beside a pixel that comes before it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from pyro_dgm.nets.image_lstm import ImageLSTM, Kept


def skew(image: Tensor) -> Tensor:
    """Row r moved r places to the right, so that column d holds the diagonal of pixels (r, d - r), and zeros.

    Args:
        image: (H, W, features).

    Returns:
        (H, H + W - 1, features).

    Example:
        >>> skew(torch.tensor([[1, 2, 3], [4, 5, 6]])[..., None])[..., 0]
        tensor([[1, 2, 3, 0],
                [0, 4, 5, 6]])
    """
    height, width = image.shape[:2]
    # Rows that are one place too long, read as rows of the right length, begin one place later each.
    flat = F.pad(image, (0, 0, 0, height)).flatten(0, 1)
    return flat[:-height].unflatten(0, (height, width + height - 1))


def unskew(skewed: Tensor) -> Tensor:
    """The image that :func:`skew` made this of: (H, H + W - 1, features) to (H, W, features).

    Args:
        skewed: (H, H + W - 1, features).

    Example:
        >>> unskew(torch.tensor([[1, 2, 3, 0], [0, 4, 5, 6]])[..., None])[..., 0]
        tensor([[1, 2, 3],
                [4, 5, 6]])
    """
    height, length = skewed.shape[:2]
    flat = F.pad(skewed.flatten(0, 1), (0, 0, 0, height))
    return flat.unflatten(0, (height, length + 1))[:, : length + 1 - height]


def moved_down(image: Tensor) -> Tensor:
    """The image one row lower, under a row of zeros and without its last: (H, W, features) to the same shape.

    Args:
        image: (H, W, features).

    Example:
        >>> moved_down(torch.tensor([[1, 2], [3, 4]])[..., None])[..., 0]
        tensor([[0, 0],
                [1, 2]])
    """
    return F.pad(image[:-1], (0, 0, 0, 0, 1, 0))


class DiagonalBiLSTM(ImageLSTM):
    r"""Two LSTMs that go over an image along its diagonals, from the upper left and from the upper right corner.

    .. math:: (f, i, o, g)_{r,c} = K_1^{ss} h_{r-1,c} + K_2^{ss} h_{r,c-1} + K^{is} x_{r,c}, \qquad
              y_{r,c} = h^{\rightarrow}_{r,c} + h^{\leftarrow}_{r-1,c}

    then as in any LSTM, with c + 1 in the place of c - 1 for the second. The pixels of a diagonal are computed at
    once: the image is skewed, so that they make a column. The second's states are moved down by one row before they
    are added, since those of the pixel's own row depend on the pixels right of it. The sum at (r, c) depends on row
    r up to column c and on all rows above.

    Args:
        hidden: feature maps h of each state; the input has 2h.
        num_groups: channels of the data; feature map j belongs to channel j % num_groups.

    Shape:
        ``x`` (N, 2 hidden, H, W); ``added`` to the gates of both (N, 8 hidden, 1, 1) or (N, 8 hidden, H, W); output
        (N, hidden, H, W).

    Raises:
        InvalidInput: a size below one, or fewer feature maps than groups.

    Example:
        >>> DiagonalBiLSTM(16, 1)(torch.zeros(50, 32, 8, 8)).shape
        torch.Size([50, 16, 8, 8])

    Reference: Pixel recurrent neural networks (van den Oord, Kalchbrenner, Kavukcuoglu, 2016), section 3.2.
    """

    def __init__(self, hidden: int, num_groups: int) -> None:
        super().__init__(hidden, num_groups, directions=2, kernel_size=1, taps=2, before=1)

    def _lines(self, gates: Tensor) -> Tensor:
        to_right, to_left = gates.flatten(3)
        # Gates are zero beside the image, and with them the states: what goes on at its edges is zero.
        skewed = [skew(to_right), skew(to_left.flip(1))]
        lines = torch.stack([image.transpose(0, 1) for image in skewed], 1)
        return lines.unflatten(-1, gates.shape[3:])

    def _image(self, states: Tensor) -> Tensor:
        to_right, to_left = (unskew(one.transpose(0, 1).flatten(2)) for one in states.unbind(1))
        return (to_right + moved_down(to_left.flip(1))).unflatten(-1, states.shape[3:])

    def _at(self, gates: Tensor, kept: Kept) -> Tensor:
        row, column = kept.cursor.row, kept.cursor.columns.start
        to_right, to_left = gates.chunk(2, -1)
        kept.keep_gates(row, column, to_left)
        if column == 0 and row > 0:  # the row above is known as a whole now
            for c in reversed(range(kept.cursor.width)):
                seen = [(row - 2, c), (row - 1, c + 1)]
                self._step(kept.gates(row - 1, c), (row - 1, c), seen, 1, kept, 1)
        seen = [(row - 1, column), (row, column - 1)]
        state = self._step(to_right, (row, column), seen, 1, kept, 0)
        return state + kept.memory(1, row - 1, column, state).h
