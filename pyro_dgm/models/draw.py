"""DRAW: an image drawn in steps on a canvas by two recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import BernoulliObservation, DiagonalNormal, StandardNormal
from pyro_dgm.models.chaining import require_chain
from pyro_dgm.models.defaults import params_shape
from pyro_dgm.models.drawing import Drawing, DrawingInSteps
from pyro_dgm.nets import AttentiveRead, AttentiveWrite, LSTMCell
from pyro_dgm.nets.recurrent import Memory
from pyro_dgm.shapes import positive_sizes


class DRAW(DrawingInSteps):
    r"""Deep recurrent attentive writer.

    .. math:: z_t \sim \mathcal{N}(0, I), \quad
              h_t = \mathrm{LSTM}(h_{t-1}, z_t), \quad
              c_t = c_{t-1} + \mathrm{write}(h_t), \qquad
              x \mid z_{1:T} \sim p(x \mid c_T)

    .. math:: g_t = \mathrm{LSTM}(g_{t-1}, [\mathrm{read}(x, x - \mathbb{E}[x \mid c_{t-1}], h_{t-1}), h_{t-1}]),
              \qquad q(z_t \mid x, z_{<t}) = q(z_t \mid g_t)

    The sites z1..zT are steps in time, not layers of a hierarchy. With Bernoulli pixels the error image is
    x - sigmoid(c). The memories and the canvas before the first step are learned.

    Args:
        data_shape: shape of one datum, (channels, height, width) for images.
        latent_dim: number of latent dimensions of each step.
        num_steps: number T of steps.
        hidden: size of the memories of encoder and decoder.
        read_size: side in pixels of the glimpse of the default ``read``.
        write_size: side in pixels of the patch of the default ``write``.
        read: network ``read(x, error, h)`` from data, error (both (..., *data_shape)) and the decoder's state
            (..., hidden) to (..., read.out_features); :class:`~pyro_dgm.nets.AttentiveRead` by default, and
            :class:`~pyro_dgm.nets.FullRead` without attention.
        write: network from the decoder's state to (..., num_params, *data_shape), which is added to the canvas;
            :class:`~pyro_dgm.nets.AttentiveWrite` by default, and :class:`~pyro_dgm.nets.FullWrite` without
            attention.
        observation: piece p(x | canvas), with ``num_params`` parameters for each element of a datum; Bernoulli by
            default.

    Raises:
        InvalidInput: a size below one, or pieces that do not fit one another, by name; or, of the default pieces, data
            without height and width, or a glimpse larger than the image.

    Example:
        >>> draw = DRAW((1, 8, 8), 4, num_steps=3, hidden=16, read_size=3, write_size=3)
        >>> draw.sample(5).shape, draw.sample_steps(5).shape  # the picture, and how it was drawn
        (torch.Size([5, 1, 8, 8]), torch.Size([3, 5, 1, 8, 8]))
        >>> from pyro_dgm.nets import FullRead, FullWrite
        >>> plain = DRAW((1, 8, 8), 4, hidden=16, read=FullRead((1, 8, 8)), write=FullWrite((1, 1, 8, 8), 16))

    Reference:
        Gregor, Danihelka, Graves, Rezende and Wierstra, "DRAW: a recurrent neural network for image generation",
        2015.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: int,
        *,
        num_steps: int = 10,
        hidden: int = 256,
        read_size: int = 2,
        write_size: int = 5,
        read: nn.Module | None = None,
        write: nn.Module | None = None,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__(num_steps)
        data_shape = positive_sizes(data_shape, "data_shape")
        positive_sizes((hidden,), "hidden")
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        canvas_shape = params_shape(self.observation, data_shape)
        self.first_canvas = nn.Parameter(torch.zeros(canvas_shape))
        self.prior = StandardNormal(latent_dim)
        self.posterior = DiagonalNormal(hidden, latent_dim)
        self.read = AttentiveRead(data_shape, hidden, read_size) if read is None else read
        self.write = AttentiveWrite(canvas_shape, hidden, write_size) if write is None else write
        read_features: Any = self.read.out_features
        self.encoder = LSTMCell(read_features + hidden, hidden)
        self.decoder = LSTMCell(latent_dim, hidden)
        require_chain(self, DRAW, {"x": data_shape} | dict.fromkeys(self.sites, (latent_dim,)))

    def _start(self) -> Drawing:
        return Drawing(self.decoder.start(), self.first_canvas)

    def _start_encoder(self) -> Memory:
        return self.encoder.start()

    def _prior(self, drawing: Drawing) -> dist.TorchDistribution:
        return self.prior()

    def _draw(self, drawing: Drawing, z: Tensor) -> Drawing:
        decoder = self.decoder(drawing.decoder, z)
        return Drawing(decoder, drawing.canvas + self.write(decoder.h))

    def _look(self, encoder: Memory, drawing: Drawing, x: Tensor) -> Memory:
        error = x - self.observation(drawing.canvas).mean
        state = drawing.decoder.h
        memory: Memory = self.encoder(encoder, self.read(x, error, state), state)
        return memory
