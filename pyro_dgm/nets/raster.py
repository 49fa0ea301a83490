"""Networks over images in raster order: whole images in one pass, and pixel by pixel with what is known kept."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.masked_conv import CausalConv2d, Cursor
from pyro_dgm.shapes import check_event, positive_sizes

Maps = list[Tensor | None]
"""What a context adds to the feature maps of each layer; None where there is no context."""


class RasterNetwork(nn.Module, ABC):
    """A network from images to the parameters of each pixel given those before it in raster order; abstract.

    The channels of a pixel come one after the other: red, then green given red, then blue given both. A subclass
    writes one pass over whole images; each of its layers can be called for one place, with a
    :class:`~pyro_dgm.nets.masked_conv.Cursor`, so that the same lines compute one pixel.

    Args:
        data_shape: shape of one image, (C, H, W).
        num_params: parameters of each element's distribution.

    Raises:
        InvalidInput: data that are no images, or a size below one.
    """

    def __init__(self, data_shape: Sequence[int], num_params: int) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        if len(self.data_shape) != 3:
            raise InvalidInput(
                "not an image", where="data_shape", value=self.data_shape, expected="(C, H, W)"
            )
        (self.num_params,) = positive_sizes((num_params,), "num_params")

    @abstractmethod
    def maps(self, context: Tensor | None) -> Maps:
        """What contexts (n, *context_shape) add in each layer."""

    @abstractmethod
    def rows(self, above: Tensor, maps: Maps, cursor: Cursor | None = None) -> Any:
        """What is known of rows from the pixels above them alone.

        Args:
            above: images, or the row above that of the cursor (n, C, 1, W); zeros above the first.
            maps: of the context.
            cursor: a whole row; None for whole images.
        """

    @abstractmethod
    def pixels(self, x: Tensor, known: Any, maps: Maps, cursor: Cursor | None = None) -> Tensor:
        """Parameters (n, num_params * C, H, W), or of the cursor's pixel (n, num_params * C, 1, 1).

        Args:
            x: images, or a pixel (n, C, 1, 1) whose later channels may be anything.
            known: what ``rows`` gave.
            maps: of the context.
            cursor: one pixel; None for whole images.
        """

    @property
    @abstractmethod
    def first(self) -> CausalConv2d:
        """The layer that sees the pixels of the row."""

    @property
    @abstractmethod
    def receptive_field(self) -> tuple[int, int, int]:
        """Rows above a pixel, and columns to its left and right, that it sees at most."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Parameters (..., num_params, C, H, W) of each element given those before it."""
        check_event(x, self.data_shape, f"{type(self).__name__} input")
        leading = x.shape[:-3]
        images = x.reshape(math.prod(leading), *self.data_shape)
        maps = self.maps(context)
        above = nn.functional.pad(images, (0, 0, 1, 0))[..., :-1, :]
        out = self.pixels(images, self.rows(above, maps), maps)
        return out.reshape((*leading, self.num_params, *self.data_shape))

    def conditionals(
        self, number: int, context: Tensor | None = None
    ) -> Generator[tuple[Tensor, Tensor], Tensor, None]:
        """Parameters of the elements one after the other, each layer once at each pixel: see ``Autoregressive``."""
        channels, height, width = self.data_shape
        maps, cursor = self.maps(context), Cursor(height, width)
        like = self.first.weight
        places = torch.arange(channels * height * width, device=like.device).reshape(self.data_shape)
        above = like.new_zeros(number, channels, 1, width)
        for row in range(height):
            cursor.move(row, slice(0, width))
            known = self.rows(above, maps, cursor)
            above = torch.zeros_like(above)
            for column in range(width):
                cursor.move(row, slice(column, column + 1))
                pixel = above[..., cursor.columns]  # a view: what is drawn is part of the row
                for channel in range(channels):
                    out = self.pixels(pixel, known, maps, cursor)
                    params = out.reshape(number, self.num_params, channels)[..., channel : channel + 1]
                    index = places[channel, row, column : column + 1]
                    pixel[:, channel, 0] = yield index, params
                cursor.give(self.first, self.scaled(pixel))

    def scaled(self, x: Tensor) -> Tensor:
        """Data in [0, 1] as layers get them, in [-1, 1]: the zeros around an image are neither black nor white."""
        return 2 * x - 1
