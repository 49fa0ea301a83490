"""Which elements a coupling keeps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import positive_sizes


def alternating(size: int, turn: int = 0) -> Tensor:
    """Elements at even places, or with an odd ``turn`` at odd ones: a mask (size,).

    Example:
        >>> alternating(5).int(), alternating(5, 1).int()
        (tensor([1, 0, 1, 0, 1], dtype=torch.int32), tensor([0, 1, 0, 1, 0], dtype=torch.int32))
    """
    return torch.arange(size) % 2 == turn % 2


def halves(size: int, turn: int = 0) -> Tensor:
    """The first half of elements or channels, or with an odd ``turn`` the second: a mask (size,).

    Raises:
        InvalidInput: an odd size.

    Example:
        >>> halves(4).int(), halves(4, 1).int()
        (tensor([1, 1, 0, 0], dtype=torch.int32), tensor([0, 0, 1, 1], dtype=torch.int32))
    """
    if size % 2:
        raise InvalidInput(
            "no two halves",
            where="size",
            value=f"{size} channels",
            expected="an even number of them",
            cure="Squeeze before it, which makes four of each",
        )
    return (torch.arange(size) >= size // 2) == bool(turn % 2)


def checkerboard(shape: Sequence[int], turn: int = 0) -> Tensor:
    """Pixels whose row and column have an even sum, or with an odd ``turn`` an odd one: a mask (C, H, W).

    Example:
        >>> checkerboard((1, 2, 3)).int()
        tensor([[[1, 0, 1],
                 [0, 1, 0]]], dtype=torch.int32)
    """
    if len(shape) != 3:
        raise InvalidInput(
            "no image", where="shape", value=tuple(shape), expected="(channels, height, width)"
        )
    c, h, w = positive_sizes(shape, "shape")
    places = torch.arange(h).unsqueeze(1) + torch.arange(w)
    return (places % 2 == turn % 2).expand(c, h, w)
