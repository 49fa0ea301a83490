"""Mixtures of equal Gaussians in the plane, on which dropped modes can be counted."""

from __future__ import annotations

import math

import numpy as np
import torch

from pyro_dgm.data.toys import SIZES, Draw, Plane, Sizes
from pyro_dgm.errors import InvalidInput


class GaussianGrid(Plane):
    """25 equal Gaussians with centres on a 5x5 grid about the origin; y is the centre. The parts are drawn apart.

    Args:
        sizes: how many points to draw for train, val and test.
        std: the standard deviation of each Gaussian.
        spacing: the distance between neighbouring centres.
        per_side: the number of centres along a side.
        seed: of the draws.
        labels: whether batches carry y.
        index: whether batches carry the number of each point in its part.

    Attributes:
        modes: the centres, (25, 2).
        std: the standard deviation.

    Raises:
        InvalidInput: a size or number of centres below 1, or a negative std, spacing or seed.

    Example:
        >>> data = GaussianGrid((1000, 4, 4), std=0.05)
        >>> data.modes.shape, bool(torch.cdist(data.train.x, data.modes).amin(dim=1).max() < 6 * data.std)
        (torch.Size([25, 2]), True)

    Reference:
        Dumoulin, Belghazi, Poole, Mastropietro, Lamb, Arjovsky, Courville: Adversarially learned inference (2017);
        std 0.05 and spacing 2 as in Srivastava, Valkov, Russell, Gutmann, Sutton: VEEGAN: reducing mode collapse
        in GANs using implicit variational learning (2017).
    """

    def __init__(
        self,
        sizes: Sizes = SIZES,
        *,
        std: float = 0.05,
        spacing: float = 2.0,
        per_side: int = 5,
        seed: int = 0,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        _require_some("per_side", per_side)
        axis = spacing * (np.arange(per_side) - (per_side - 1) / 2)
        centres = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
        self.modes, self.std = torch.from_numpy(centres.astype(np.float32)), std
        super().__init__(
            "GaussianGrid",
            _equal_gaussians(centres, std),
            sizes,
            seed=seed,
            labels=labels,
            index=index,
            num_classes=len(centres),
            settings={"std": std, "spacing": spacing, "per_side": per_side},
        )


class GaussianRing(Plane):
    """8 equal Gaussians with centres evenly on a circle; y is the centre. The parts are drawn apart.

    Args:
        sizes: how many points to draw for train, val and test.
        std: the standard deviation of each Gaussian.
        radius: the radius of the circle.
        num_modes: the number of centres.
        seed: of the draws.
        labels: whether batches carry y.
        index: whether batches carry the number of each point in its part.

    Attributes:
        modes: the centres, (8, 2).
        std: the standard deviation.

    Raises:
        InvalidInput: a size or number of centres below 1, or a negative std, radius or seed.

    Example:
        >>> GaussianRing((8, 4, 4), radius=2.0).modes.norm(dim=1).round(decimals=4).unique()
        tensor([2.])

    Reference:
        Metz, Poole, Pfau, Sohl-Dickstein: Unrolled generative adversarial networks (2017), radius 2, std 0.02.
    """

    def __init__(
        self,
        sizes: Sizes = SIZES,
        *,
        std: float = 0.02,
        radius: float = 2.0,
        num_modes: int = 8,
        seed: int = 0,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        _require_some("num_modes", num_modes)
        angles = 2 * math.pi * np.arange(num_modes) / num_modes
        centres = radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self.modes, self.std = torch.from_numpy(centres.astype(np.float32)), std
        super().__init__(
            "GaussianRing",
            _equal_gaussians(centres, std),
            sizes,
            seed=seed,
            labels=labels,
            index=index,
            num_classes=num_modes,
            settings={"std": std, "radius": radius, "num_modes": num_modes},
        )


def _equal_gaussians(centres: np.ndarray, std: float) -> Draw:
    def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(len(centres), size=count)
        return centres[y] + std * rng.standard_normal((count, 2)), y

    return draw


def _require_some(where: str, value: int) -> None:
    if value < 1:
        raise InvalidInput("bad setting", where=where, value=value, expected="a number >= 1")
