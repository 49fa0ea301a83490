"""The same numbers as zuko, nflows and normflows, with their weights, where they have the part; float64 to 1e-8.

Needs the extra `peers`; skipped without it. Numbers that a library parametrises in another way are put into ours by the
inverse of our own bound.
"""

import pytest
import torch

from pyro_dgm.distributions.transforms import (
    Affine,
    Coupling,
    Inverse,
    LULinear,
    MaskedAutoregressive,
    Planar,
    RationalQuadratic,
    Squeeze,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # their calls of what torch will drop

CLOSE = {"rtol": 0, "atol": 1e-8}
D, N, BINS = 6, 50, 5
LEAST_SLOPE = 1e-3  # zuko's


@pytest.fixture(autouse=True)
def in_float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def peer(name):
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install 'pyro_dgm[peers]'")


def both_ways(ours, forward, inverse, x):
    """Values and log-determinants of ours and of theirs, there and back."""
    with torch.no_grad():
        y, log_det = ours.forward_and_log_det(x)
        back, log_det_back = ours.inverse_and_log_det(y)
        for found, expected in zip((*forward(x), *inverse(y)), (y, log_det, back, log_det_back), strict=True):
            torch.testing.assert_close(found.expand(expected.shape), expected, **CLOSE)


def zuko_ways(transform):
    def inverse(y):
        x = transform.inv(y)
        return x, -transform.log_abs_det_jacobian(x, y)

    return transform.call_and_ladj, inverse


def copied(ours, theirs):
    """The weights of their multilayer perceptron in ours."""
    mine = [layer for layer in ours.modules() if isinstance(layer, torch.nn.Linear)]
    given = [layer for layer in theirs.modules() if hasattr(layer, "weight")]
    with torch.no_grad():
        for to, of in zip(mine, given, strict=True):
            weight, bias = 3 * of.weight, 3 * of.bias
            of.weight.copy_(weight)
            of.bias.copy_(bias)
            to.weight.copy_(weight)
            to.bias.copy_(bias)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_couplings_of_zuko(kind):
    zuko = peer("zuko")
    bound = -torch.tensor(LEAST_SLOPE).log().item()
    kept = torch.arange(D) % 2 == 0
    if kind == "affine":
        theirs = zuko.flows.coupling.GeneralCouplingTransform(D, mask=kept, hidden_features=(16,))
        univariate = Affine(bound)
    else:
        theirs = zuko.flows.coupling.GeneralCouplingTransform(
            D,
            mask=kept,
            hidden_features=(16,),
            univariate=zuko.transforms.MonotonicRQSTransform,
            shapes=[(BINS,), (BINS,), (BINS - 1,)],
        )
        univariate = RationalQuadratic(BINS, bound=5.0, max_log_slope=bound)
    ours = Coupling(kept, univariate, hidden=(16,))
    copied(ours.network, theirs.hyper)
    if kind == "affine":  # theirs are (shift, scale)
        last = [layer for layer in ours.network.modules() if isinstance(layer, torch.nn.Linear)][-1]
        with torch.no_grad():
            last.weight.copy_(last.weight.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))
            last.bias.copy_(last.bias.unflatten(0, (-1, 2)).flip(1).flatten())
    both_ways(ours, *zuko_ways(theirs()), 3 * torch.randn(N, D))


