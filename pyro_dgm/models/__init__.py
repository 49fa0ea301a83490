"""Models: one file per paper."""

from pyro_dgm.models.autoencoder import Autoencoder
from pyro_dgm.models.bayesian_network import BayesianNetwork
from pyro_dgm.models.conv_draw import ConvDRAW
from pyro_dgm.models.convolutional_vae import conv_vae
from pyro_dgm.models.cvae import CVAE
from pyro_dgm.models.draw import DRAW
from pyro_dgm.models.flow import Flow
from pyro_dgm.models.fvsbn import FVSBN
from pyro_dgm.models.gated_pixel_cnn import GatedPixelCNN
from pyro_dgm.models.gaussian_mixture_vae import gmvae
from pyro_dgm.models.glow_flow import glow
from pyro_dgm.models.hierarchical_pixel_vae import HierarchicalPixelVAE
from pyro_dgm.models.hierarchical_vae import HierarchicalVAE
from pyro_dgm.models.ladder_vae import LadderVAE
from pyro_dgm.models.made import MADE
from pyro_dgm.models.masked_flows import iaf, maf
from pyro_dgm.models.nade import NADE
from pyro_dgm.models.nice_flow import nice
from pyro_dgm.models.pixel_cnn import PixelCNN
from pyro_dgm.models.pixel_rnn import PixelRNN
from pyro_dgm.models.pixelcnn_vae import pixel_vae
from pyro_dgm.models.ppca import PPCA
from pyro_dgm.models.realnvp import real_nvp, real_nvp_images
from pyro_dgm.models.spline_flow import neural_spline_flow
from pyro_dgm.models.vae import VAE
from pyro_dgm.models.vampprior_vae import vamp_vae
from pyro_dgm.models.variational_dequantization import VariationalDequantization
from pyro_dgm.models.wavenet import WaveNet

__all__ = [
    "CVAE",
    "DRAW",
    "FVSBN",
    "MADE",
    "NADE",
    "PPCA",
    "VAE",
    "Autoencoder",
    "BayesianNetwork",
    "ConvDRAW",
    "Flow",
    "GatedPixelCNN",
    "HierarchicalPixelVAE",
    "HierarchicalVAE",
    "LadderVAE",
    "PixelCNN",
    "PixelRNN",
    "VariationalDequantization",
    "WaveNet",
    "conv_vae",
    "glow",
    "gmvae",
    "iaf",
    "maf",
    "neural_spline_flow",
    "nice",
    "pixel_vae",
    "real_nvp",
    "real_nvp_images",
    "vamp_vae",
]
