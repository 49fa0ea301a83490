"""Distributions in the plane on which a model's faults can be seen."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping

import numpy as np
import torch
from sklearn.datasets import make_circles, make_moons

from pyro_dgm.data.preprocessing import PARTS, Preparation
from pyro_dgm.data.splits import Dataset
from pyro_dgm.errors import InvalidInput

Sizes = tuple[int, int, int]
Draw = Callable[[int, np.random.Generator], tuple[np.ndarray, np.ndarray]]
SIZES: Sizes = (10_000, 2_000, 10_000)


class Plane(Dataset):
    """Points of the plane drawn from a generator, the parts apart, from streams of the same seed.

    Args:
        name: the data set's name.
        draw: `(count, rng) -> (points (count, 2), labels (count,))`.
        sizes: how many points to draw for train, val and test.
        seed: the same points for the same seed, with the same versions of NumPy and scikit-learn.
        labels: whether batches carry the labels.
        index: whether batches carry the number of each point in its part.
        num_classes: the number of labels.
        settings: what else decides the distribution; numbers, none of them negative.

    Raises:
        InvalidInput: a size below 1, or a negative seed or setting.
    """

    @abstractmethod
    def __init__(
        self,
        name: str,
        draw: Draw,
        sizes: Sizes,
        *,
        seed: int,
        labels: bool,
        index: bool,
        num_classes: int,
        settings: Mapping[str, float],
    ) -> None:
        if len(sizes) != 3 or min(sizes) < 1:
            raise InvalidInput(
                "bad sizes", where="sizes", value=sizes, expected="three numbers >= 1", cure=f"{SIZES}"
            )
        for key, value in {**settings, "seed": seed}.items():
            if not (math.isfinite(value) and value >= 0):
                raise InvalidInput("bad setting", where=key, value=value, expected="a number >= 0")
        drawn = [draw(size, np.random.default_rng([seed, part])) for part, size in enumerate(sizes)]
        xs = [torch.from_numpy(np.asarray(points, np.float32)) for points, _ in drawn]
        ys = [torch.from_numpy(np.asarray(tags, np.int64)) for _, tags in drawn] if labels else None
        preparation = Preparation(levels=None)
        rule = f"each part drawn by default_rng([seed, part]), part = 0 for {PARTS[0]}, 1, 2"
        about = preparation.describe(xs, source=f"drawn by {name}", rule=rule)
        super().__init__(
            name,
            preparation.splits(xs, ys, index=index),
            preprocessing={**about, **settings, "seed": seed},
            num_classes=num_classes,
        )


class Moons(Plane):
    """Two half circles of radius 1 that hold each other, with Gaussian noise; y is the moon.

    Drawn by scikit-learn's `make_moons`; nothing is rescaled. The parts are drawn apart.

    Args:
        sizes: how many points to draw for train, val and test.
        noise: the standard deviation of the noise.
        seed: of the draws.
        labels: whether batches carry y.
        index: whether batches carry the number of each point in its part.

    Raises:
        InvalidInput: a size below 1, or a negative noise or seed.

    Example:
        >>> Moons((8, 4, 4), noise=0.1).train.x.shape
        torch.Size([8, 2])

    Reference:
        Pedregosa and others: Scikit-learn: machine learning in Python (2011).
    """

    def __init__(
        self,
        sizes: Sizes = SIZES,
        *,
        noise: float = 0.05,
        seed: int = 0,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            return make_moons(count, noise=noise, random_state=int(rng.integers(2**31)))

        settings = {"noise": noise}
        super().__init__(
            "Moons", draw, sizes, seed=seed, labels=labels, index=index, num_classes=2, settings=settings
        )


class Rings(Plane):
    """Two circles about the origin, the outer of radius 1, with Gaussian noise; y = 1 on the inner.

    Drawn by scikit-learn's `make_circles`; nothing is rescaled. The parts are drawn apart.

    Args:
        sizes: how many points to draw for train, val and test.
        noise: the standard deviation of the noise.
        factor: the radius of the inner circle, below 1.
        seed: of the draws.
        labels: whether batches carry y.
        index: whether batches carry the number of each point in its part.

    Raises:
        InvalidInput: a size below 1, a negative noise or seed, or a factor outside [0, 1).

    Example:
        >>> Rings((8, 4, 4), noise=0.0, factor=0.5).train.x.norm(dim=1).unique().round(decimals=3)
        tensor([0.5000, 1.0000])

    Reference:
        Pedregosa and others: Scikit-learn: machine learning in Python (2011).
    """

    def __init__(
        self,
        sizes: Sizes = SIZES,
        *,
        noise: float = 0.05,
        factor: float = 0.5,
        seed: int = 0,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        if not 0 <= factor < 1:
            raise InvalidInput("bad setting", where="factor", value=factor, expected="a number in [0, 1)")

        def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            return make_circles(count, noise=noise, factor=factor, random_state=int(rng.integers(2**31)))

        settings = {"noise": noise, "factor": factor}
        super().__init__(
            "Rings", draw, sizes, seed=seed, labels=labels, index=index, num_classes=2, settings=settings
        )


class Pinwheel(Plane):
    """Gaussian arms bent into a pinwheel; y is the arm.

    With (r, t) = (1 + radial_std e1, tangential_std e2) the point is (r, t) turned by
    2 pi y / arms + rate exp(r). The parts are drawn apart.

    Args:
        sizes: how many points to draw for train, val and test.
        radial_std: the standard deviation along an arm.
        tangential_std: the standard deviation across it.
        arms: the number of arms.
        rate: how far the arms are bent.
        seed: of the draws.
        labels: whether batches carry y.
        index: whether batches carry the number of each point in its part.

    Raises:
        InvalidInput: a size or number of arms below 1, or another negative setting.

    Example:
        >>> Pinwheel((50, 4, 4), arms=3, labels=True).train.y.unique()
        tensor([0, 1, 2])

    Reference:
        Johnson, Duvenaud, Wiltschko, Datta, Adams: Composing graphical models with neural networks for structured
        representations and fast inference (2016).
    """

    def __init__(
        self,
        sizes: Sizes = SIZES,
        *,
        radial_std: float = 0.3,
        tangential_std: float = 0.1,
        arms: int = 5,
        rate: float = 0.25,
        seed: int = 0,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        if arms < 1:
            raise InvalidInput("bad setting", where="arms", value=arms, expected="a number >= 1", cure="5")

        def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            y = rng.integers(arms, size=count)
            r, t = (rng.standard_normal((count, 2)) * [radial_std, tangential_std] + [1, 0]).T
            angle = 2 * math.pi * y / arms + rate * np.exp(r)
            turned = [r * np.cos(angle) - t * np.sin(angle), r * np.sin(angle) + t * np.cos(angle)]
            return np.stack(turned, axis=1), y

        settings = {"radial_std": radial_std, "tangential_std": tangential_std, "arms": arms, "rate": rate}
        super().__init__(
            "Pinwheel",
            draw,
            sizes,
            seed=seed,
            labels=labels,
            index=index,
            num_classes=arms,
            settings=settings,
        )


class Checkerboard(Plane):
    """Points uniform on the black half of a 4x4 board on [-4, 4]^2; y is the square, 0..7.

    The density is 1/32 on the board's black squares, so no model has a higher expected log-likelihood than
    -log 32 = -3.466 nats. The parts are drawn apart.

    Args:
        sizes: how many points to draw for train, val and test.
        seed: of the draws.
        labels: whether batches carry y.
        index: whether batches carry the number of each point in its part.

    Raises:
        InvalidInput: a size below 1, or a negative seed.

    Example:
        >>> x = Checkerboard((100, 4, 4)).train.x
        >>> (x / 2).floor().sum(dim=1).remainder(2).unique()  # column + row is even on a black square
        tensor([0.])

    Reference:
        Grathwohl, Chen, Bettencourt, Sutskever, Duvenaud: FFJORD: free-form continuous dynamics for scalable
        reversible generative models (2019).
    """

    def __init__(
        self, sizes: Sizes = SIZES, *, seed: int = 0, labels: bool = False, index: bool = False
    ) -> None:
        def draw(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
            y = rng.integers(8, size=count)
            column, half = y // 2, y % 2
            corner = np.stack([column, 2 * half + column % 2], axis=1)
            return 2 * (corner + rng.random((count, 2))) - 4, y

        super().__init__(
            "Checkerboard", draw, sizes, seed=seed, labels=labels, index=index, num_classes=8, settings={}
        )