class Theirs(torch.nn.Module):
    """Their network in the place of ours, for densities, which take one pass."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, context=None):
        return self.function(x)


def unbounded(value, bound):
    """The raw number that our bound makes ``value`` of."""
    return value / (1 - (value / bound).abs())


def test_autoregressions_of_zuko():
    zuko = peer("zuko")
    theirs = zuko.flows.MaskedAutoregressiveTransform(D, hidden_features=(16,))
    ours = MaskedAutoregressive((D,), Affine(-torch.tensor(LEAST_SLOPE).log().item()))
    ours.network = Theirs(lambda x: theirs.hyper(x).unflatten(-1, (D, 2)).flip(-1).movedim(-1, -2))
    x = torch.randn(N, D)
    with torch.no_grad():
        for found, expected in zip(theirs().call_and_ladj(x), ours.forward_and_log_det(x), strict=True):
            torch.testing.assert_close(found, expected, **CLOSE)


def test_autoregressions_of_nflows():
    nflows = peer("nflows.transforms")
    theirs = nflows.MaskedAffineAutoregressiveTransform(D, 16).double()

    def params(x):
        raw, shift = theirs.autoregressive_net(x).unflatten(-1, (D, 2)).unbind(-1)
        scale = torch.nn.functional.softplus(raw) + theirs._epsilon
        return torch.stack([unbounded(scale.log(), 5.0), shift], -2)

    ours = MaskedAutoregressive((D,))
    ours.network = Theirs(params)
    x = torch.randn(N, D)
    with torch.no_grad():
        for found, expected in zip(theirs(x), ours.forward_and_log_det(x), strict=True):
            torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("inverse", [False, True])
def test_splines_of_nflows(inverse):
    splines = peer("nflows.transforms.splines.rational_quadratic")
    raw = 2 * torch.randn(N, 3 * BINS - 1)
    x = 2 * torch.randn(N)
    widths, heights, slopes = raw.split([BINS, BINS, BINS - 1], -1)
    theirs = splines.unconstrained_rational_quadratic_spline(
        x, widths, heights, slopes, inverse=inverse, tails="linear", tail_bound=3.0
    )
    bound = 20.0

    def sizes(values):
        shares = 1e-3 + (1 - 1e-3 * BINS) * values.softmax(-1)
        return unbounded(shares.log() - shares.log().mean(-1, keepdim=True), 0.5 * bound)

    ends = unbounded((1e-3 + torch.nn.functional.softplus(slopes)).log(), bound)
    ours = RationalQuadratic(BINS, bound=3.0, max_log_slope=bound)
    way = ours.inverse_and_log_slope if inverse else ours.forward_and_log_slope
    found = way(x, torch.cat([sizes(widths), sizes(heights), ends], -1))
    for a, b in zip(found, theirs, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


def test_linear_maps_of_nflows():
    nflows = peer("nflows.transforms")
    theirs = nflows.LULinear(D, identity_init=False).double()
    ours = LULinear((D,), rotated=False)
    with torch.no_grad():
        lower, upper = theirs._create_lower_upper()
        given = {
            "lower": lower,
            "upper": upper,
            "log_diagonal": upper.diagonal().log(),
            "b": theirs.bias,
        }
        names = ours.parameters_of.shapes
        ours.parameters_of.bias.copy_(torch.cat([given[name].flatten() for name in names]))
        ours.signs.fill_(1.0)
    ours = ours.double()
    both_ways(ours, theirs, theirs.inverse, torch.randn(N, D))


def test_convolutions_of_normflows():
    flows = peer("normflows").flows
    theirs = flows.Invertible1x1Conv(D, use_lu=True).double()
    ours = LULinear((D, 4, 4)).double()
    with torch.no_grad():
        ours.p.copy_(theirs.P)
        ours.signs.copy_(theirs.sign_S)
        given = {
            "lower": theirs.L,
            "upper": theirs.U,
            "log_diagonal": theirs.log_S,
            "b": torch.zeros(D),
        }
        ours.parameters_of.bias.copy_(
            torch.cat([given[name].flatten() for name in ours.parameters_of.shapes])
        )
    both_ways(ours, theirs.inverse, theirs.forward, torch.randn(N, D, 4, 4))


def test_planar_maps_of_normflows():
    flows = peer("normflows").flows
    theirs = flows.Planar((D,), act="tanh").double()
    ours = Planar(D).double()
    with torch.no_grad():
        for tensor in theirs.parameters():
            tensor.copy_(torch.randn(tensor.shape))
        given = {"u": theirs.u, "w": theirs.w, "b": theirs.b}
        ours.parameters_of.bias.copy_(
            torch.cat([given[name].flatten() for name in ours.parameters_of.shapes])
        )
        x = torch.randn(N, D)
        for found, expected in zip(theirs(x), ours.forward_and_log_det(x), strict=True):
            torch.testing.assert_close(found, expected, **CLOSE)


def test_squeezes_of_nflows():
    nflows = peer("nflows.transforms")
    theirs, ours = nflows.SqueezeTransform(), Squeeze((3, 4, 6))
    both_ways(ours, theirs, theirs.inverse, torch.randn(N, 3, 4, 6))
    torch.testing.assert_close(
        Inverse(ours).inverse_and_log_det(torch.ones(3, 4, 6))[0], torch.ones(12, 2, 3)
    )
