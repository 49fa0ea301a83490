"""Networks that know nothing of Pyro; every one accepts any leading dimensions."""

from pyro_dgm.nets.attention import AttentiveRead, AttentiveWrite, FullRead, FullWrite
from pyro_dgm.nets.conv import ConvDecoder, ConvEncoder
from pyro_dgm.nets.filterbank import GaussianFilterbank
from pyro_dgm.nets.gated import GatedLinear, GatedMLP
from pyro_dgm.nets.labels import OneHot
from pyro_dgm.nets.masked import MaskedLinear, causal_mask
from pyro_dgm.nets.masked_mlp import MaskedMLP
from pyro_dgm.nets.mlp import MLP
from pyro_dgm.nets.nade import SharedWeights
from pyro_dgm.nets.recurrent import ConvLSTMCell, LSTMCell
from pyro_dgm.nets.residual import ResidualBlock
from pyro_dgm.nets.residual_mlp import ResidualMLP, ResidualTower
from pyro_dgm.nets.shapes import FlattenEvent, flatten_event

__all__ = [
    "MLP",
    "AttentiveRead",
    "AttentiveWrite",
    "ConvDecoder",
    "ConvEncoder",
    "ConvLSTMCell",
    "FlattenEvent",
    "FullRead",
    "FullWrite",
    "GatedLinear",
    "GatedMLP",
    "GaussianFilterbank",
    "LSTMCell",
    "MaskedLinear",
    "MaskedMLP",
    "OneHot",
    "ResidualBlock",
    "ResidualMLP",
    "ResidualTower",
    "SharedWeights",
    "causal_mask",
    "flatten_event",
]
