"""Convolutions over images that see what comes before a pixel, for whole images and for one pixel after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.masked import causal_mask
from pyro_dgm.shapes import positive_sizes


def channel_groups(width: int, num_channels: int) -> Tensor:
    """The channel of the data that each of ``width`` feature maps belongs to: 0, 1, 2, 0, 1, ... for three.

    Maps of group g know the pixels before theirs and, of their own, the channels before g (and what mask B adds).

    Args:
        width: number of feature maps.
        num_channels: channels of the data.

    Example:
        >>> channel_groups(5, 3)
        tensor([0, 1, 2, 0, 1])
    """
    return torch.arange(width) % num_channels


def check_maps(number: int, num_channels: int, where: str) -> None:
    """Refuses fewer feature maps than channels of the data: what depends on a channel left out would be lost.

    Args:
        number: of feature maps.
        num_channels: channels of the data.
        where: the name of the argument, for the message.

    Raises:
        InvalidInput: fewer maps than channels.
    """
    if number < num_channels:
        expected = f"an integer >= {num_channels}, a feature map for each channel of the data"
        raise InvalidInput("fewer feature maps than channels", where=where, value=number, expected=expected)


class Cursor:
    """The place of an image that is being computed, and what each layer was given at the places before it.

    A causal convolution that is called with a cursor gets the maps of that place alone: one row and some columns of
    it. It looks up the rest of what it sees.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.

    Example:
        >>> conv = CausalConv2d(1, 4, above=1, left=1)
        >>> cursor, image = Cursor(2, 2), torch.randn(3, 1, 2, 2)
        >>> cells = []
        >>> for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        ...     cursor.move(row, slice(column, column + 1))
        ...     cells.append(conv(image[..., row : row + 1, column : column + 1], cursor))
        >>> torch.allclose(torch.cat(cells, -1).reshape(3, 4, 2, 2), conv(image), atol=1e-6)
        True
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.row, self.columns = 0, slice(0, width)
        self._given: dict[CausalConv2d, Tensor] = {}
        self._weights: dict[CausalConv2d, Tensor] = {}

    def move(self, row: int, columns: slice) -> None:
        """Goes to another place."""
        self.row, self.columns = row, columns

    def give(self, layer: CausalConv2d, x: Tensor) -> Tensor:
        """Keeps what a layer is given at this place, (n, in_channels, 1, columns); all that it was given, padded."""
        if layer not in self._given:
            size = (layer.above + self.height, layer.left + self.width + layer.right)
            self._given[layer] = x.new_zeros(len(x), x.shape[1], *size)
        given = self._given[layer]
        columns = slice(layer.left + self.columns.start, layer.left + self.columns.stop)
        given[:, :, layer.above + self.row, columns] = x.squeeze(-2)
        return given

    def weight(self, layer: CausalConv2d) -> Tensor:
        """The masked weight of a layer, multiplied out once."""
        if layer not in self._weights:
            self._weights[layer] = layer.masked_weight()
        return self._weights[layer]

    def cut(self, x: Tensor) -> Tensor:
        """What stands at this place in maps of the whole image or of one that is the same everywhere (1, 1)."""
        if x.shape[-2:] == (1, 1):
            return x
        return x[..., self.row : self.row + 1, self.columns]


