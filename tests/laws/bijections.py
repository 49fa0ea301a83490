"""Every invertible map, small, in float64, at random parameters."""

import torch

from pyro_dgm.distributions.transforms import (
    ActNorm,
    Affine,
    Chain,
    Coupling,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    MultiScale,
    Permutation,
    Planar,
    QRLinear,
    RationalQuadratic,
    Shift,
    Sigmoid,
    Squeeze,
    Sylvester,
)

SCALES = (0.0, 0.1, 0.3, 1.0)
HALF = [True, False, True, False]
UNIVARIATE = {"shift": Shift, "affine": Affine, "spline": lambda: RationalQuadratic(4)}


def _images(c):
    """Two scales of a picture, with a linear map, a normalisation and a squeeze."""
    fine = Chain([LULinear((4, 2, 2)), ActNorm((4, 2, 2)), Inverse(Squeeze((1, 4, 4)))])
    return MultiScale([fine, QRLinear((2, 2, 2), context_features=c)])


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
    "planar": lambda c: Planar(4, context_features=c),
    **{
        f"sylvester_{kind}": lambda c, kind=kind: Sylvester(4, 3, kind=kind, flip=True, context_features=c)
        for kind in ("orthogonal", "householder", "triangular")
    },
    "lu": lambda c: LULinear((4,), context_features=c),
    "lu_images": lambda c: LULinear((3, 2, 2), context_features=c),
    "qr": lambda c: QRLinear((4,), context_features=c),
    "images": _images,
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
    "actnorm": lambda: ActNorm((3, 2, 2)),
    "squeeze": lambda: Squeeze((2, 4, 2)),
    "sigmoid": lambda: Sigmoid((4,), alpha=0.01),
    "sigmoid_open": lambda: Sigmoid((4,), alpha=0.0),
}
CONTEXT = 3
ALL = {
    **{name: lambda make=make: make(0) for name, make in BIJECTIONS.items()},
    **{f"{name}_of_context": lambda make=make: make(CONTEXT) for name, make in BIJECTIONS.items()},
    **FIXED,
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
    return x, torch.randn(*leading, *bijection.context_shape, generator=generator).double()


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
