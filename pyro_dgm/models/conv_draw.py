"""Convolutional DRAW: an image drawn in steps by convolutional recurrent networks, with a learned prior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn

from pyro_dgm.distributions import BernoulliObservation
from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.chaining import require_chain
from pyro_dgm.models.defaults import params_shape
from pyro_dgm.models.drawing import Drawing, DrawingInSteps
from pyro_dgm.nets import ConvLSTMCell
from pyro_dgm.nets.recurrent import Memory, join, over_images
from pyro_dgm.shapes import positive_sizes


class ConvDRAW(DrawingInSteps):
    r"""Convolutional DRAW.

    .. math:: z_t \sim p(z_t \mid h_{t-1}), \quad
              h_t = \mathrm{ConvLSTM}(h_{t-1}, [z_t, V r_{t-1}]), \quad
              r_t = r_{t-1} + W h_t, \qquad
              x \mid z_{1:T} \sim p(x \mid r_T)

    .. math:: g_t = \mathrm{ConvLSTM}(g_{t-1}, [U (x, x - \mathbb{E}[x \mid r_{t-1}]), h_{t-1}]), \qquad
              q(z_t \mid x, z_{<t}) = q(z_t \mid g_t)

    U and V are strided convolutions down to the resolution of the memories, W a transposed one back up, so a latent
    is an image too, (latent_channels, H', W') with H' = ceil(H / stride); the sites z1..zT, steps in time, hold them
    flattened. Simplified from the paper: one layer of latents in each step, a fixed first canvas (the
    observation's offset starts it at the mean), no weight of the terms of the bound, and whichever observation is
    passed in for the paper's Gaussian.

    Args:
        data_shape: shape of one image, (channels, height, width), of any height and width.
        latent_channels: channels of the latent image of each step.
        num_steps: number T of steps.
        channels: channels of the memories of encoder and decoder.
        kernel_size: odd side of all kernels.
        stride: image pixels for each place of the memories; 2 for half the resolution, 1 for all of it.
        observation: piece p(x | canvas), with ``num_params`` parameters for each element of a datum; Bernoulli by
            default.

    Raises:
        InvalidInput: data that are no images, a size below one, an even kernel, or an observation that does not fit.

    Example:
        >>> draw = ConvDRAW((1, 9, 7), 2, num_steps=3, channels=8)
        >>> draw.sample(5).shape, draw.sample_steps(5).shape  # the picture, and how it was drawn
        (torch.Size([5, 1, 9, 7]), torch.Size([3, 5, 1, 9, 7]))

    Reference:
        Gregor, Besse, Rezende, Danihelka and Wierstra, "Towards conceptual compression", 2016.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_channels: int,
        *,
        num_steps: int = 8,
        channels: int = 32,
        kernel_size: int = 5,
        stride: int = 2,
        observation: nn.Module | None = None,
    ) -> None:
        super().__init__(num_steps)
        if len(data_shape) != 3:
            raise InvalidInput(
                "not an image",
                where="data_shape of ConvDRAW",
                value=tuple(data_shape),
                expected="(channels, height, width)",
                cure="DRAW with FullRead and FullWrite, which takes data of any shape",
            )
        colours, *size = positive_sizes(data_shape, "data_shape")
        positive_sizes((latent_channels, channels, stride), "latent_channels, channels or stride")
        self.observation = BernoulliObservation(data_shape) if observation is None else observation
        self.canvas_shape = params_shape(self.observation, data_shape)
        self.state_size = [(n - 1) // stride + 1 for n in size]
        self.latent_shape = (latent_channels, *self.state_size)
        self.prior = SpatialNormal(channels, latent_channels, kernel_size=kernel_size)
        self.posterior = SpatialNormal(channels, latent_channels, kernel_size=kernel_size)
        self.encoder = ConvLSTMCell(2 * channels, channels, kernel_size=kernel_size)
        self.decoder = ConvLSTMCell(latent_channels + channels, channels, kernel_size=kernel_size)
        down: Any = {"kernel_size": kernel_size, "stride": stride, "padding": kernel_size // 2}
        rest: Any = [n - 1 - (s - 1) * stride for n, s in zip(size, self.state_size, strict=True)]
        self.see = nn.Conv2d(2 * colours, channels, **down)
        on_canvas = self.canvas_shape[0] * colours
        self.review = nn.Conv2d(on_canvas, channels, **down)
        self.write = nn.ConvTranspose2d(channels, on_canvas, **down, output_padding=rest)
        latents = dict.fromkeys(self.sites, (math.prod(self.latent_shape),))
        require_chain(self, ConvDRAW, {"x": tuple(data_shape)} | latents)

    def _start(self) -> Drawing:
        decoder = self.decoder.start(self.state_size)
        return Drawing(decoder, decoder.h.new_zeros(self.canvas_shape))

    def _start_encoder(self) -> Memory:
        return self.encoder.start(self.state_size)

    def _prior(self, drawing: Drawing) -> dist.TorchDistribution:
        return self.prior(drawing.decoder.h)

    def _draw(self, drawing: Drawing, z: Tensor) -> Drawing:
        canvas = drawing.canvas.flatten(-4, -3)  # (..., num_params C, H, W)
        seen = over_images(self.review, canvas)
        decoder = self.decoder(drawing.decoder, z.unflatten(-1, self.latent_shape), seen)
        canvas = canvas + over_images(self.write, decoder.h)
        return Drawing(decoder, canvas.unflatten(-3, self.canvas_shape[:2]))

    def _look(self, encoder: Memory, drawing: Drawing, x: Tensor) -> Memory:
        error = x - self.observation(drawing.canvas).mean
        seen = over_images(self.see, join(x, error, event_dims=3))
        memory: Memory = self.encoder(encoder, seen, drawing.decoder.h)
        return memory


class SpatialNormal(nn.Module):
    """The conditional z | h of images, flattened: z ~ Normal(loc(h), diag(scale(h))^2) with one convolution.

    loc and raw are the two halves of the convolution's channels, and scale = scale_floor + softplus(raw).

    Args:
        in_channels: channels of the context h.
        latent_channels: channels of z.
        kernel_size: odd side of the kernel.
        scale_floor: the smallest scale, in units of z.

    Example:
        >>> import torch
        >>> SpatialNormal(8, 2)(torch.zeros(50, 20, 8, 4, 4)).event_shape
        torch.Size([32])
    """

    def __init__(
        self, in_channels: int, latent_channels: int, *, kernel_size: int = 3, scale_floor: float = 1e-4
    ) -> None:
        super().__init__()
        self.head = nn.Conv2d(in_channels, 2 * latent_channels, kernel_size, padding="same")
        self.scale_floor = scale_floor

    def forward(self, h: Tensor) -> dist.Independent:
        """The distribution of z given ``h``, (..., in_channels, H', W')."""
        loc, raw = at_least_float32(over_images(self.head, h)).chunk(2, dim=-3)
        return dist.Normal(loc.flatten(-3), positive(raw, self.scale_floor).flatten(-3)).to_event(1)
