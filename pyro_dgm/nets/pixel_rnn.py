"""The network of PixelRNN: a masked convolution, LSTM layers over the image with residual connections, an output."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.context_maps import ContextMaps
from pyro_dgm.nets.diagonal_lstm import DiagonalBiLSTM
from pyro_dgm.nets.image_lstm import ImageLSTM, Kept
from pyro_dgm.nets.masked_conv import Cursor, MaskedConv2d, channel_groups, check_maps
from pyro_dgm.shapes import check_event, count_in_a_row, positive_sizes


class PixelLSTM(nn.Module):
    r"""Parameters of each pixel and channel of an image given those before it, by LSTMs over the image.

    .. math:: h_0 = A * (2 x - 1), \quad h_l = h_{l-1} + U_l * \mathrm{LSTM}_l(h_{l-1}; C_l c), \quad
              \theta = V' * r(V * r(h_L))

    with r the rectifier, A strict ("mask A"), U and V 1x1 convolutions, all masked. Pixels come row by row from the
    upper left, the channels of a pixel one after the other; feature map j belongs to channel j % C. A context c adds
    to the gates.

    The layers see a column of zeros right of the image. Without it nothing would come after the last pixel of a row
    within that row, so that the LSTM from right to left would not learn its value: the pixels of the next row would
    not see it, but for those that the first convolution takes there.

    Args:
        data_shape: shape of one image, (C, H, W).
        num_params: parameters of each element's distribution.
        layer: makes one LSTM layer of (hidden, channels of the data): :class:`~pyro_dgm.nets.DiagonalBiLSTM` or
            :class:`~pyro_dgm.nets.RowLSTM`.
        hidden: feature maps h of a state; between the layers there are 2h.
        num_layers: number L of LSTM layers.
        kernel_size: odd size of the first convolution.
        out_features: feature maps of the layer before the parameters.
        context_shape: shape of a context: () for none, (features,) or (features, H, W).

    Shape:
        ``x`` (..., *data_shape), ``context`` (..., *context_shape), output (..., num_params, *data_shape).

    Raises:
        InvalidInput: data that are no images, a size below one, a kernel that is even or 1, fewer feature maps than
            channels, or a context of the wrong shape.

    Example:
        >>> network = PixelLSTM((1, 8, 8), 1, hidden=4, num_layers=2)
        >>> network(torch.zeros(50, 20, 1, 8, 8)).shape
        torch.Size([50, 20, 1, 1, 8, 8])

    Reference: Pixel recurrent neural networks (van den Oord, Kalchbrenner, Kavukcuoglu, 2016).
    """

    order: Tensor  # flat positions of the elements from first to last

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        *,
        layer: Callable[[int, int], ImageLSTM] = DiagonalBiLSTM,
        hidden: int = 16,
        num_layers: int = 7,
        kernel_size: int = 7,
        out_features: int = 32,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        if len(self.data_shape) != 3:
            raise InvalidInput(
                "not an image", where="data_shape", value=self.data_shape, expected="(C, H, W)"
            )
        (self.num_params,) = positive_sizes((num_params,), "num_params")
        channels, *size = self.data_shape
        check_maps(out_features, channels, "out_features")
        if kernel_size < 3:
            raise InvalidInput(
                "a first convolution that sees no other pixel",
                where="kernel_size",
                value=kernel_size,
                expected="an odd integer >= 3",
            )
        number = count_in_a_row(num_layers, "num_layers")
        places = torch.arange(math.prod(self.data_shape)).reshape(self.data_shape)
        self.register_buffer("order", places.movedim(0, -1).flatten(), persistent=False)
        lstms = [layer(hidden, channels) for _ in range(number)]

        def conv(fan_in: int, fan_out: int, kernel: int = 1, *, strict: bool = False) -> MaskedConv2d:
            given, made = channel_groups(fan_in, channels), channel_groups(fan_out, channels)
            return MaskedConv2d(fan_in, fan_out, kernel, strict=strict, in_groups=given, out_groups=made)

        self.conv_in = conv(channels, 2 * hidden, kernel_size, strict=True)
        self.lstms = nn.ModuleList(lstms)
        self.up = nn.ModuleList(conv(hidden, 2 * hidden) for _ in lstms)
        self.out = nn.ModuleList([conv(2 * hidden, out_features), conv(out_features, num_params * channels)])
        self.context = nn.ModuleList(
            ContextMaps(context_shape, lstm.num_gates, size) for lstm in lstms if len(context_shape)
        )

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters of each element given those before it."""
        check_event(x, self.data_shape, "PixelLSTM input")
        leading = x.shape[:-3]
        images = x.reshape(math.prod(leading), *self.data_shape)
        out = self._layers(_with_column(2 * images - 1), self._maps(context))
        return out.reshape((*leading, self.num_params, *self.data_shape))

    def _layers(
        self,
        x: Tensor,
        maps: Sequence[Tensor | None],
        cursor: Cursor | None = None,
        kept: Sequence[Kept] = (),
    ) -> Tensor:
        """Outputs (n, num_params * C, H, W) for images in [-1, 1] with a column of zeros; or at a cursor's pixel."""
        h = self.conv_in(x, cursor).contiguous(memory_format=torch.channels_last)
        for place, (lstm, up, added) in enumerate(zip(self.lstms, self.up, maps, strict=True)):
            h = h + up(lstm(h, added, kept[place] if kept else None), cursor)
        if cursor is None:
            h = h[..., : self.data_shape[-1]]
        for conv in self.out:
            h = conv(h.relu(), cursor)
        return h

    def _maps(self, context: Tensor | None) -> Sequence[Tensor | None]:
        """What contexts (..., *context_shape) add to the gates of each layer."""
        if not len(self.context):
            return [None] * len(self.lstms)
        return [_with_column(layer(context)) for layer in self.context]

    def conditionals(
        self, number: int, context: Tensor | None = None
    ) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Parameters of the elements one after the other, each layer once for each: see ``Autoregressive``."""
        channels, height, width = self.data_shape
        maps, cursor = self._maps(context), Cursor(height, width + 1)
        kept = [Kept(cursor) for _ in self.lstms]
        places = self.order.reshape(height, width, channels)
        nothing = self.conv_in.weight.new_zeros(number, channels, 1, 1)
        for row in range(height):
            for column in range(width):
                cursor.move(row, slice(column, column + 1))
                pixel = nothing.clone()
                for channel, index in enumerate(places[row, column].split(1)):
                    out = self._layers(2 * pixel - 1, maps, cursor, kept)
                    params = out.reshape(number, self.num_params, channels)[..., channel : channel + 1]
                    pixel[:, channel, 0] = yield index, params
                cursor.give(self.conv_in, 2 * pixel - 1)
            cursor.move(row, slice(width, width + 1))
            self._layers(nothing, maps, cursor, kept)


def _with_column(maps: Tensor) -> Tensor:
    """Maps (n, ..., H, W) with a column of zeros at the right; (n, ..., 1, 1) are the same everywhere, and stay."""
    return maps if maps.shape[-2:] == (1, 1) else F.pad(maps, (0, 1))
