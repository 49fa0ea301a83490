"""Drawing in steps: what DRAW and convolutional DRAW have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_dgm.nets.recurrent import Memory
from pyro_dgm.program import Program
from pyro_dgm.shapes import count_in_a_row


class Drawing(NamedTuple):
    """What model and guide share after a step.

    Args:
        decoder: memory of the decoder.
        canvas: parameters of p(x | z1..zt), (..., num_params, *data_shape).
    """

    decoder: Memory
    canvas: Tensor


class DrawingInSteps(Program):
    r"""Model of a latent for each step in time, whose steps add to a canvas, and a guide that watches it; abstract.

    .. math:: p(x, z_{1:T}) = \prod_t p(z_t \mid d_{t-1})\; p(x \mid d_T), \qquad
              q(z_{1:T} \mid x) = \prod_t q(z_t \mid e_t), \qquad
              d_t = \mathrm{draw}(d_{t-1}, z_t), \quad e_t = \mathrm{look}(e_{t-1}, d_{t-1}, x)

    A subclass says how to start, what the prior is, how to draw and to look, and has the pieces ``observation``
    p(x | canvas) and ``posterior``.

    Args:
        num_steps: number T of steps; the sites are z1..zT.

    Raises:
        InvalidInput: no steps, or more than 1000.
    """

    observation: Callable[[Tensor], Any]
    posterior: Callable[[Tensor], Any]

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        count_in_a_row(num_steps, f"num_steps of {type(self).__name__}")
        self.sites = [f"z{t}" for t in range(1, num_steps + 1)]

    def _start(self) -> Drawing:
        """The drawing before the first step: without leading dimensions, which come with data and draws."""
        raise NotImplementedError

    def _start_encoder(self) -> Memory:
        """The encoder's memory before the first step, without leading dimensions."""
        raise NotImplementedError

    def _prior(self, drawing: Drawing) -> dist.TorchDistribution:
        """p(z_t | drawing before it)."""
        raise NotImplementedError

    def _draw(self, drawing: Drawing, z: Tensor) -> Drawing:
        """One step of the decoder, with ``z`` (..., latent dimensions of a step)."""
        raise NotImplementedError

    def _look(self, encoder: Memory, drawing: Drawing, x: Tensor) -> Memory:
        """One step of the encoder, which looks at the data and at what the drawing lacks of them."""
        raise NotImplementedError

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(z1) p(z2 | z1) ... p(zT | z1..z(T-1)) p(x | z1..zT); ``x`` (batch, *data_shape), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            drawing = self._start()
            for site in self.sites:
                drawing = self._draw(drawing, pyro.sample(site, self._prior(drawing)))
            return pyro.sample("x", self.observation(drawing.canvas), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(z1 | x) q(z2 | x, z1) ... q(zT | x, z1..z(T-1))."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            drawing, encoder = self._start(), self._start_encoder()
            for site in self.sites:
                encoder = self._look(encoder, drawing, x)
                drawing = self._draw(drawing, pyro.sample(site, self.posterior(encoder.h)))

    def canvases(self, z: Sequence[Tensor]) -> Tensor:
        """The canvas after each step, (T, ..., num_params, *data_shape); ``z`` has T tensors, one for each step."""
        drawing, found = self._start(), []
        for z_t in z:
            drawing = self._draw(drawing, z_t)
            found.append(drawing.canvas)
        return torch.stack(found)

    def sample_steps(self, num: int) -> Tensor:
        """How ``num`` draws come about: means of p(x | z1..zt) after each step, (T, num, *data_shape)."""
        mean: Tensor = self.observation(self._sample_canvases(num)).mean
        return mean

    def sample(self, num: int, *, mean: bool = False) -> Tensor:
        """``num`` draws of x (num, *data_shape), or with ``mean`` the means of p(x | z1..zT)."""
        observation = self.observation(self._sample_canvases(num)[-1])
        return observation.mean if mean else observation.sample()

    def _sample_canvases(self, num: int) -> Tensor:
        drawing, found = self._start(), []
        for _ in self.sites:
            drawing = self._draw(drawing, self._prior(drawing).expand((num,)).sample())
            found.append(drawing.canvas)
        return torch.stack(found)
