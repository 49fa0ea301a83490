"""Laws of the networks: shapes, independence of leading dimensions, state, precision, refusals."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets import (
    MLP,
    ConvDecoder,
    ConvEncoder,
    FlattenEvent,
    GatedLinear,
    GatedMLP,
    ResidualBlock,
    flatten_event,
)

# name: (constructor, shape of one input, shape of one output)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "mlp": (lambda: MLP(5, (7, 6), (2, 1, 3, 4), activation=nn.Tanh), (5,), (2, 1, 3, 4)),
    "mlp, affine": (lambda: MLP(5, (), 3), (5,), (3,)),
    "mlp, scalar": (lambda: MLP(5, (4,), ()), (5,), ()),
    "flatten, mlp": (lambda: nn.Sequential(FlattenEvent((3, 4)), MLP(12, (6,), 2)), (3, 4), (2,)),
    "gated mlp": (lambda: GatedMLP(5, (7, 6), (2, 1, 3, 4)), (5,), (2, 1, 3, 4)),
    "gated linear": (lambda: GatedLinear(5, 4), (5,), (4,)),
    "encoder": (lambda: ConvEncoder((3, 9, 6), 4, channels=(5, 6)), (3, 9, 6), (4,)),
    "encoder, no channel": (lambda: ConvEncoder((8, 8), 4, channels=(5,), activation=nn.ELU), (8, 8), (4,)),
    "decoder": (lambda: ConvDecoder(4, (2, 3, 9, 6), channels=(5, 6)), (4,), (2, 3, 9, 6)),
    "residual block": (lambda: ResidualBlock(3), (3, 5, 4), (3, 5, 4)),
    "encoder, residual": (lambda: ConvEncoder((1, 9, 6), 4, channels=(5, 6), num_blocks=2), (1, 9, 6), (4,)),
    "decoder, residual": (
        lambda: ConvDecoder(4, (2, 1, 9, 6), channels=(5, 6), num_blocks=1, activation=nn.ELU),
        (4,),
        (2, 1, 9, 6),
    ),
    "decoder, no channel": (lambda: ConvDecoder(4, (1, 8, 8), channels=(5,)), (4,), (1, 8, 8)),
}
each_net = pytest.mark.parametrize("name", NETS)


def build(name: str) -> tuple[nn.Module, tuple[int, ...], tuple[int, ...]]:
    constructor, in_shape, out_shape = NETS[name]
    return constructor().double(), in_shape, out_shape


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@each_net
@pytest.mark.parametrize("leading", [(), (3,), (2, 3), (2, 1, 3), (0,), (2, 0)], ids=str)
def test_leading_dimensions_are_kept(name: str, leading: tuple[int, ...]) -> None:
    net, in_shape, out_shape = build(name)
    assert net(random(*leading, *in_shape)).shape == (*leading, *out_shape)


@each_net
def test_a_batch_gives_what_a_loop_gives(name: str) -> None:
    net, in_shape, _ = build(name)
    x = random(2, 3, *in_shape)
    looped = torch.stack([torch.stack([net(datum) for datum in row]) for row in x])
    torch.testing.assert_close(net(x), looped, rtol=0, atol=1e-12)


@each_net
def test_an_expanded_input_gives_what_its_copy_gives(name: str) -> None:
    net, in_shape, _ = build(name)
    x = random(3, *in_shape)
    torch.testing.assert_close(
        net(x.expand(4, 3, *in_shape)), net(x).expand(4, 3, *(-1,) * (net(x).dim() - 1)), rtol=0, atol=1e-12
    )


@each_net
def test_every_parameter_and_the_input_get_a_gradient(name: str) -> None:
    net, in_shape, _ = build(name)
    x = random(20, *in_shape).requires_grad_()
    net(x).square().sum().backward()
    for tensor in (x, *net.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0


@each_net
def test_a_deepcopy_is_equal_and_apart(name: str) -> None:
    net, in_shape, _ = build(name)
    x = random(3, *in_shape)
    before = net(x)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), before)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(net(x), before) and not torch.equal(twin(x), before)


@each_net
def test_the_state_makes_a_new_instance_equal(name: str) -> None:
    net, in_shape, _ = build(name)
    other, _, _ = build(name)
    x = random(3, *in_shape)
    assert not torch.equal(net(x), other(x))
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x), other(x))


@each_net
def test_the_gradient_is_the_derivative(name: str) -> None:
    _, in_shape, _ = NETS[name]
    net, _, _ = build(name)
    # Smooth activations only: finite differences mean nothing at the kink of a ReLU.
    for module in list(net.modules()):
        for key, child in list(module.named_children()):
            if type(child) is nn.ReLU:
                setattr(module, key, nn.Softplus())
    assert torch.autograd.gradcheck(net, (random(1, *in_shape).requires_grad_(),), fast_mode=True)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 28])
@pytest.mark.parametrize("height", [1, 4, 7, 13])
def test_a_decoder_gives_back_every_size(height: int, width: int) -> None:
    channels = (2, 3, 4)
    encoder = ConvEncoder((1, height, width), 3, channels=channels)
    decoder = ConvDecoder(3, (1, height, width), channels=channels, activation=nn.ELU)
    x = torch.randn(2, 1, height, width)
    assert decoder(encoder(x)).shape == x.shape
    # Every pixel is reached: none of them hangs on the biases alone.
    h = torch.randn(50, 3)
    assert (decoder(h).std(0) > 0).all()


def test_each_particle_sees_its_own_datum_only() -> None:
    encoder = ConvEncoder((1, 8, 8), 4, channels=(5,)).double()
    x = random(2, 3, 1, 8, 8)
    changed = x.clone()
    changed[1, 2] += 1
    same = (encoder(x) == encoder(changed)).all(-1)
    assert same.logical_not().nonzero().tolist() == [[1, 2]]


def test_an_mlp_is_its_formula() -> None:
    net = MLP(3, (4, 5), (2, 2), activation=nn.Tanh).double()
    (w1, b1), (w2, b2), (w3, b3) = zip(*[iter(net.parameters())] * 2, strict=True)
    x = random(7, 3)
    by_hand = torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(net(x), by_hand.reshape(7, 2, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["encoder", "decoder"])
def test_a_convolutional_network_has_an_activation_at_every_layer(name: str) -> None:
    """Without activations it would be affine: f(x) + f(-x) = 2 f(0)."""
    net, in_shape, _ = build(name)
    layers = [module for module in net.modules() if type(module) in (nn.Conv2d, nn.ConvTranspose2d)]
    assert sum(type(module) is nn.ReLU for module in net.modules()) == len(layers) == 2
    x = random(5, *in_shape)
    assert (net(x) + net(-x) - 2 * net(0 * x)).abs().max() > 1e-4


def test_flatten_event_is_row_major() -> None:
    x = random(2, 3, 4, 5)
    assert torch.equal(flatten_event(x, (4, 5)), x.flatten(-2))
    assert torch.equal(FlattenEvent((4, 5))(x), x.flatten(-2))


@pytest.mark.parametrize(
    ("net", "shape", "words"),
    [
        (ConvEncoder((3, 8, 6), 4), (2, 8, 6, 3), ("(2, 8, 6, 3)", "(..., 3, 8, 6)", "movedim(-1, -3)")),
        (ConvEncoder((1, 8, 6), 4), (2, 8, 6), ("unsqueeze(-3)",)),
        (ConvEncoder((1, 8, 6), 4), (2, 48), ("unflatten",)),
        (ConvEncoder((1, 8, 6), 4), (2, 1, 8, 7), ("(2, 1, 8, 7)", "(..., 1, 8, 6)")),
        (ConvEncoder((1, 8, 6), 4), (), ("()", "(..., 1, 8, 6)")),
        (ConvDecoder(4, (1, 8, 6)), (2, 5), ("(2, 5)", "(..., 4)")),
        (MLP(64, (), 2), (2, 1, 8, 8), ("(2, 1, 8, 8)", "(..., 64)", "FlattenEvent")),
        (FlattenEvent((8, 8)), (8, 7), ("(8, 7)", "(..., 8, 8)")),
    ],
)
def test_a_wrong_event_shape_is_refused(
    net: nn.Module, shape: tuple[int, ...], words: tuple[str, ...]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        net(torch.zeros(shape))
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("constructor", "argument"),
    [
        (lambda: MLP(0, (3,), 2), "in_features"),
        (lambda: MLP(3, (3, -1), 2), "hidden"),
        (lambda: MLP(3, (3,), 0), "out_shape"),
        (lambda: ConvEncoder((3,), 2), "data_shape"),
        (lambda: ConvEncoder((1, 0, 3), 2), "data_shape"),
        (lambda: ConvEncoder((1, 3, 3), 0), "out_features"),
        (lambda: ConvEncoder((1, 3, 3), 2, channels=(0,)), "channels"),
        (lambda: ConvDecoder(0, (1, 3, 3)), "in_features"),
        (lambda: ConvDecoder(2, (3,)), "out_shape"),
        (lambda: FlattenEvent((0,)), "event_shape"),
    ],
)
def test_a_bad_size_is_refused_by_name(constructor: Callable[[], nn.Module], argument: str) -> None:
    with pytest.raises(InvalidInput, match=argument):
        constructor()
