"""WaveNet's network and its convolutions: shapes, lengths, what they refuse; its laws are in tests/laws."""

import math

import pytest
import torch

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets.causal_conv import CausalConv1d, Upsampling, queue_slots
from pyro_dgm.nets.wavenet import WaveNetStack


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(1, 1), (2, 1), (2, 4), (3, 2)])
@torch.no_grad()
def test_a_causal_convolution_is_its_sum(kernel_size, dilation, strict):
    conv = CausalConv1d(3, 5, kernel_size, dilation=dilation, strict=strict).double()
    x, taps = random(2, 4, 3, 7), conv.taps
    expected = conv.conv.bias.unsqueeze(-1).repeat(2, 4, 1, 7)
    for t in range(7):
        for j in range(kernel_size):
            past = t - strict - j * dilation
            if past >= 0:
                expected[..., t] += x[..., past] @ taps[j].T
    torch.testing.assert_close(conv(x), expected, rtol=0, atol=1e-12)
    assert conv.reach == (kernel_size - 1) * dilation + strict


def test_a_causal_convolution_longer_than_the_data_sees_zeros():
    conv = CausalConv1d(1, 2, 2, dilation=512, strict=True).double()
    assert torch.equal(conv(random(1, 1))[:, 0], conv.conv.bias)


@torch.no_grad()
def test_upsampling_repeats_until_it_is_trained_and_then_is_its_sum():
    layer, x = Upsampling(2, 3).double(), random(5, 4, 2, 6)
    assert torch.equal(layer(x), x.repeat_interleave(3, -1))
    layer.conv.weight.normal_()
    frames = torch.einsum("...it,ioj->...otj", x, layer.conv.weight)
    torch.testing.assert_close(layer(x), frames.flatten(-2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [2, 3, 4])
def test_each_place_holds_what_its_layer_saw_at_the_time_that_is_asked_for(kernel_size):
    layers = [CausalConv1d(1, 1, kernel_size, dilation=dilation) for dilation in (1, 2, 5, 1)]
    slots, places = queue_slots(layers, 40)
    written = {}
    for t in range(40):
        for place, layer in enumerate(layers):
            for j, slot in enumerate(slots[t, place].tolist(), start=1):
                assert 0 <= slot < places
                past = t - j * layer.dilation
                assert written.get(slot) == ((place, past) if past >= 0 else None)
        for place in range(len(layers)):
            written[int(slots[t, place, -1])] = (place, t)
    assert len(written) == places == sum(layer.reach for layer in layers)


@pytest.mark.parametrize(
    ("options", "event"),
    [
        ({}, None),
        ({"context_features": 3}, (3,)),
        ({"context_features": 3, "local": True}, (3, 9)),
        ({"input_levels": 4}, None),
    ],
    ids=["plain", "global", "local", "levels"],
)
@torch.no_grad()
def test_leading_dimensions_are_kept_and_rows_do_not_meet(options, event):
    network = WaveNetStack((9,), 2, channels=3, num_layers=2, **options).double()
    x = torch.rand(5, 4, 9, dtype=torch.float64)
    c = None if event is None else random(4, *event)
    found = network(x, c)
    assert found.shape == (5, 4, 2, 9)
    alone = network(x[3, 1], None if c is None else c[1])
    torch.testing.assert_close(found[3, 1], alone, rtol=0, atol=1e-12)


@torch.no_grad()
def test_a_pass_takes_any_length_and_begins_alike():
    network = WaveNetStack((9,), 2, channels=3, num_layers=2).double()
    x = torch.rand(20, dtype=torch.float64)
    for length in (1, 2, 9):
        torch.testing.assert_close(network(x[:length]), network(x)[:, :length], rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"context_features": 2}, {"input_levels": 3, "num_stacks": 3}])
def test_each_parameter_has_a_gradient(options):
    network = WaveNetStack((12,), 2, channels=4, skip_channels=32, num_layers=2, **options).double()
    context = random(2) if network.context_features else None
    network(torch.randint(3, (12,)).double() / 2, context).square().sum().backward()
    assert all(value.grad is not None and value.grad.any() for value in network.parameters())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: WaveNetStack((1, 9), 2), "more than time in data_shape: (1, 9); expected (T,)"),
        (lambda: WaveNetStack((9,), 2, kernel_size=1), "no past in kernel_size: 1; expected an integer >= 2"),
        (lambda: WaveNetStack((9,), 2, num_layers=0), "bad number in num_layers * num_stacks: 0; expected"),
        (lambda: WaveNetStack((9,), 2, channels=0), "bad size in num_params, channels, gate_channels"),
        (lambda: CausalConv1d(1, 1, 2, dilation=0), "bad size in kernel_size, dilation: (2, 0)"),
        (lambda: CausalConv1d(2, 1, 2)(torch.zeros(3, 9)), "wrong event shape in CausalConv1d input: (3, 9)"),
        (lambda: Upsampling(2, 3)(torch.zeros(3, 9)), "wrong event shape in Upsampling input: (3, 9)"),
        (
            lambda: WaveNetStack((9,), 2, context_features=2)(torch.zeros(9), torch.zeros(3)),
            "wrong event shape in WaveNetStack context: (3,); expected (..., 2)",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(make, told):
    with pytest.raises(InvalidInput) as error:
        make()
    assert str(error.value).startswith(told)


def test_the_network_has_the_size_of_its_layers():
    """Two stacks of ten layers, kernel 2: the receptive field of the benchmark, and its parameters counted by hand."""
    network = WaveNetStack((16000,), 256, channels=32, num_layers=10, num_stacks=2)
    assert network.receptive_field == 2 * 1023 + 1
    gates, skips = 20 * (2 * 32 + 1) * 64, 20 * (32 + 1) * 64
    expected = 2 * 32 + gates + 19 * (32 + 1) * 32 + skips + 65 * 64 + 65 * 256
    assert sum(math.prod(value.shape) for value in network.parameters()) == expected
