"""The network of PixelCNN: masked convolutions in residual blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import relu

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.context_maps import ContextMaps
from pyro_dgm.nets.masked_conv import CausalConv2d, Cursor, MaskedConv2d, channel_groups, check_maps
from pyro_dgm.nets.raster import Maps, RasterNetwork
from pyro_dgm.shapes import count_in_a_row


class MaskedConvNet(RasterNetwork):
    r"""The network of PixelCNN.

    A strict convolution ("mask A"), residual blocks, and two 1x1 convolutions:

    .. math:: h_0 = A * (2 x - 1), \quad
              h_l = h_{l-1} + W''_l \, r(B_l * r(W'_l \, r(h_{l-1}) + C_l c)), \quad \theta = V' \, r(V \, r(h_L))

    with r the rectifier, W and V 1x1 convolutions, all masked. A pixel sees a triangle above it that gets wider with
    each layer; what lies to the right of that is its blind spot, which ``GatedConvNet`` has not.

    Args:
        data_shape: shape of one image, (C, H, W).
        num_params: parameters of each element's distribution.
        channels: feature maps h; the blocks have half as many inside.
        num_layers: number L of residual blocks.
        kernel_size: odd size of the first convolution.
        block_kernel_size: odd size of the convolutions in the blocks.
        context_shape: shape of a context: () for none, (features,) or (features, H, W).

    Shape:
        ``x`` (..., *data_shape), ``context`` (..., *context_shape), output (..., num_params, *data_shape).

    Raises:
        InvalidInput: data that are no images, a size below one, fewer feature maps than channels of the data, a kernel
            of an even size, or a context of the wrong shape.

    Example:
        >>> import torch
        >>> network = MaskedConvNet((1, 8, 8), 1, channels=16, num_layers=2)
        >>> network(torch.zeros(50, 20, 1, 8, 8)).shape
        torch.Size([50, 20, 1, 1, 8, 8])

    Reference: Pixel recurrent neural networks (van den Oord, Kalchbrenner, Kavukcuoglu, 2016), section 3.5.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        *,
        channels: int = 64,
        num_layers: int = 7,
        kernel_size: int = 7,
        block_kernel_size: int = 3,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, num_params)
        check_maps(channels, self.data_shape[0], "channels")
        if kernel_size == 1:
            raise InvalidInput(
                "a first convolution that sees nothing",
                where="kernel_size",
                value=1,
                expected="an odd integer >= 3",
            )
        colours, *size = self.data_shape

        def conv(fan_in: int, fan_out: int, kernel: int = 1, *, strict: bool = False) -> MaskedConv2d:
            given, made = channel_groups(fan_in, colours), channel_groups(fan_out, colours)
            return MaskedConv2d(fan_in, fan_out, kernel, strict=strict, in_groups=given, out_groups=made)

        inner, blocks = max(1, channels // 2), range(count_in_a_row(num_layers, "num_layers", least=0))
        self.conv_in = conv(colours, channels, kernel_size, strict=True)
        self.squeeze = nn.ModuleList(conv(channels, inner) for _ in blocks)
        self.conv = nn.ModuleList(conv(inner, inner, block_kernel_size) for _ in blocks)
        self.expand = nn.ModuleList(conv(inner, channels) for _ in blocks)
        self.out = nn.ModuleList([conv(channels, channels), conv(channels, self.num_params * colours)])
        self.context = nn.ModuleList(
            ContextMaps(context_shape, inner, size) for _ in blocks if len(context_shape)
        )

    @property
    def first(self) -> CausalConv2d:
        return self.conv_in

    @property
    def receptive_field(self) -> tuple[int, int, int]:
        """The box around what a pixel sees, which is a triangle."""
        layers = [layer for layer in (self.conv_in, *self.conv) if isinstance(layer, CausalConv2d)]
        rows, left, right = (
            [getattr(layer, side) for layer in layers] for side in ("above", "left", "right")
        )
        return sum(rows), sum(left), sum(right)

    def maps(self, context: Tensor | None) -> Maps:
        return [layer(context) for layer in self.context] if len(self.context) else [None] * len(self.conv)

    def rows(self, above: Tensor, maps: Maps, cursor: Cursor | None = None) -> None:
        """Nothing: each pixel sees to its own what is above it."""

    def pixels(self, x: Tensor, known: None, maps: Maps, cursor: Cursor | None = None) -> Tensor:
        h = self.conv_in(self.scaled(x), cursor)
        for squeeze, conv, expand, added in zip(self.squeeze, self.conv, self.expand, maps, strict=True):
            inside = squeeze(relu(h), cursor)
            if added is not None:
                inside = inside + (added if cursor is None else cursor.cut(added))
            h = h + expand(relu(conv(relu(inside), cursor)), cursor)
        for layer in self.out:
            h = layer(relu(h), cursor)
        return h
