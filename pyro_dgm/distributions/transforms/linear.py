"""Linear flows by decompositions whose determinants and inverses are cheap."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection, exactly
from pyro_dgm.distributions.transforms.parameters import Parameters
from pyro_dgm.shapes import positive_sizes


class _Linear(Bijection):
    """y = W x + b along the first dimension of an event; abstract."""

    parameters_of: Parameters

    def __init__(self, event_shape: Sequence[int], context_features: int) -> None:
        super().__init__(event_shape, context_shape=(context_features,) if context_features else ())
        self.features, self.places = self.event_shape[0], math.prod(self.event_shape[1:])

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given = self.parameters_of(context)
        columns = self._columns(x, context)
        with exactly(x):
            if context is None:
                # W itself first: there are more columns than features. Data lie one after the other.
                w = self._times(torch.eye(self.features, dtype=x.dtype, device=x.device), given)
                y = (columns.mT @ w.mT).mT
            else:
                y = self._times(columns, given)
        return self._shaped(y + given["b"].unsqueeze(-1), x, context), self._log_det(given, x)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        given = self.parameters_of(context)
        with exactly(y):
            x = self._solved(self._columns(y, context) - given["b"].unsqueeze(-1), given)
        return self._shaped(x, y, context), -self._log_det(given, y)

    def _columns(self, x: Tensor, context: Tensor | None) -> Tensor:
        """The data as matrices (..., features, places), or, where all have the same W, as one of all places."""
        x = x.reshape((*x.shape[: x.dim() - len(self.event_shape)], self.features, self.places))
        return x.mT.reshape(-1, self.features).mT if context is None else x

    def _shaped(self, columns: Tensor, like: Tensor, context: Tensor | None) -> Tensor:
        if context is None:
            columns = columns.mT.reshape(*self._leading(like), self.places, self.features).mT
        return columns.reshape((*columns.shape[:-2], *self.event_shape))

    def _leading(self, x: Tensor) -> torch.Size:
        return x.shape[: x.dim() - len(self.event_shape)]

    def _log_det(self, given: dict[str, Tensor], x: Tensor) -> Tensor:
        log_det = self.places * given["log_diagonal"].sum(-1)
        return log_det.expand(torch.broadcast_shapes(log_det.shape, self._leading(x)))

    @abstractmethod
    def _times(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        """W x."""

    @abstractmethod
    def _solved(self, y: Tensor, given: dict[str, Tensor]) -> Tensor:
        """The x of which y is W x."""


class LULinear(_Linear):
    r"""The map :math:`y = P L (U + \mathrm{diag}(s)) x + b` with a fixed permutation P and triangular L and U.

    L has ones and U zeros on the diagonal; the signs of s are fixed. Along the channels of an image this is the
    invertible 1x1 convolution of Glow.

    Args:
        event_shape: shape of one datum; the map is along its first dimension and the same at all others.
        rotated: whether the matrix starts as a random rotation; the identity if not.
        context_features: size of a context, of which L, U, log|s| and b are then linear functions; 0 for none.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> conv = LULinear((3, 8, 8))
        >>> x = torch.randn(10, 3, 8, 8)
        >>> y, log_det = conv.forward_and_log_det(x)
        >>> torch.allclose(conv.inverse_and_log_det(y)[0], x, atol=1e-4)
        True

    Reference: Glow: generative flow with invertible 1x1 convolutions (Kingma, Dhariwal, 2018), section 3.2.
    """

    p: Tensor
    signs: Tensor

    def __init__(
        self, event_shape: Sequence[int], *, rotated: bool = True, context_features: int = 0
    ) -> None:
        super().__init__(event_shape, context_features)
        n = self.features
        start_at = torch.linalg.qr(torch.randn(n, n).double())[0] if rotated else torch.eye(n).double()
        p, lower, upper = torch.linalg.lu(start_at)
        diagonal = upper.diagonal()
        self.register_buffer("p", p.float())
        self.register_buffer("signs", diagonal.sign().float())
        start = {
            "lower": lower.float(),
            "upper": upper.float(),
            "log_diagonal": diagonal.abs().log().float(),
            "b": torch.zeros(n),
        }
        self.parameters_of = Parameters({k: v.shape for k, v in start.items()}, context_features, start=start)

    def _triangles(self, given: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        diagonal = self.signs * given["log_diagonal"].exp()
        eye = torch.eye(self.features, dtype=diagonal.dtype, device=diagonal.device)
        return given["lower"].tril(-1) + eye, given["upper"].triu(1) + torch.diag_embed(diagonal)

    def _times(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        lower, upper = self._triangles(given)
        return self.p @ (lower @ (upper @ x))

    def _solved(self, y: Tensor, given: dict[str, Tensor]) -> Tensor:
        lower, upper = self._triangles(given)
        y = torch.linalg.solve_triangular(lower, self.p.mT @ y, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, y, upper=True)


class QRLinear(_Linear):
    r"""The map :math:`y = Q R x + b` with Q a product of Householder reflections and R triangular.

    R has a positive diagonal. The matrix starts orthogonal.

    Args:
        event_shape: shape of one datum; the map is along its first dimension and the same at all others.
        reflections: number of reflections; as many as the first dimension has by default, which reach any rotation.
        context_features: size of a context, of which all is then a linear function; 0 for none.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> linear = QRLinear((4,))
        >>> x = torch.randn(10, 4)
        >>> y, log_det = linear.forward_and_log_det(x)
        >>> torch.allclose(linear.inverse_and_log_det(y)[0], x, atol=1e-4)
        True

    Reference:
        Tomczak and Welling, "Improving variational auto-encoders using Householder flow", 2016.
        Hoogeboom, van den Berg and Welling, "Emerging convolutions for generative normalizing flows", 2019.
    """

    def __init__(
        self, event_shape: Sequence[int], *, reflections: int | None = None, context_features: int = 0
    ) -> None:
        super().__init__(event_shape, context_features)
        n = self.features
        (number,) = positive_sizes((n if reflections is None else reflections,), "reflections")
        start = {
            "directions": torch.randn(number, n),
            "upper": torch.zeros(n, n),
            "log_diagonal": torch.zeros(n),
            "b": torch.zeros(n),
        }
        self.parameters_of = Parameters({k: v.shape for k, v in start.items()}, context_features, start=start)

    def _times(self, x: Tensor, given: dict[str, Tensor]) -> Tensor:
        x = _upper(given) @ x
        for v in units(given["directions"]):
            x = reflected(x, v)
        return x

    def _solved(self, y: Tensor, given: dict[str, Tensor]) -> Tensor:
        for v in reversed(units(given["directions"])):
            y = reflected(y, v)
        return torch.linalg.solve_triangular(_upper(given), y, upper=True)


def _upper(given: dict[str, Tensor]) -> Tensor:
    return given["upper"].triu(1) + torch.diag_embed(given["log_diagonal"].exp())


def units(directions: Tensor) -> tuple[Tensor, ...]:
    """Unit vectors (..., n, 1) of directions (..., number, n)."""
    return (directions / directions.norm(dim=-1, keepdim=True)).unsqueeze(-1).unbind(-3)


def reflected(x: Tensor, v: Tensor) -> Tensor:
    """Columns of ``x`` (..., n, k) reflected at the plane that a unit vector ``v`` (..., n, 1) is normal to."""
    return x - 2 * v * (v.mT @ x)
