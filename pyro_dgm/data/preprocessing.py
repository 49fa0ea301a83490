"""Grey images made into what a program sees: static or dynamic binarisation, dequantisation, fixed draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.data.splits import Noise, Split
from pyro_dgm.errors import InvalidInput

Binarize = Literal["none", "static", "dynamic"]
PARTS = ("train", "val", "test")
BELOW_ONE = 1 - 2**-24  # the largest float32 below 1


def frozen_uniform(count: int, *, bits: np.random.PCG64) -> Tensor:
    """Float32 uniforms k / 2^24 from the raw stream of a bit generator, which no NumPy version may change.

    Example:
        >>> u = frozen_uniform(1000, bits=np.random.PCG64(0))
        >>> bool((u >= 0).all() and (u < 1).all())
        True
    """
    raw = bits.random_raw(count) >> np.uint64(40)
    return torch.from_numpy(raw.astype(np.float32)) * 2**-24


def frozen_permutation(count: int, *, seed: int) -> Tensor:
    """A permutation of 0..count-1 that is the same with every version of NumPy and torch.

    Example:
        >>> sorted(frozen_permutation(5, seed=0).tolist())
        [0, 1, 2, 3, 4]
    """
    return torch.from_numpy(np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable"))


def frozen_draw(x: Tensor, noise: Noise, *, seed: int) -> Tensor:
    """`noise(x, u)` with one fixed u, drawn in pieces so that memory stays near that of x."""
    bits = np.random.PCG64(seed)
    rows = x.split(max(1, 2**22 // max(1, x[0].numel())))
    return torch.cat(
        [noise(piece, frozen_uniform(piece.numel(), bits=bits).reshape(piece.shape)) for piece in rows]
    )


def binarise(x: Tensor, u: Tensor) -> Tensor:
    """One Bernoulli draw for each element: 1 with probability x.

    Example:
        >>> binarise(torch.tensor([0.0, 0.3, 1.0]), torch.tensor([0.0, 0.5, 0.99]))
        tensor([0., 0., 1.])
    """
    return u.lt_(x)  # in place: 0 or 1 in the type of u without a second tensor


@dataclass(frozen=True)
class Dequantise:
    """Grey level k made real: `v = (k + u) / levels` from `x = k / (levels - 1)`, so that v is in [0, 1).

    Args:
        levels: the number of grey levels.

    Example:
        >>> Dequantise(256)(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])) * 256
        tensor([  0.5000, 255.5000])

    Reference:
        Uria, Murray, Larochelle: RNADE, the real-valued neural autoregressive density-estimator (2013).
    """

    levels: int

    def __call__(self, x: Tensor, u: Tensor) -> Tensor:
        k = (x * (self.levels - 1)).round_()
        return k.add_(u).div_(self.levels).clamp_max_(BELOW_ONE)  # 255 + u may round up to 256


@dataclass(frozen=True)
class Preparation:
    """What is done to grey data in [0, 1], in training and in the held-out parts.

    Training draws of "dynamic" binarisation and of dequantisation are made anew for every batch. Everything else
    is drawn once, from a generator seeded 0 (train), 1 (val) or 2 (test), so that evaluations repeat; the
    held-out parts of "static" and "dynamic" are thus the same.

    Args:
        levels: the number of grey levels, on the grid k / (levels - 1); None for real-valued data.
        binarize: "none", "static" (one draw of Bernoulli(grey) for every part) or "dynamic".
        dequantize: whether to spread each level over an interval of [0, 1).

    Raises:
        InvalidInput: an unknown binarisation, or options that exclude each other.

    Example:
        >>> Preparation(256, dequantize=True).bits_offset
        8.0
    """

    levels: int | None
    binarize: Binarize = "none"
    dequantize: bool = False

    def __post_init__(self) -> None:
        if self.binarize not in get_args(Binarize):
            choices = ", ".join(get_args(Binarize))
            raise InvalidInput(
                "unknown choice", where="binarize", value=self.binarize, expected=f"one of {choices}"
            )
        if self.dequantize and self.binarize != "none":
            raise InvalidInput(
                "options exclude each other",
                where="binarize, dequantize",
                value=f'binarize="{self.binarize}", dequantize=True',
                expected="binary data or a density, not both",
                cure='binarize="none" or dequantize=False',
            )
        if self.dequantize and self.levels is None:
            raise InvalidInput(
                "no number of grey levels",
                where="levels",
                value=None,
                expected="levels for dequantize=True",
                cure="256",
            )

    @property
    def seen_levels(self) -> int | None:
        """The number of values an element takes after preparation; None if it is real."""
        if self.dequantize:
            return None
        return 2 if self.binarize != "none" else self.levels

    @property
    def bits_offset(self) -> float:
        """Bits per element between the density of dequantised data and the mass of its level."""
        return math.log2(self.levels) if self.dequantize and self.levels is not None else 0.0

    @property
    def noise(self) -> Noise | None:
        """The map of x and a uniform u to what a program sees."""
        if self.dequantize and self.levels is not None:
            return Dequantise(self.levels)
        return binarise if self.binarize != "none" else None

    def splits(
        self, xs: Sequence[Tensor], ys: Sequence[Tensor] | None = None, *, index: bool = False
    ) -> tuple[Split, Split, Split]:
        """Train, val and test, from their data (N, *data_shape) and labels (N,)."""
        redrawn = self.dequantize or self.binarize == "dynamic"
        parts = []
        for seed, (name, x) in enumerate(zip(PARTS, xs, strict=True)):
            fresh = self.noise if redrawn and name == "train" else None
            if self.noise is not None and fresh is None:
                x = frozen_draw(x, self.noise, seed=seed)
            rows = torch.arange(len(x)) if index else None
            parts.append(Split(x, None if ys is None else ys[seed], index=rows, noise=fresh))
        train, val, test = parts
        return train, val, test

    def describe(self, xs: Sequence[Tensor], *, source: str, rule: str) -> dict[str, Any]:
        """The preparation as plain data, for the ledger of results."""
        return {
            "source": source,
            "split": {**{name: len(x) for name, x in zip(PARTS, xs, strict=True)}, "rule": rule},
            "levels": self.levels,
            "binarize": self.binarize,
            "dequantize": self.dequantize,
            "fixed_draws": None if self.noise is None else "PCG64 seeded 0 (train), 1 (val), 2 (test)",
        }
