"""Hierarchical PixelVAE: maps of latents, each drawn autoregressively given the level above, and the image likewise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_dgm.distributions import DiagonalNormal, NormalObservation, StandardNormal
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.chaining import require_chain, require_lengths
from pyro_dgm.models.defaults import mean_or_draw
from pyro_dgm.models.gated_pixel_cnn import GatedPixelCNN
from pyro_dgm.models.pixelcnn_vae import context_shape_of, either
from pyro_dgm.nets import ConvDecoder, ConvEncoder, FlattenEvent
from pyro_dgm.nets.recurrent import over_images
from pyro_dgm.program import Program
from pyro_dgm.shapes import positive_sizes

Sizes = tuple[int, ...]


class HierarchicalPixelVAE(Program):
    r"""PixelVAE with L levels of latents, whose lower levels are maps.

    .. math:: p(x, z_1 \dots z_L) = p(z_L) \prod_{l=1}^{L-1} p(z_l \mid c_l(z_{l+1}))\; p(x \mid c_0(z_1)), \qquad
              q(z_1 \dots z_L \mid x) = \prod_{l=1}^{L} q(z_l \mid h_l), \quad h_l = \mathrm{convolutions}(h_{l-1}),
              \quad h_0 = x

    Each p(z_l | c) is a gated PixelCNN over the places of the map, with normal conditionals; p(x | c) is one over
    pixels. Contexts c are deconvolved from the level above. Between maps there is no divergence in closed form:
    bounds are those by draws (``ELBO()``, ``IWAE``; free bits too). How far a PixelCNN sees, and why it matters:
    :func:`~pyro_dgm.models.pixel_vae`.

    Args:
        data_shape: shape of one image, (C, H, W).
        latent_shapes: shapes of z1 .. zL, from the data up: maps (channels, height, width), each half as high and wide
            as the one below, rounded up, any number of times; the last is a vector, (features,).
        width: feature maps of all convolutions, of the contexts, and of each stack of the PixelCNNs.
        features: size of the vector of features below zL.
        activation: makes one activation layer of encoders and decoders.
        num_layers: layers of each gated PixelCNN.
        kernel_size: odd size of its first convolutions.
        layer_kernel_size: odd size of those of the other layers.
        encoders: L networks, x to h_1, h_1 to h_2, and so on.
        posteriors: L pieces q(z_l | h_l).
        conditionals: L - 1 autoregressive pieces p(z_l | c), each with a ``context_shape``.
        decoders: L networks, z1 to the context of x, z2 to that of z1, and so on.
        prior: piece p(zL); a standard normal by default.
        observation: piece p(x_i | params) of the gated PixelCNN over x; Bernoulli pixels by default.
        autoregressive: piece p(x | c) in its place, with a ``context_shape``.

    Raises:
        InvalidInput: data that are no images, no latents, maps that no halving of the level below gives, a last level
            that is no vector, lists of another length, a size below one, or pieces that do not fit one another.

    Example:
        >>> import torch
        >>> vae = HierarchicalPixelVAE((1, 8, 8), ((2, 4, 4), (3,)), width=8, features=16)
        >>> vae.sample(3).shape, [tuple(q.event_shape) for q in vae.encode(torch.zeros(5, 1, 8, 8))]
        (torch.Size([3, 1, 8, 8]), [(2, 4, 4), (3,)])

    Reference:
        Gulrajani, Kumar, Ahmed, Ali Taiga, Visin, Vazquez and Courville, "PixelVAE: a latent variable model for
        natural images", 2017.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_shapes: Sequence[Sequence[int]],
        *,
        width: int = 32,
        features: int = 128,
        activation: Callable[[], nn.Module] = nn.ReLU,
        num_layers: int = 2,
        kernel_size: int = 5,
        layer_kernel_size: int = 3,
        encoders: Sequence[nn.Module] | None = None,
        posteriors: Sequence[nn.Module] | None = None,
        conditionals: Sequence[nn.Module] | None = None,
        decoders: Sequence[nn.Module] | None = None,
        prior: nn.Module | None = None,
        observation: nn.Module | None = None,
        autoregressive: nn.Module | None = None,
    ) -> None:
        super().__init__()
        data_shape, shapes = _shapes(data_shape, latent_shapes)
        positive_sizes((width, features), "width or features")
        lists = {"encoders": encoders, "posteriors": posteriors, "decoders": decoders}
        require_lengths({name: (given, len(shapes)) for name, given in lists.items()})
        require_lengths({"conditionals": (conditionals, len(shapes) - 1)})
        *maps, (top,) = shapes

        def pixel_cnn(shape: Sizes, elements: nn.Module | None) -> nn.Module:
            return GatedPixelCNN(
                shape,
                channels=width,
                num_layers=num_layers,
                kernel_size=kernel_size,
                layer_kernel_size=layer_kernel_size,
                observation=elements,
                context_shape=(width, *shape[1:]),
            )

        self.prior = StandardNormal(top) if prior is None else prior
        self.observation = either(autoregressive, observation, lambda: pixel_cnn(data_shape, observation))
        if conditionals is None:
            conditionals = [pixel_cnn(shape, _normal(shape)) for shape in maps]
        self.conditionals = nn.ModuleList(conditionals)
        if encoders is None:
            below = [data_shape, *((width, *shape[1:]) for shape in maps)]
            encoders = [_convolutions(*pair, width, activation) for pair in pairwise(below)]
            channels = [width] * _depth(below[-1])
            last = ConvEncoder(below[-1], features, channels=channels, activation=activation)
            encoders += [nn.Sequential(last, activation())]
        if posteriors is None:
            posteriors = [_map_posterior(width, shape) for shape in maps] + [DiagonalNormal(features, top)]
        if decoders is None:
            names = ["autoregressive", *(f"conditionals[{i}]" for i in range(len(maps)))]
            takers = zip([self.observation, *conditionals], names, strict=True)
            contexts = [context_shape_of(piece, name) for piece, name in takers]
            pairs = zip(shapes, contexts, strict=True)
            decoders = [_deconvolutions(shape, context, width, activation) for shape, context in pairs]
        self.encoders, self.posteriors = nn.ModuleList(encoders), nn.ModuleList(posteriors)
        self.decoders = nn.ModuleList(decoders)
        sites = {"x": data_shape} | {f"z{i}": shape for i, shape in enumerate(shapes, 1)}
        require_chain(self, HierarchicalPixelVAE, sites)

    def model(self, x: Tensor | None = None, *, n: int = 1) -> Tensor:
        """p(zL) ... p(z1 | z2) p(x | z1); ``x`` (batch, *data_shape), or ``n`` draws."""
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample(f"z{len(self.posteriors)}", self.prior())
            for layer in range(len(self.conditionals), 0, -1):
                z = pyro.sample(f"z{layer}", self.conditionals[layer - 1](self.decoders[layer](z)))
            return pyro.sample("x", self.observation(self.decoders[0](z)), obs=x)

    def guide(self, x: Tensor) -> None:
        """q(zL | x) ... q(z1 | x), independent given x."""
        pyro.module(self.pyro_name, self)
        posteriors = self.encode(x)
        with pyro.plate("data", len(x)):
            for layer in range(len(posteriors), 0, -1):
                pyro.sample(f"z{layer}", posteriors[layer - 1])

    def encode(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z1 | x) .. q(zL | x), of batch shape (batch,) and the event shapes of the latents."""
        found, h = [], x
        for encoder, posterior in zip(self.encoders, self.posteriors, strict=True):
            h = encoder(h)
            found.append(posterior(h))
        return found

    def reconstruct(self, x: Tensor) -> Tensor:
        """A draw of p(x | z1) at the mean of q(z1 | x); same shape as ``x``."""
        drawn: Tensor = self.observation(self.decoders[0](mean_or_draw(self.encode(x)[0]))).sample()
        return drawn

    @torch.no_grad()
    def sample(self, num: int) -> Tensor:
        """``num`` draws of x (num, *data_shape), level by level from the top."""
        z = self.prior().sample((num,))
        pieces = [self.observation, *self.conditionals]
        for decoder, piece in zip(reversed(self.decoders), reversed(pieces), strict=True):
            z = piece(decoder(z)).sample()
        return z


class _OverImages(nn.Module):
    """Layers on images (..., C, H, W), with any leading dimensions."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return over_images(self.layers, images)


