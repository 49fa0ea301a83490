"""Planar flows, with an inverse."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_dgm.distributions.transforms.bijection import Bijection
from pyro_dgm.distributions.transforms.parameters import Parameters
from pyro_dgm.distributions.transforms.roots import increasing_root


class Planar(Bijection):
    r"""The map :math:`y = x + \hat u \tanh(w^\top x + b)`, invertible since :math:`w^\top \hat u > -1`.

    .. math:: \hat u = u + (m(w^\top u) - w^\top u) \frac{w}{\|w\|^2}, \quad m(a) = -1 + \log(1 + e^a); \qquad
              |\det| = 1 + (1 - \tanh^2(w^\top x + b)) \, w^\top \hat u

    Along w the inverse is the root of an increasing function of one number. With a context u, w and b are linear
    functions of it.

    Args:
        features: size D of a vector.
        context_features: size of a context; 0 for none.

    Raises:
        InvalidInput: a size below one.

    Example:
        >>> planar = Planar(3)
        >>> x = torch.randn(10, 3)
        >>> y, log_det = planar.forward_and_log_det(x)
        >>> torch.allclose(planar.inverse_and_log_det(y)[0], x, atol=1e-5)
        True

    Reference: Variational inference with normalizing flows (Rezende, Mohamed, 2015), appendix A.1.
    """

    def __init__(self, features: int, *, context_features: int = 0) -> None:
        super().__init__((features,), context_shape=(context_features,) if context_features else ())
        self.parameters_of = Parameters({"u": (features,), "w": (features,), "b": ()}, context_features)

    def _parts(self, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """u-hat, w, b and w.u-hat."""
        given = self.parameters_of(context)
        u, w, b = given["u"], given["w"], given["b"]
        product = (w * u).sum(-1)
        wanted = torch.nn.functional.softplus(product) - 1
        u = u + ((wanted - product) / w.square().sum(-1)).unsqueeze(-1) * w
        return u, w, b, wanted

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b, product = self._parts(context)
        h = ((w * x).sum(-1) + b).tanh()
        return x + u * h.unsqueeze(-1), torch.log1p((1 - h * h) * product)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, w, b, product = self._parts(context)
        t = (w * y).sum(-1)

        def function(a: Tensor) -> tuple[Tensor, Tensor]:
            h = (a + b).tanh()
            return a + product * h - t, 1 + (1 - h * h) * product

        a = increasing_root(function, t - product.abs() - 1e-6, t + product.abs() + 1e-6)
        h = (a + b).tanh()
        return y - u * h.unsqueeze(-1), -torch.log1p((1 - h * h) * product)
