"""The LSTM that goes down an image row by row, all pixels of a row at once."""

from __future__ import annotations

from torch import Tensor

from pyro_dgm.nets.image_lstm import ImageLSTM, Kept


class RowLSTM(ImageLSTM):
    r"""An LSTM that goes down an image row by row and sees, at each pixel, the states around the one above it.

    .. math:: (f, i, o, g)_r = K^{ss} * h_{r-1} + K^{is} * x_r

    with convolutions along the row, the second masked; then as in any LSTM. A state at (r, c) depends on the part of
    row r - d between c - (d + 1) k' and c + d k', for a kernel of k = 2 k' + 1 places: a triangle above the pixel.

    Args:
        hidden: feature maps h of the state; the input has 2h.
        num_groups: channels of the data; feature map j belongs to channel j % num_groups.
        kernel_size: odd number k of places of both convolutions.

    Shape:
        ``x`` (N, 2 hidden, H, W); ``added`` to the gates (N, 4 hidden, 1, 1) or (N, 4 hidden, H, W); output
        (N, hidden, H, W).

    Raises:
        InvalidInput: a size below one, an even kernel, or fewer feature maps than groups.

    Example:
        >>> import torch
        >>> RowLSTM(16, 1)(torch.zeros(50, 32, 8, 8)).shape
        torch.Size([50, 16, 8, 8])

    Reference: Pixel recurrent neural networks (van den Oord, Kalchbrenner, Kavukcuoglu, 2016), section 3.1.
    """

    def __init__(self, hidden: int, num_groups: int, *, kernel_size: int = 3) -> None:
        super().__init__(
            hidden,
            num_groups,
            directions=1,
            kernel_size=kernel_size,
            taps=kernel_size,
            before=(kernel_size - 1) // 2,
        )

    def _lines(self, gates: Tensor) -> Tensor:
        return gates.transpose(0, 1)

    def _image(self, states: Tensor) -> Tensor:
        return states[:, 0]

    def _at(self, gates: Tensor, kept: Kept) -> Tensor:
        row, column = kept.cursor.row, kept.cursor.columns.start
        seen = [(row - 1, column + tap - self.before) for tap in range(2 * self.before + 1)]
        return self._step(gates, (row, column), seen, self.before, kept, 0)