def _shapes(data_shape: Sequence[int], latents: Sequence[Sequence[int]]) -> tuple[Sizes, list[Sizes]]:
    """Both as tuples; each size of maps is one that halving the size below gives."""
    shapes = [positive_sizes(shape, "data_shape or latent_shapes") for shape in (data_shape, *latents)]
    if [len(shape) for shape in shapes] != [3] * (len(shapes) - 1) + [1]:
        raise InvalidInput(
            "shapes of other numbers of dimensions",
            where="data_shape, latent_shapes",
            value=", ".join(map(str, shapes)),
            expected="(C, H, W) of data and of all latents, and one vector (features,) as the last",
        )
    for below, above in pairwise(shapes[:-1]):
        _sizes_between(below, above)
    return shapes[0], shapes[1:]


def _sizes_between(below: Sizes, above: Sizes) -> list[Sizes]:
    """Heights and widths from those of a shape to those of another, each half of the last, rounded up."""
    sizes = [below[1:]]
    while sizes[-1] != above[1:] and max(sizes[-1]) > 1:
        sizes.append(tuple((n + 1) // 2 for n in sizes[-1]))
    if sizes[-1] != above[1:]:
        raise InvalidInput(
            "maps of a size that halving does not give",
            where="latent_shapes",
            value=above,
            expected=f"(channels, height, width), of one of the sizes {', '.join(map(str, sizes))}",
        )
    return sizes


def _normal(shape: Sizes) -> NormalObservation:
    """Normal elements, of mean 0 and scale 1 for a network's output of zero."""
    piece = NormalObservation(shape, heteroscedastic=True, scale_floor=1e-4)
    piece.offset[1] = math.log(math.expm1(1.0 - piece.scale_floor))  # softplus undone
    return piece


def _map_posterior(width: int, shape: Sizes) -> nn.Module:
    """The diagonal normal whose parameters are a linear map of the features at each place."""
    head = _OverImages(nn.Conv2d(width, 2 * shape[0], 1))
    return nn.Sequential(head, nn.Unflatten(-3, (2, shape[0])), _normal(shape))


def _convolutions(below: Sizes, above: Sizes, width: int, activation: Callable[[], nn.Module]) -> nn.Module:
    """Convolutions from maps to those of the level above, one for each halving and one before."""
    layers: list[nn.Module] = [nn.Conv2d(below[0], width, 3, padding=1), activation()]
    for _ in _sizes_between(below, above)[1:]:
        layers += [nn.Conv2d(width, width, 3, stride=2, padding=1), activation()]
    return _OverImages(*layers)


def _deconvolutions(
    above: Sizes, context: Sizes, width: int, activation: Callable[[], nn.Module]
) -> nn.Module:
    """Network from the latents of a level to the context for what is below."""
    if len(context) == 1:
        return nn.Sequential(FlattenEvent(above), nn.Linear(math.prod(above), *context))
    if len(above) == 1:
        return ConvDecoder(*above, context, channels=[width] * _depth(context), activation=activation)
    layers: list[nn.Module] = [nn.Conv2d(above[0], width, 3, padding=1), activation()]
    for height, breadth in _sizes_between(context, above)[-2::-1]:
        padding = (1 - height % 2, 1 - breadth % 2)  # without it a side n becomes 2n - 1
        layers += [
            nn.ConvTranspose2d(width, width, 3, stride=2, padding=1, output_padding=padding),
            activation(),
        ]
    return _OverImages(*layers, nn.Conv2d(width, context[0], 3, padding=1))


def _depth(shape: Sizes) -> int:
    """Number of halvings until a side is 4 at most; one at least."""
    return max(1, math.ceil(math.log2(max(shape[1:]) / 4)))
