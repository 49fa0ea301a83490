"""A part of a data set held in memory, and the data set of three such parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.data.checks import require_given
from pyro_dgm.errors import InvalidInput

Noise = Callable[[Tensor, Tensor], Tensor]
"""What is done to x at each use: `(x, u) -> x'` with u uniform on [0, 1) like x; u may be overwritten."""


class Split:
    """Data in memory, indexed directly: `batch(index) = (noise(x[index], u), y[index], ...)` with u ~ U[0, 1).

    Args:
        x: the data, (N, *data_shape), floating point, or bytes k (uint8) which stand for k/255 and are kept as they
            are, in a quarter of the memory; with `noise` it is what the noise is put on (the grey images of a
            dynamically binarised set, say), so look at `batch` for what a program sees.
        y: class labels, (N,), whole numbers, -1 for a datum without a label; or real numbers to condition on,
            (N, *shape), kept in the type of x.
        index: the number of each datum in the whole part, (N,); carried in batches where given.
        noise: the map `(x, u) -> x'` drawn anew for every batch; None leaves x as it is.
        dtype: floating-point type of the x of batches; by default that of x, float32 for bytes.

    Attributes:
        stored: x as it is kept.
        fields: the names of what `batch` returns, in order: "x", then "y" and "index" where there are any.

    Raises:
        InvalidInput: no data, x neither floating point nor bytes, or y neither one whole number for each datum nor
            finite numbers (N, *shape).

    Example:
        >>> split = Split(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 1]))
        >>> split.fields, len(split)
        (('x', 'y'), 3)
        >>> split.batch(torch.tensor([2, 0]))
        (tensor([[4., 5.],
                [0., 1.]]), tensor([1, 0]))
        >>> len(split[:2])
        2
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        index: Tensor | None = None,
        noise: Noise | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if x.dim() == 0 or len(x) == 0 or not (x.is_floating_point() or x.dtype == torch.uint8):
            raise InvalidInput(
                "no floating-point data",
                where="x",
                value=f"shape {tuple(x.shape)}, {x.dtype}",
                expected="a floating-point tensor, or bytes (uint8), of shape (N, ...) with N >= 1",
            )
        default = x.dtype if x.is_floating_point() else torch.float32
        self.dtype = default if dtype is None else dtype
        self.stored = x.to(self.dtype) if x.is_floating_point() else x
        given = None if y is None else require_given(y, "y", count=len(x))
        self.y = given.to(self.dtype) if given is not None and given.is_floating_point() else given
        self.index = index
        self.noise = noise
        extra = {"y": self.y, "index": index}
        self._extra = [column for column in extra.values() if column is not None]
        self.fields = ("x", *(name for name, column in extra.items() if column is not None))

    @property
    def x(self) -> Tensor:
        """The data in floating point; of bytes that is a copy four times as large, so take it of a slice."""
        return self._floats(self.stored)

    def _floats(self, stored: Tensor) -> Tensor:
        return stored if stored.is_floating_point() else stored.to(self.dtype).div_(255)

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, rows: slice) -> Split:
        y = None if self.y is None else self.y[rows]
        index = None if self.index is None else self.index[rows]
        return Split(self.stored[rows], y, index=index, noise=self.noise, dtype=self.dtype)

    def batch(self, index: Tensor) -> tuple[Tensor, ...]:
        """The data of these rows, in the order of `fields`.

        Args:
            index: row numbers, (B,), int64, on the device of the split.
        """
        x = self._floats(self.stored.index_select(0, index))
        if self.noise is not None:
            x = self.noise(x, torch.rand_like(x))
        return (x, *(column.index_select(0, index) for column in self._extra))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Split:
        """The same data on another device, or x (and a y of real numbers) in another floating-point type.

        A type of fewer bits than float32 rounds grey levels and uniform noise: leave x in float32 and let the
        network be the one that computes in bfloat16.
        """
        y = None if self.y is None else self.y.to(device=device)
        index = None if self.index is None else self.index.to(device=device)
        x, dtype = self.stored.to(device=device), self.dtype if dtype is None else dtype
        return Split(x, y, index=index, noise=self.noise, dtype=dtype)


class Dataset(ABC):
    """Three fixed parts `train`, `val`, `test`, and how they were made.

    Args:
        name: the data set's name, as in the table of results.
        parts: the part to fit, the part to choose by and the part to report.
        preprocessing: all that changes the numbers, as plain data: source, split, binarisation, scale...
        levels: the number of values that each element takes; None for real-valued data.
        num_classes: the number of classes of `y`; None where batches carry no labels, or real numbers for `y`.
        bits_offset: what `bits_per_dim` adds: log2(levels) for dequantised data, else 0.

    Attributes:
        train, val, test: the parts.
        data_shape: the shape of one datum.

    Example:
        >>> class Coins(Dataset):
        ...     def __init__(self) -> None:
        ...         part = Split(torch.ones(4, 2))
        ...         super().__init__("coins", (part, part, part), preprocessing={}, levels=2)
        >>> Coins().bits_per_dim(nats_per_datum=2 * math.log(2))  # two fair coins, one bit each
        1.0
    """

    @abstractmethod
    def __init__(
        self,
        name: str,
        parts: tuple[Split, Split, Split],
        *,
        preprocessing: dict[str, Any],
        levels: int | None = None,
        num_classes: int | None = None,
        bits_offset: float = 0.0,
    ) -> None:
        self.name = name
        self.train, self.val, self.test = parts
        self.data_shape: tuple[int, ...] = tuple(self.train.stored.shape[1:])
        self.levels = levels
        y = self.train.y
        self.num_classes = None if y is None or y.is_floating_point() else num_classes
        self.preprocessing = preprocessing
        self._bits_offset = bits_offset

    def bits_per_dim(self, nats_per_datum: float) -> float:
        """Bits for each element: `nats / (D log 2)`, plus `log2(levels)` for dequantised data; D the size.

        What it says depends on the data. Binary or grey data under a probability mass function: the bits of an
        ideal code. Dequantised data `v = (k + u) / levels` under a density: an upper bound on those bits, since
        `-log P(k) <= E_u[-log p(v)] + D log(levels)`. Real-valued data: the differential bits of x as it stands
        in the split (after `scale`), which may be negative and change with the units; so they are for grey data
        under a density without dequantisation, and then no code length.

        Args:
            nats_per_datum: a negative log-likelihood, or an upper bound on it, in nats for each datum.

        Reference:
            Theis, van den Oord, Bethge: A note on the evaluation of generative models (2016).
        """
        return nats_per_datum / (math.prod(self.data_shape) * math.log(2)) + self._bits_offset
