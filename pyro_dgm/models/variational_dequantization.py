"""Flows of grey levels, by dequantisation that is learned with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import Dequantization, Quantized
from pyro_dgm.errors import InvalidInput
from pyro_dgm.program import Program
from pyro_dgm.shapes import positive_sizes


class VariationalDequantization(Program):
    r"""A density over real images, and the grey levels of its draws.

    .. math:: v \sim p(v), \quad k = \lfloor L v \rfloor; \qquad q(v \mid x) \text{ within the cell of } x = k / (L - 1)

    So :math:`P(x) = \int_{\mathrm{cell}} p(v) \, dv` is a probability, of which the ELBO is a bound in nats; more
    particles tighten it. The guide is uniform dequantisation by default, and variational with a base that learns. Data
    are grey levels as they are, not dequantised ones.

    Args:
        data_shape: shape of one datum.
        flow: piece p(v), such as :func:`~pyro_dgm.models.glow`, whose call returns a distribution of this event shape.
        levels: number L of grey levels.
        base: piece q(e | x) of :class:`~pyro_dgm.distributions.Dequantization`; uniform dequantisation if None.

    Raises:
        InvalidInput: a size below one, a flow of another shape, or fewer than two levels.

    Example:
        >>> from pyro_dgm.models import glow
        >>> program = VariationalDequantization((1, 8, 8), glow((1, 8, 8), num_steps=1, channels=8), levels=17)
        >>> program.sample(3).shape
        torch.Size([3, 1, 8, 8])

    Reference:
        Uria, Murray and Larochelle, "RNADE: the real-valued neural autoregressive density-estimator", 2013.
        Theis, van den Oord and Bethge, "A note on the evaluation of generative models", 2016.
        Ho, Chen, Srinivas, Duan and Abbeel, "Flow++: improving flow-based generative models with variational
        dequantization and architecture design", 2019.
    """

    def __init__(
        self, data_shape: Sequence[int], flow: nn.Module, *, levels: int, base: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.data_shape, self.levels = positive_sizes(data_shape, "data_shape"), levels
        found = getattr(flow, "data_shape", self.data_shape)
        if tuple(found) != self.data_shape:
            raise InvalidInput(
                "a flow of another shape", where="flow", value=tuple(found), expected=f"{self.data_shape}"
            )
        self.flow = flow
        self.posterior = Dequantization(self.data_shape, levels=levels, base=base)

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(v) and the levels of v; ``x`` (batch, *data_shape), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            v = pyro.sample("z", self.flow())
            return pyro.sample("x", self._levels_of(v), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(v | x)."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))

    @torch.no_grad()
    def initialize(self, x: Tensor, *rest: Any) -> None:
        """Starts the flow at dequantised data."""
        start = getattr(self.flow, "initialize", None)
        if start is not None:
            start(self.posterior(x).sample())

    @torch.no_grad()
    def sample(self, num: int) -> Tensor:
        """``num`` draws of x, (num, *data_shape)."""
        if num < 0:
            raise InvalidInput("bad number", where="num", value=num, expected="an integer >= 0")
        return self._levels_of(self.flow().sample((num,))).sample()

    def _levels_of(self, v: Tensor) -> Any:
        return Quantized(v, levels=self.levels).to_event(len(self.data_shape))
