"""Layers whose outputs see only inputs that come before them: one rule of masks for all networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput


def causal_mask(in_degrees: Tensor, out_degrees: Tensor, *, strict: bool) -> Tensor:
    r"""Which inputs an output may see, from the place of each in an order: its degree.

    .. math:: M_{oi} = [d_o > d_i] \text{ if strict, else } [d_o \ge d_i]

    Data have the degrees 1 to D. A unit of degree d knows data up to the d-th: hidden units see units of degree at
    most theirs, and what gives the parameters of the d-th datum sees strictly smaller degrees. So one layer of each
    path from data to outputs is strict: in MADE the last, in PixelCNN the first ("mask A"; the others are "mask B").

    Args:
        in_degrees: degrees of the inputs, (..., in).
        out_degrees: degrees of the outputs, (..., out).
        strict: whether equal degrees are apart.

    Returns:
        Boolean tensor (..., out, in).

    Example:
        >>> causal_mask(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3]), strict=True).int()
        tensor([[0, 0, 0],
                [1, 0, 0],
                [1, 1, 0]], dtype=torch.int32)

    Reference: MADE: masked autoencoder for distribution estimation (Germain, Gregor, Murray, Larochelle, 2015).
    """
    earlier, later = in_degrees.unsqueeze(-2), out_degrees.unsqueeze(-1)
    return later > earlier if strict else later >= earlier


def order_of(order: Sequence[int] | Tensor | None, size: int) -> Tensor:
    """Positions of the elements of a datum in the order in which they are generated, (size,).

    Args:
        order: ``order[t]`` is the flat position of the element that comes t-th; as they lie if None.
        size: number of elements.

    Raises:
        InvalidInput: not each of 0 ... size - 1 once.

    Example:
        >>> order_of([2, 0, 1], 3)
        tensor([2, 0, 1])
    """
    if order is None:
        return torch.arange(size)
    found = torch.as_tensor(order)
    if found.dim() != 1 or found.is_floating_point() or sorted(found.tolist()) != list(range(size)):
        value = str(tuple(found.tolist()) if found.dim() == 1 and len(found) <= 10 else tuple(found.shape))
        raise InvalidInput(
            "no permutation", where="order", value=value, expected=f"each of 0..{size - 1} once"
        )
    return found.long()


def orders_of(
    order: Sequence[int] | Tensor | None, size: int, number: int, *, shuffle: bool, generator: torch.Generator
) -> Tensor:
    """Several orders, (number, size): all that of :func:`order_of`, or each shuffled at random.

    Example:
        >>> orders_of(None, 3, 2, shuffle=False, generator=torch.Generator())
        tensor([[0, 1, 2],
                [0, 1, 2]])
    """
    first = order_of(order, size)
    if not shuffle:
        return first.repeat(number, 1)
    return torch.stack([first[torch.randperm(size, generator=generator)] for _ in range(number)])


def degrees_of(order: Tensor) -> Tensor:
    """The degree of each element, 1 for the first: (..., D) positions in order to (..., D) degrees.

    Example:
        >>> degrees_of(torch.tensor([2, 0, 1]))
        tensor([2, 3, 1])
    """
    return order.argsort(-1) + 1


_WORTH_BLOCKS = 2**17  # below, more calls cost what fewer multiplications save

Block = tuple[slice, slice]
"""Rows of a weight matrix, and the columns that they see."""


class MaskedLinear(nn.Linear):
    """A linear layer that sees what a mask lets it see; the mask comes with each call.

    Args:
        in_features: size of the input's last dimension.
        out_features: size of the output's last dimension.
        bias: whether there is a bias.

    Example:
        >>> layer = MaskedLinear(3, 2, bias=False)
        >>> layer(torch.ones(5, 3), torch.zeros(2, 3, dtype=torch.bool)).abs().max().item()
        0.0
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def forward(self, x: Tensor, mask: Tensor, blocks: Sequence[Block] = ()) -> Tensor:
        """W x + b with W masked; ``x`` (..., in_features), ``mask`` (out_features, in_features).

        With ``blocks``, those of :func:`row_blocks` for this mask, columns that are masked anyway are left out.
        """
        weight = self.weight * mask
        if not blocks:
            return nn.functional.linear(x, weight, self.bias)
        parts = [
            nn.functional.linear(
                x[..., seen], weight[rows, seen], None if self.bias is None else self.bias[rows]
            )
            for rows, seen in blocks
        ]
        return torch.cat(parts, -1)


def row_blocks(mask: Tensor, number: int = 4) -> list[Block]:
    """Rows of a mask in blocks, with the columns that a block may see; none where that saves too little.

    Args:
        mask: (out, in).
        number: of blocks.

    Example:
        >>> [(rows.stop, seen.stop) for rows, seen in row_blocks(torch.ones(512, 512).tril())]
        [(128, 128), (256, 256), (384, 384), (512, 512)]
    """
    if mask.numel() < _WORTH_BLOCKS:
        return []
    blocks = []
    for rows in torch.arange(len(mask)).split(-(-len(mask) // number)):
        columns = mask[rows].any(0).nonzero().flatten().tolist() or [0]
        blocks.append((slice(int(rows[0]), int(rows[-1]) + 1), slice(columns[0], columns[-1] + 1)))
    area = sum((rows.stop - rows.start) * (seen.stop - seen.start) for rows, seen in blocks)
    return blocks if area <= 0.9 * mask.numel() else []
