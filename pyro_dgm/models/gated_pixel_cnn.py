"""The gated PixelCNN: an image pixel by pixel, by two stacks of gated convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyro_dgm.models.autoregressive import AutoregressiveModel
from pyro_dgm.nets import GatedConvNet


class GatedPixelCNN(AutoregressiveModel):
    r"""Gated PixelCNN, which has no blind spot.

    .. math:: p(x \mid c) = \prod_{i} p(x_i \mid \theta_i), \qquad \theta = \mathrm{gated\ convolutions}(x, c)

    over pixels from left to right and from top to bottom, and red, green and blue of each. With a context of maps,
    (features, H, W), or a vector, (features,), it is a decoder p(x | z) for a VAE.

    Args:
        data_shape: shape of one image, (C, H, W).
        channels: feature maps of each of the two stacks.
        num_layers: number of gated layers.
        kernel_size: odd size of the convolutions of the first layer.
        layer_kernel_size: odd size of those of the other layers; 1 keeps what a pixel sees within the first.
        observation: piece p(x | params); Bernoulli pixels by default, ``CategoricalObservation`` for 256 grey levels.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,) or (features, H, W); () for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel`, data that are no images, a kernel of an
            even size, or an observation that does not say what it takes.

    Example:
        >>> import torch
        >>> pixel_cnn = GatedPixelCNN((1, 8, 8), channels=16, num_layers=2)
        >>> pixel_cnn().log_prob(torch.zeros(5, 1, 8, 8)).shape, pixel_cnn.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))

    Reference:
        Van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves and Kavukcuoglu, "Conditional image generation with
        PixelCNN decoders", 2016.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        channels: int = 64,
        num_layers: int = 7,
        kernel_size: int = 7,
        layer_kernel_size: int = 3,
        observation: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, observation, num_classes=num_classes, context_shape=context_shape)
        self.network = GatedConvNet(
            self.data_shape,
            self.num_params,
            channels=channels,
            num_layers=num_layers,
            kernel_size=kernel_size,
            layer_kernel_size=layer_kernel_size,
            context_shape=self.context_shape,
        )
