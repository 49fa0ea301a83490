"""Programs without latent variables, whose log p(x) is exact."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models.given import check_given, given_for
from pyro_dgm.nets import OneHot
from pyro_dgm.program import Program
from pyro_dgm.shapes import positive_sizes


class TractableModel(Program):
    r"""Program with one site, x, and an empty guide, so that every bound is log p(x) itself; abstract.

    It is a piece as well: called, with a context where it takes one, it returns p(x | c), a distribution with
    ``log_prob`` and ``sample``, for a decoder p(x | z), a prior over z, or a model of a user's own.

    Where there are labels (``num_classes``) the program models p(x | y): batches are (x, y), c are unit vectors, and
    ``model(n=64)`` without y first draws labels, each with the same probability. Where a ``context_shape`` is given,
    y is the context itself.

    Args:
        data_shape: shape of one datum.
        num_classes: number of classes of y; None if y is no label.
        context_shape: shape of one context; () for none.

    Raises:
        InvalidInput: a size below one, both a number of classes and a context, or, when it is called, a y that is no
            label or of another shape or number than x.
        IncompatibleModel: when it is called without a context or y that it needs, or with one that it does not take.
    """

    uniform: Tensor

    def __init__(
        self, data_shape: Sequence[int], *, num_classes: int | None = None, context_shape: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.data_shape = positive_sizes(data_shape, "data_shape")
        if not self.data_shape:
            raise InvalidInput("no dimensions", where="data_shape", value="()", expected="integers >= 1")
        if num_classes is not None and len(context_shape):
            raise InvalidInput(
                "labels and another context",
                where="num_classes, context_shape",
                value=f"{num_classes}, {tuple(context_shape)}",
                expected="one of them",
                cure="a context that holds the labels' unit vectors",
            )
        self.num_classes = num_classes
        self.context = None if num_classes is None else OneHot(num_classes)
        self.given_shape = () if num_classes is not None else positive_sizes(context_shape, "context_shape")
        self.context_shape = self.given_shape if num_classes is None else (num_classes,)
        self.register_buffer("uniform", torch.zeros(num_classes or 0), persistent=False)  # logits of p(y)

    @abstractmethod
    def forward(self, c: Tensor | None = None) -> dist.TorchDistribution:
        """The distribution p(x | c), for contexts ``c`` (..., *context_shape) where the model takes one."""

    def model(self, x: Tensor | None = None, y: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(x) or p(x | y); ``x`` (batch, *data_shape), or draws: ``n``, or one for each ``y``."""
        pyro.module(self.pyro_name, self)
        if x is None and y is not None and not self.context_shape:
            self.check_context(y)
        self._check(x, y)
        batch = x if y is None else y
        with pyro.plate("data", n if batch is None else len(batch)):
            if y is None and self.num_classes is not None:
                y = pyro.sample("y", dist.Categorical(logits=self.uniform))
            return pyro.sample("x", self._given(y), obs=x)

    def initialize(self, x: Tensor, y: Tensor | None = None, *rest: Any) -> None:
        """Checks every y, and starts the observation at the mean of the data."""
        self._check(x, y, values=True)
        super().initialize(x)

    @torch.no_grad()
    def sample(self, num: int, *, y: Tensor | int | None = None) -> Tensor:
        """``num`` draws of x, (num, *data_shape).

        Args:
            num: number of draws.
            y: what is given: one for all draws, or one for each; labels are drawn by default.

        Raises:
            InvalidInput: a negative number, or another number of y.
        """
        if num < 0:
            raise InvalidInput("bad number", where="num", value=num, expected="an integer >= 0")
        c = self.contexts(num, y)
        return self().sample((num,)) if c is None else self(c).sample()

    def contexts(self, num: int, y: Tensor | int | None) -> Tensor | None:
        """Contexts (num, *context_shape) of draws given ``y``, as for :meth:`sample`; None where there are none."""
        if not self.context_shape:
            if y is not None:
                self.check_context(torch.as_tensor(y))
            return None
        if y is None:
            self._check(None, None)
        y = given_for(num, y, uniform=self.uniform, shape=self.given_shape)
        self._check(None, y, values=True)
        return y if self.context is None else self.context(y)

    def check_context(self, c: Tensor | None) -> None:
        """Raises where a context is missing, or one is given to a model that takes none."""
        if (c is None) == (not self.context_shape):
            return
        owner = type(self).__name__
        if c is None:
            shape = ", ".join(map(str, self.context_shape))
            raise IncompatibleModel("no context", where=owner, expected=f"contexts (..., {shape})")
        raise IncompatibleModel(
            "a context that is not taken",
            where=owner,
            value=tuple(c.shape),
            expected="none",
            cure=f"{owner}(..., context_shape=...), or num_classes=...",
        )

    def _given(self, y: Tensor | None) -> dist.TorchDistribution:
        """p(x | y), or p(x) where the model takes no context."""
        if not self.context_shape:
            return self()
        return self(y if self.context is None else self.context(y))

    def _check(self, x: Tensor | None, y: Tensor | None, *, values: bool | None = None) -> None:
        if self.context_shape:
            shape, owner = self.given_shape, type(self).__name__
            check_given(x, y, num_classes=self.num_classes, shape=shape, owner=owner, values=values)
