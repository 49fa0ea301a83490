"""Gated layers against their formula written out, with the mistakes that the formula would catch."""

import math

import pytest
import torch

from pyro_dgm.nets import GatedLinear, GatedMLP

Z_LIMIT = 4.9  # standard errors: a false-alarm rate of 1e-6


def by_formula(layer, x):
    """(W x + b) * sigmoid(V x + c), where the rows of W lie above those of V."""
    w, v = layer.linear.weight.chunk(2)
    b, c = layer.linear.bias.chunk(2)
    return (x @ w.T + b) * torch.sigmoid(x @ v.T + c)


def halves_exchanged(layer, x):
    w, v = layer.linear.weight.chunk(2)
    b, c = layer.linear.bias.chunk(2)
    return (x @ v.T + c) * torch.sigmoid(x @ w.T + b)


def tanh_gate(layer, x):
    h, gate = layer.linear(x).chunk(2, -1)
    return h * gate.tanh()


def random_layer():
    torch.manual_seed(0)
    layer = GatedLinear(5, 4).double()
    torch.nn.init.normal_(layer.linear.bias)
    return layer, torch.randn(3, 2, 5).double()


def test_a_layer_is_its_formula():
    layer, x = random_layer()
    assert (layer(x) - by_formula(layer, x)).abs().max() < 1e-12


@pytest.mark.parametrize("mutant", [halves_exchanged, tanh_gate])
def test_another_formula_is_another_layer(mutant):
    layer, x = random_layer()
    assert (layer(x) - mutant(layer, x)).abs().max() > 0.1


def test_a_network_is_gated_layers_and_a_linear_one():
    torch.manual_seed(0)
    net, x = GatedMLP(5, (4, 3), (2, 6)).double(), torch.randn(7, 5).double()
    first, second, last = net.layers
    out = by_formula(second, by_formula(first, x)) @ last.weight.T + last.bias
    assert (net(x) - out.reshape(7, 2, 6)).abs().max() < 1e-12


def test_first_weights_have_the_variance_that_is_said():
    """2 / in_features, within 4.9 standard errors."""
    torch.manual_seed(0)
    weight = GatedLinear(200, 300).linear.weight
    assert (weight.var() * 100 - 1).abs() < Z_LIMIT * math.sqrt(2 / weight.numel())
