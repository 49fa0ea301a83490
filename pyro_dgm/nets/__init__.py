"""Networks that know nothing of Pyro; every one accepts any leading dimensions."""

from pyro_dgm.nets.conv import ConvDecoder, ConvEncoder
from pyro_dgm.nets.mlp import MLP
from pyro_dgm.nets.shapes import FlattenEvent, flatten_event

__all__ = ["MLP", "ConvDecoder", "ConvEncoder", "FlattenEvent", "flatten_event"]
