"""The same flows of ours, zuko and nflows: layers, widths, activations and bins; standard normal noise.

Ours stands there twice: "ours" has what the others have and no more, and "ours by default" what `pyro_dgm.models` adds:
normalisations, and in masked networks direct connections from data to outputs.
"""

from __future__ import annotations

import nflows.distributions
import nflows.flows
import nflows.nn.nets
import nflows.transforms
import torch
import zuko
from torch import nn

from pyro_dgm import models
from pyro_dgm.distributions.transforms import ActNorm, Chain

BINS, BOUND = 8, 3.0


def parity(size, layer):
    """The mask of a coupling: which elements it keeps."""
    return torch.arange(size) % 2 == layer % 2


def without_norms(flow):
    """A new flow of the same maps but those that normalise."""
    return models.Flow(Chain([part for part in flow.bijection.parts if not isinstance(part, ActNorm)]))


class Nflows(nn.Module):
    """A flow of nflows whose call returns what has a ``log_prob``, as those of ours and zuko do."""

    def __init__(self, size, layers):
        super().__init__()
        base = nflows.distributions.StandardNormal([size])
        self.flow = nflows.flows.Flow(nflows.transforms.CompositeTransform(layers), base)

    def forward(self):
        return self

    def log_prob(self, x):
        return self.flow.log_prob(x)

    def sample(self, shape):
        return self.flow.sample(shape[0])


def zuko_flow(size, layers):
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(size), torch.ones(size), buffer=True
    )
    return zuko.lazy.Flow(layers, base)


class _Net(nflows.nn.nets.MLP):
    def forward(self, inputs, context=None):
        return super().forward(inputs)


def net(hidden):
    return lambda n_in, n_out: _Net([n_in], [n_out], hidden)


def maf(size, layers, hidden):
    """Masked autoregressive flows with two hidden layers or more of one width."""
    theirs = []
    for layer in range(layers):
        theirs.append(
            nflows.transforms.MaskedAffineAutoregressiveTransform(
                size, hidden[0], num_blocks=len(hidden) - 1, use_residual_blocks=False
            )
        )
        if layer + 1 < layers:
            theirs.append(nflows.transforms.ReversePermutation(size))
    return {
        "ours": without_norms(models.maf((size,), num_layers=layers, hidden=hidden, direct=False)),
        "ours by default": models.maf((size,), num_layers=layers, hidden=hidden),
        "zuko": zuko.flows.MAF(size, transforms=layers, hidden_features=hidden),
        "nflows": Nflows(size, theirs),
    }


def real_nvp(size, layers, hidden):
    """Affine couplings."""
    theirs = [
        nflows.transforms.AffineCouplingTransform((~parity(size, layer)).long(), net(hidden))
        for layer in range(layers)
    ]
    ours = [models.real_nvp((size,), num_layers=layers, hidden=hidden) for _ in range(2)]
    return {
        "ours": without_norms(ours[0]),
        "ours by default": ours[1],
        "zuko": zuko.flows.NICE(size, transforms=layers, hidden_features=hidden),
        "nflows": Nflows(size, theirs),
    }


class Spline(zuko.transforms.MonotonicRQSTransform):
    def __init__(self, widths, heights, derivatives):
        super().__init__(widths, heights, derivatives, bound=BOUND)


def spline(size, layers, hidden):
    """Couplings by rational-quadratic splines, a linear map before each."""
    zukos, theirs = [], []
    for layer in range(layers):
        zukos.append(zuko.lazy.UnconditionalTransform(zuko.transforms.LULinearTransform, torch.eye(size)))
        zukos.append(
            zuko.flows.coupling.GeneralCouplingTransform(
                size,
                mask=parity(size, layer),
                univariate=Spline,
                shapes=[(BINS,), (BINS,), (BINS - 1,)],
                hidden_features=hidden,
            )
        )
        theirs.append(nflows.transforms.LULinear(size, identity_init=True))
        theirs.append(
            nflows.transforms.PiecewiseRationalQuadraticCouplingTransform(
                (~parity(size, layer)).long(), net(hidden), num_bins=BINS, tails="linear", tail_bound=BOUND
            )
        )
    given = {"num_layers": layers, "hidden": hidden, "num_bins": BINS, "bound": BOUND}
    ours = [models.neural_spline_flow((size,), **given) for _ in range(2)]
    return {
        "ours": without_norms(ours[0]),
        "ours by default": ours[1],
        "zuko": zuko_flow(size, zukos),
        "nflows": Nflows(size, theirs),
    }


ARCHITECTURES = {"maf": maf, "real_nvp": real_nvp, "spline": spline}
