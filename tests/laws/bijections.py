"""Every invertible map, small, in float64, at random parameters."""

import pyro.distributions.transforms as pyro_transforms
import torch

from pyro_dgm.distributions.quantized import IntoCells
from pyro_dgm.distributions.transforms import (
    ActNorm,
    Affine,
    AutoregressiveConv,
    Chain,
    Coupling,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    MaskedCoupling,
    MultiScale,
    Permutation,
    Planar,
    QRLinear,
    RationalQuadratic,
    Shift,
    Sigmoid,
    Squeeze,
    Sylvester,
    TorchTransform,
    checkerboard,
    emerging_conv,
    halves,
)
from pyro_dgm.nets import ConvMaps

SCALES = (0.0, 0.1, 0.3, 1.0)
HALF = [True, False, True, False]
UNIVARIATE = {"shift": Shift, "affine": Affine, "spline": lambda: RationalQuadratic(4)}


def _images(c):
    """Two scales of a picture, with a linear map, a normalisation and a squeeze."""
    fine = Chain([LULinear((4, 2, 2)), ActNorm((4, 2, 2)), Inverse(Squeeze((1, 4, 4)))])
    return MultiScale([fine, QRLinear((2, 2, 2), context_features=c)])


def _of_channels(c, univariate):
    tau = univariate()
    network = ConvMaps(2 + c, (tau.num_params, 2), channels=3)
    return Coupling(halves(4), tau, network=network, event_shape=(4, 2, 2), context_features=c)


def _of_pixels(c, univariate):
    tau = univariate()
    network = ConvMaps(1 + c, (tau.num_params, 1), channels=3, num_blocks=1)
    return MaskedCoupling(checkerboard((1, 2, 3)), network, tau, context_features=c)


BIJECTIONS = {
    **{
        f"coupling_{name}": lambda c, u=u: Coupling(HALF, u(), hidden=(8,), context_features=c)
        for name, u in UNIVARIATE.items()
    },
    **{
        f"autoregressive_{name}": lambda c, u=u: MaskedAutoregressive(
            (4,), u(), hidden=(8,), order=[2, 0, 3, 1], context_features=c
        )
        for name, u in UNIVARIATE.items()
    },
    "autoregressive_inverse": lambda c: Inverse(
        MaskedAutoregressive((2, 2), hidden=(8,), context_features=c)
    ),
    **{
        f"{name}_{kind}": lambda c, make=make, u=u: make(c, u)
        for name, make in (("channels", _of_channels), ("checkerboard", _of_pixels))
        for kind, u in UNIVARIATE.items()
    },
    "planar": lambda c: Planar(4, context_features=c),
    **{
        f"sylvester_{kind}": lambda c, kind=kind: Sylvester(4, 3, kind=kind, flip=True, context_features=c)
        for kind in ("orthogonal", "householder", "triangular")
    },
    "lu": lambda c: LULinear((4,), context_features=c),
    "lu_images": lambda c: LULinear((3, 2, 2), context_features=c),
    "qr": lambda c: QRLinear((4,), context_features=c),
    # Triangular matrices of many random numbers are too ill-conditioned for slogdet itself.
    "autoregressive_conv": lambda c: AutoregressiveConv((1, 2, 2) if c else (2, 3, 4), context_features=c),
    "images": _images,
    "actnorm": lambda c: ActNorm((3, 2, 2), context_features=c),
    "chain": lambda c: Chain(
        [
            MaskedAutoregressive((4,), hidden=(8,), context_features=c),
            Permutation([2, 0, 3, 1]),
            Coupling(HALF, hidden=(8,)),
        ]
    ),
}
FIXED = {
    "permutation": lambda: Permutation([2, 0, 3, 1]),
    "permutation_images": lambda: Permutation([2, 0, 1], event_shape=(3, 2, 2)),
    "squeeze": lambda: Squeeze((2, 4, 2)),
    "emerging_conv": lambda: emerging_conv((2, 3, 2)),  # with a context it is two of the above
    "torch": lambda: TorchTransform(pyro_transforms.affine_coupling(4, hidden_dims=[8]), (4,)),
    "torch_elementwise": lambda: TorchTransform(torch.distributions.ExpTransform(), (2, 2)),
    "sigmoid": lambda: Sigmoid((4,), alpha=0.01),
    "sigmoid_open": lambda: Sigmoid((4,), alpha=0.0),
}
CONTEXT = 3
OF_LEVELS = {"cells": lambda: IntoCells((4,), levels=5)}  # whose context is the levels themselves
ALL = {
    **{name: lambda make=make: make(0) for name, make in BIJECTIONS.items()},
    **{f"{name}_of_context": lambda make=make: make(CONTEXT) for name, make in BIJECTIONS.items()},
    **FIXED,
    **OF_LEVELS,
}


def at_random(bijection, *, scale, seed=0):
    """The map in float64 with noise added to its parameters."""
    generator = torch.Generator().manual_seed(seed)
    bijection = bijection.double()
    with torch.no_grad():
        for parameter in bijection.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator).double())
    return bijection


def points(bijection, *leading, seed=0):
    """x, and contexts where the map takes them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*leading, *bijection.event_shape, generator=generator).double()
    if not bijection.context_shape:
        return x, None
    context = torch.randn(*leading, *bijection.context_shape, generator=generator).double()
    if isinstance(bijection, IntoCells):
        context = (context * 4).abs().clamp(max=4).round() / 4
    return x, context


def log_det_by_autograd(bijection, x, context):
    """log|det dy/dx| of each datum, (batch,), by all its derivatives."""
    found = []
    for place, datum in enumerate(x):
        c = None if context is None else context[place]
        jacobian = torch.autograd.functional.jacobian(
            lambda v, c=c: bijection.forward_and_log_det(v, c)[0], datum
        )
        found.append(torch.linalg.slogdet(jacobian.reshape(datum.numel(), datum.numel()))[1])
    return torch.stack(found)
