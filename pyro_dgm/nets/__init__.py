"""Networks that know nothing of Pyro; every one accepts any leading dimensions."""

from pyro_dgm.nets.attention import AttentiveRead, AttentiveWrite, FullRead, FullWrite
from pyro_dgm.nets.causal_conv import CausalConv1d, Upsampling
from pyro_dgm.nets.conv import ConvDecoder, ConvEncoder
from pyro_dgm.nets.conv_maps import ConvMaps
from pyro_dgm.nets.diagonal_lstm import DiagonalBiLSTM
from pyro_dgm.nets.filterbank import GaussianFilterbank
from pyro_dgm.nets.flatten import FlattenEvent, flatten_event
from pyro_dgm.nets.gated import GatedLinear, GatedMLP
from pyro_dgm.nets.gated_pixel_cnn import GatedConvNet
from pyro_dgm.nets.image_lstm import ImageLSTM
from pyro_dgm.nets.labels import OneHot
from pyro_dgm.nets.masked import MaskedLinear, causal_mask
from pyro_dgm.nets.masked_conv import CausalConv2d, Cursor, MaskedConv2d, channel_groups
from pyro_dgm.nets.masked_mlp import MaskedMLP
from pyro_dgm.nets.mlp import MLP
from pyro_dgm.nets.nade import SharedWeights
from pyro_dgm.nets.pixel_cnn import MaskedConvNet
from pyro_dgm.nets.pixel_rnn import PixelLSTM
from pyro_dgm.nets.raster import RasterNetwork
from pyro_dgm.nets.recurrent import ConvLSTMCell, LSTMCell
from pyro_dgm.nets.residual import ResidualBlock
from pyro_dgm.nets.residual_mlp import ResidualMLP, ResidualTower
from pyro_dgm.nets.row_lstm import RowLSTM
from pyro_dgm.nets.wavenet import WaveNetStack

__all__ = [
    "MLP",
    "AttentiveRead",
    "AttentiveWrite",
    "CausalConv1d",
    "CausalConv2d",
    "ConvDecoder",
    "ConvEncoder",
    "ConvLSTMCell",
    "ConvMaps",
    "Cursor",
    "DiagonalBiLSTM",
    "FlattenEvent",
    "FullRead",
    "FullWrite",
    "GatedConvNet",
    "GatedLinear",
    "GatedMLP",
    "GaussianFilterbank",
    "ImageLSTM",
    "LSTMCell",
    "MaskedConv2d",
    "MaskedConvNet",
    "MaskedLinear",
    "MaskedMLP",
    "OneHot",
    "PixelLSTM",
    "RasterNetwork",
    "ResidualBlock",
    "ResidualMLP",
    "ResidualTower",
    "RowLSTM",
    "SharedWeights",
    "Upsampling",
    "WaveNetStack",
    "causal_mask",
    "channel_groups",
    "flatten_event",
]
