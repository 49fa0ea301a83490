"""The network of the gated PixelCNN: a vertical and a horizontal stack, without a blind spot."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from pyro_dgm.nets.context_maps import ContextMaps
from pyro_dgm.nets.masked_conv import CausalConv2d, Cursor, MaskedConv2d, channel_groups, check_maps
from pyro_dgm.nets.raster import Maps, RasterNetwork
from pyro_dgm.shapes import count_in_a_row


class GatedConvNet(RasterNetwork):
    r"""The network of the gated PixelCNN.

    The vertical stack v sees all rows above a pixel's, the horizontal one h its row up to it, and v:

    .. math:: a_l = V_l * v_{l-1} + C_l c, \quad v_l = g(a_l), \qquad
              h_l = h_{l-1} + W_l \, g(H_l * h_{l-1} + U_l a_l + C'_l c), \qquad
              g(a, a') = \tanh(a)\,\sigma(a')

    with W and U 1x1 convolutions, and two more, each after a rectifier, on the sum of what the layers give (their
    skip connections). The image enters v shifted down by one row, and h through a strict convolution ("mask A").

    Args:
        data_shape: shape of one image, (C, H, W).
        num_params: parameters of each element's distribution.
        channels: feature maps of each stack.
        num_layers: number of gated layers.
        kernel_size: odd size of the first layer's convolutions.
        layer_kernel_size: odd size of those of the other layers.
        context_shape: shape of a context: () for none, (features,) or (features, H, W).

    Shape:
        ``x`` (..., *data_shape), ``context`` (..., *context_shape), output (..., num_params, *data_shape).

    Raises:
        InvalidInput: data that are no images, a size below one, fewer feature maps than channels of the data, a kernel
            of an even size, or a context of the wrong shape.

    Example:
        >>> import torch
        >>> network = GatedConvNet((3, 8, 8), 256, channels=12, num_layers=2, context_shape=(10,))
        >>> network(torch.zeros(5, 3, 8, 8), torch.zeros(5, 10)).shape
        torch.Size([5, 256, 3, 8, 8])

    Reference: Conditional image generation with PixelCNN decoders (van den Oord, Kalchbrenner, Vinyals, Espeholt,
    Graves, Kavukcuoglu, 2016).
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        num_params: int,
        *,
        channels: int = 64,
        num_layers: int = 7,
        kernel_size: int = 7,
        layer_kernel_size: int = 3,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, num_params)
        check_maps(channels, self.data_shape[0], "channels")
        colours, *size = self.data_shape
        kernels = [kernel_size, *[layer_kernel_size] * (count_in_a_row(num_layers, "num_layers") - 1)]
        widths = [colours, *[channels] * (num_layers - 1)]
        outputs = self.num_params * colours
        groups = {width: channel_groups(width, colours) for width in (colours, channels, outputs)}
        gates = groups[channels].repeat(2)  # both halves of a gate belong to the same channels

        def horizontal(fan_in: int, kernel: int, *, strict: bool) -> MaskedConv2d:
            size, given = (1, kernel), groups[fan_in]
            return MaskedConv2d(fan_in, len(gates), size, strict=strict, in_groups=given, out_groups=gates)

        def vertical(fan_in: int, kernel: int, *, first: bool) -> CausalConv2d:
            above = max(kernel // 2 - first, 0)  # the image comes shifted down by one row
            return CausalConv2d(fan_in, len(gates), above=above, left=kernel // 2, right=kernel // 2)

        def pixelwise(fan_out: int) -> MaskedConv2d:
            given, made = groups[channels], groups[fan_out]
            return MaskedConv2d(channels, fan_out, 1, strict=False, in_groups=given, out_groups=made)

        layers = list(zip(widths, kernels, strict=True))
        self.horizontal = nn.ModuleList(horizontal(w, k, strict=i == 0) for i, (w, k) in enumerate(layers))
        self.vertical = nn.ModuleList(vertical(w, k, first=i == 0) for i, (w, k) in enumerate(layers))
        self.link = nn.ModuleList(CausalConv2d(2 * channels, 2 * channels) for _ in layers)
        self.residual = nn.ModuleList(pixelwise(channels) for _ in layers[1:])
        self.skip = nn.ModuleList(pixelwise(channels) for _ in layers)
        self.out = nn.ModuleList([pixelwise(channels), pixelwise(outputs)])
        self.context = nn.ModuleList(
            ContextMaps(context_shape, 2 * channels, size)
            for _ in range(2 * num_layers)
            if len(context_shape)
        )

    @property
    def first(self) -> CausalConv2d:
        layer = self.horizontal[0]
        assert isinstance(layer, CausalConv2d)
        return layer

    @property
    def receptive_field(self) -> tuple[int, int, int]:
        layers = [layer for layer in self.vertical if isinstance(layer, CausalConv2d)]
        rows = 1 + sum(layer.above for layer in layers)  # one, since the image comes shifted down
        return rows, sum(layer.left for layer in layers), sum(layer.right for layer in layers)

    def maps(self, context: Tensor | None) -> Maps:
        number = 2 * len(self.link)
        return [layer(context) for layer in self.context] if len(self.context) else [None] * number

    def rows(self, above: Tensor, maps: Maps, cursor: Cursor | None = None) -> list[Tensor]:
        """What each layer of the vertical stack tells the horizontal one."""
        v, told = self.scaled(above), []
        for vertical, link, added in zip(self.vertical, self.link, maps[::2], strict=True):
            a = _plus(vertical(v, cursor), added, cursor)
            told.append(link(a, cursor))
            v = _gated(a)
        return told

    def pixels(self, x: Tensor, known: list[Tensor], maps: Maps, cursor: Cursor | None = None) -> Tensor:
        h, skipped = self.scaled(x), []
        for place, (told, added) in enumerate(zip(known, maps[1::2], strict=True)):
            if cursor is not None:
                told = told[..., cursor.columns]
            g = _gated(_plus(self.horizontal[place](h, cursor) + told, added, cursor))
            skipped.append(self.skip[place](g, cursor))
            if place < len(self.residual):
                h = self.residual[place](g, cursor) + (h if place else 0)  # the data themselves go no further
        out = torch.stack(skipped).sum(0)
        for layer in self.out:
            out = layer(relu(out), cursor)
        return out


def _gated(a: Tensor) -> Tensor:
    values, gates = a.chunk(2, dim=1)
    return torch.tanh(values) * torch.sigmoid(gates)


def _plus(a: Tensor, added: Tensor | None, cursor: Cursor | None) -> Tensor:
    if added is None:
        return a
    return a + (added if cursor is None else cursor.cut(added))
