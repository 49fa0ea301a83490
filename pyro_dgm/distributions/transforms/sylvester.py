"""Sylvester flows with the right log-determinant, and an inverse."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection, exactly
from pyro_dgm.distributions.transforms.linear import reflected, units
from pyro_dgm.distributions.transforms.parameters import Parameters
from pyro_dgm.distributions.transforms.roots import increasing_root
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import positive_sizes

Kind = Literal["orthogonal", "householder", "triangular"]


class Sylvester(Bijection):
    r"""The map :math:`y = x + Q R \tanh(\tilde R Q^\top x + b)` with orthonormal columns in Q.

    Q has M columns, and R and its twin are upper triangular, so that by Sylvester's identity

    .. math:: \log |\det| = \sum_i \log(1 + \tanh'_i \, R_{ii} \tilde R_{ii}), \qquad R_{ii}, \tilde R_{ii} \in (-1, 1)

    The inverse finds the elements of :math:`Q^\top x` from the last to the first, each as the root of an increasing
    function, since each is seen by those before it alone. With a context R, its twin, b and, but for
    "triangular", Q are functions of it.

    Args:
        features: size D of a vector.
        columns: number M of columns of Q, at most D; D by default.
        kind: how Q is made: ``"orthogonal"`` from a matrix by Gram-Schmidt (QR), ``"householder"`` as the product of
            ``reflections`` reflections, or ``"triangular"``: the elements as they lie, or with ``flip`` backwards.
        reflections: number of reflections.
        flip: see ``kind``; for every other map of a chain.
        context_features: size of a context; 0 for none.

    Raises:
        InvalidInput: a size below one, more columns than features, or another kind.

    Example:
        >>> sylvester = Sylvester(4, 2)
        >>> x = torch.randn(10, 4)
        >>> y, log_det = sylvester.forward_and_log_det(x)
        >>> torch.allclose(sylvester.inverse_and_log_det(y)[0], x, atol=1e-5)
        True

    Reference:
        Van den Berg, Hasenclever, Tomczak and Welling, "Sylvester normalizing flows for variational inference", 2018.
    """

    def __init__(
        self,
        features: int,
        columns: int | None = None,
        *,
        kind: Kind = "orthogonal",
        reflections: int = 8,
        flip: bool = False,
        context_features: int = 0,
    ) -> None:
        super().__init__((features,), context_shape=(context_features,) if context_features else ())
        (self.columns,) = positive_sizes((features if columns is None else columns,), "columns")
        if self.columns > features:
            raise InvalidInput(
                "too many columns", where="columns", value=columns, expected=f"at most {features}"
            )
        bases = {
            "orthogonal": (features, self.columns),
            "householder": (reflections, features),
            "triangular": (0,),
        }
        if kind not in bases:
            raise InvalidInput("unknown kind", where="kind", value=kind, expected=", ".join(bases))
        self.kind, self.flip = kind, flip
        square = (self.columns, self.columns)
        shapes = {"r": square, "r_twin": square, "b": (self.columns,)}
        self.parameters_of = Parameters(shapes, context_features)
        self.basis_of = None
        if kind != "triangular":
            self.basis_of = Parameters(
                {"basis": positive_sizes(bases[kind], "reflections")}, context_features
            )

    def _parts(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q (..., D, M), R and its twin (..., M, M), and b (..., M)."""
        given = self.parameters_of(context)
        r, twin = (_triangular(given[name]) for name in ("r", "r_twin"))
        return self._basis(context, r), r, twin, given["b"]

    def _basis(self, context: Tensor | None, like: Tensor) -> Tensor:
        features = self.event_shape[0]
        if self.basis_of is None:
            eye = torch.eye(features, dtype=like.dtype, device=like.device)
            return (eye.flip(0) if self.flip else eye)[:, : self.columns]
        raw = self.basis_of(context)["basis"]
        if self.kind == "orthogonal":
            start = torch.eye(features, dtype=like.dtype, device=like.device)[:, : self.columns]
            return torch.linalg.qr(start + raw)[0]
        q = torch.eye(features, dtype=like.dtype, device=like.device)[:, : self.columns]
        for v in units(raw):
            q = reflected(q, v)
        return q

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        with exactly(x):
            return self._mapped(x, context)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        with exactly(y):
            return self._mapped_back(y, context)

    def _mapped(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        q, r, twin, b = self._parts(context)
        s = _times(q.mT, x)
        h = (_times(twin, s) + b).tanh()
        return x + _times(q, _times(r, h)), _log_det(h, r, twin)

    def _mapped_back(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        q, r, twin, b = self._parts(context)
        t = _times(q.mT, y)
        found: list[Tensor] = []  # h of the last elements, in their order
        after: list[Tensor] = []  # the elements themselves
        for i in reversed(range(self.columns)):
            known = t[..., i] - _dot(r[..., i, i + 1 :], found)
            inner = b[..., i] + _dot(twin[..., i, i + 1 :], after)
            outer, slope = r[..., i, i], twin[..., i, i]

            def function(
                s: Tensor,
                known: Tensor = known,
                inner: Tensor = inner,
                outer: Tensor = outer,
                slope: Tensor = slope,
            ) -> tuple[Tensor, Tensor]:
                h = (slope * s + inner).tanh()
                return s + outer * h - known, 1 + (1 - h * h) * outer * slope

            s = increasing_root(function, known - outer.abs() - 1e-6, known + outer.abs() + 1e-6)
            after.insert(0, s)
            found.insert(0, (slope * s + inner).tanh())
        h = torch.stack(found, -1)
        return y - _times(q, _times(r, h)), -_log_det(h, r, twin)


def _triangular(raw: Tensor) -> Tensor:
    """Upper triangular matrices with a diagonal in (-1, 1)."""
    return raw.triu(1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).tanh())


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """The product, whose draws share the matrix of their context: ``@`` would copy it for each of them."""
    return torch.einsum("...ij,...j->...i", matrix, vector)


def _dot(row: Tensor, values: list[Tensor]) -> Tensor | float:
    return (row * torch.stack(values, -1)).sum(-1) if values else 0.0


def _log_det(h: Tensor, r: Tensor, twin: Tensor) -> Tensor:
    diagonals = r.diagonal(dim1=-2, dim2=-1) * twin.diagonal(dim1=-2, dim2=-1)
    return torch.log1p((1 - h * h) * diagonals).sum(-1)
