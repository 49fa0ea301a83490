"""PixelRNN: images pixel by pixel, with LSTMs over all pixels before."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.models.autoregressive import AutoregressiveModel
from pyro_dgm.nets.diagonal_lstm import DiagonalBiLSTM
from pyro_dgm.nets.image_lstm import ImageLSTM
from pyro_dgm.nets.pixel_rnn import PixelLSTM


class PixelRNN(AutoregressiveModel):
    r"""Pixel recurrent neural network, of diagonal bidirectional LSTMs or row LSTMs.

    .. math:: p(x) = \prod_{r, c} \prod_k p(x_{k,r,c} \mid \theta_{k,r,c}), \qquad
              \theta_{k,r,c} = \theta(\text{pixels before } (r, c), \; x_{1,r,c}, \dots, x_{k-1,r,c})

    Pixels come row by row from the upper left; red comes before green, green before blue. With a
    context it is a decoder p(x | z) for a VAE.

    Args:
        data_shape: shape of one image, (C, H, W).
        layer: makes one LSTM layer; :class:`~pyro_dgm.nets.DiagonalBiLSTM`, which sees all pixels before, or
            :class:`~pyro_dgm.nets.RowLSTM`, which sees a triangle above each pixel and takes half the time.
        hidden: feature maps h of a state; between the layers there are 2h.
        num_layers: number of LSTM layers.
        kernel_size: odd side of the first convolution.
        out_features: feature maps of the layer before the parameters.
        observation: piece p(x | params); Bernoulli elements by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,) or (features, H, W); () for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel`; data that are no images, an even kernel,
            fewer feature maps than channels, or an observation that does not say what it takes.

    Example:
        >>> import torch
        >>> pixel_rnn = PixelRNN((1, 4, 4), hidden=4, num_layers=2)
        >>> pixel_rnn().log_prob(torch.zeros(5, 1, 4, 4)).shape, pixel_rnn.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 4, 4]))

    Reference:
        Van den Oord, Kalchbrenner and Kavukcuoglu, "Pixel recurrent neural networks", 2016.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        layer: Callable[[int, int], ImageLSTM] = DiagonalBiLSTM,
        hidden: int = 16,
        num_layers: int = 7,
        kernel_size: int = 7,
        out_features: int = 32,
        observation: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, observation, num_classes=num_classes, context_shape=context_shape)
        self.network = PixelLSTM(
            self.data_shape,
            self.num_params,
            layer=layer,
            hidden=hidden,
            num_layers=num_layers,
            kernel_size=kernel_size,
            out_features=out_features,
            context_shape=self.context_shape,
        )