class CausalConv2d(nn.Conv2d):
    """A 2-D convolution that sees rows above and its own, and so many columns to the left and right in each.

    Args:
        in_channels: maps of the input.
        out_channels: maps of the output.
        above: rows above the pixel that are seen.
        left: columns to the left.
        right: columns to the right.
        bias: whether there is a bias.

    Shape:
        (N, in_channels, H, W) to (N, out_channels, H, W); with a cursor, (N, in_channels, 1, columns of the cursor)
        to (N, out_channels, 1, the same).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        above: int = 0,
        left: int = 0,
        right: int = 0,
        bias: bool = True,
    ) -> None:
        positive_sizes((in_channels, out_channels), "channels")
        super().__init__(in_channels, out_channels, (above + 1, left + right + 1), bias=bias)
        self.above, self.left, self.right = above, left, right
        self.start(torch.ones_like(self.weight))

    @torch.no_grad()
    def start(self, mask: Tensor) -> None:
        """Draws the weight anew, so that outputs have the variance of the inputs, of which a mask hides some."""
        fan_in = mask.flatten(1).sum(1).clamp(min=1).reshape(-1, 1, 1, 1)
        self.weight.normal_().div_(fan_in.sqrt())
        if self.bias is not None:
            self.bias.zero_()

    def masked_weight(self) -> Tensor:
        """The weight with which the maps are convolved."""
        return self.weight

    def forward(self, x: Tensor, cursor: Cursor | None = None) -> Tensor:
        """The maps of the whole image, or of the place of a cursor."""
        if cursor is None:
            padded = nn.functional.pad(x, (self.left, self.right, self.above, 0))
            return nn.functional.conv2d(padded, self.masked_weight(), self.bias)
        weight, seen = cursor.weight(self), x
        if self.kernel_size != (1, 1):
            columns = slice(cursor.columns.start, cursor.columns.stop + self.left + self.right)
            seen = cursor.give(self, x)[:, :, cursor.row : cursor.row + self.above + 1, columns]
        if x.shape[-1] > 1:
            return nn.functional.conv2d(seen, weight, self.bias)
        out = nn.functional.linear(seen.flatten(1), weight.flatten(1), self.bias)
        return out[..., None, None]


class MaskedConv2d(CausalConv2d):
    r"""A 2-D convolution that sees pixels before its own in raster order, and of its own the channels it may.

    The rule is that of :func:`~pyro_dgm.nets.masked.causal_mask`, over places in raster order and channels in each:
    a strict one ("mask A") is for data, whose own value a pixel must not see, any other ("mask B") for feature maps.
    Taps below the pixel, which are always masked, are left out of the weight.

    Args:
        in_channels: maps of the input.
        out_channels: maps of the output.
        kernel_size: odd size of the kernel, or (height, width); half of it is masked.
        strict: whether a map sees no input map of its own channel at its own place.
        in_groups: channel of the data of each input map, (in_channels,); see :func:`channel_groups`.
        out_groups: channel of the data of each output map, (out_channels,).
        bias: whether there is a bias.

    Raises:
        InvalidInput: no channels, or a kernel of an even size.

    Example:
        >>> groups = channel_groups(3, 3)
        >>> conv = MaskedConv2d(3, 3, 1, strict=True, in_groups=groups, out_groups=groups)
        >>> conv.mask[..., 0, 0].int()  # red sees nothing of its own pixel, green sees red, blue sees both
        tensor([[0, 0, 0],
                [1, 0, 0],
                [1, 1, 0]], dtype=torch.int32)

    Reference: Pixel recurrent neural networks (van den Oord, Kalchbrenner, Kavukcuoglu, 2016).
    """

    mask: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        strict: bool,
        in_groups: Tensor,
        out_groups: Tensor,
        bias: bool = True,
    ) -> None:
        sides = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
        if len(sides) != 2 or any(side < 1 or side % 2 == 0 for side in sides):
            raise InvalidInput(
                "no odd size", where="kernel_size", value=kernel_size, expected="an odd integer >= 1, or two"
            )
        above, beside = (side // 2 for side in sides)
        right = beside if above else 0  # a single row has all to the right of the pixel masked
        super().__init__(in_channels, out_channels, above=above, left=beside, right=right, bias=bias)
        channels = int(max(in_groups.max(), out_groups.max())) + 1
        height, width = self.kernel_size
        place = torch.arange(height * width) - (
            above * width + beside
        )  # below 0 before the pixel in raster order
        seen = place * channels + in_groups[:, None]  # (in_channels, taps)
        mask = causal_mask(seen.flatten(), out_groups, strict=strict).reshape(self.weight.shape)
        self.register_buffer("mask", mask, persistent=False)
        self.start(mask)

    def masked_weight(self) -> Tensor:
        """The weight with its masked taps at zero."""
        return self.weight * self.mask
