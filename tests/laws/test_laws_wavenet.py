"""Laws of WaveNet's network and its two samplers, in float64 at random parameters, each with its mutants."""

import copy
import itertools
from functools import partial

import torch
from scipy.stats import chi2
from torch import nn

from pyro_dgm.distributions import Autoregressive, CategoricalObservation
from pyro_dgm.nets.causal_conv import CausalConv1d
from pyro_dgm.nets.wavenet import WaveNetStack, one_sample
from tests.laws.listed import as_tests

T, LEVELS, ROWS = 9, 3, 4

# Whose dilations, kernels and contexts differ; the last has categories as its input.
KINDS = {
    "plain": {"num_layers": 2, "num_stacks": 2},
    "one layer": {"num_layers": 1},
    "global context": {"num_layers": 2, "kernel_size": 3, "context_features": 2},
    "local context": {"num_layers": 3, "context_features": 2, "local": True},
    "levels": {"num_layers": 2, "gate_channels": 3, "skip_channels": 33, "input_levels": LEVELS},
}


def at_random(network):
    """The network in float64, with parameters so large that all it sees matters."""
    network = network.double()
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.7)
        for layer in (network.hidden, network.last):
            layer.weight.mul_(0.25)
    return network


def made(length=T, *, change=lambda network: None, **options):
    """A network; ``change`` puts a fault in it."""
    # So many skip channels that some are alive after each rectifier.
    network = WaveNetStack((length,), LEVELS, **{"channels": 4, "skip_channels": 32, **options})
    change(network)
    return at_random(network)


def contexts(network, length=T):
    if not network.context_features:
        return None
    return torch.randn(ROWS, network.context_features, *[length] * network.local, dtype=torch.float64)


def data(length=T):
    return torch.randint(LEVELS, (ROWS, length)).double() / (LEVELS - 1)


def joint(network, context, *, naive=False, conditionals=None):
    length, local = network.data_shape[0], network.local
    observation = CategoricalObservation((length,), LEVELS).double()
    if naive:
        network = Opaque(network)
    return Autoregressive(
        network,
        observation,
        context,
        context_dims=2 if local else 1,
        conditionals=conditionals,
    )


class Opaque(nn.Module):
    """A network without conditionals of its own: a pass over all samples for each."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x, context=None):
        return self.network(x, context)


# ---- faults


def not_shifted(network):
    network.first.strict = False


def wrong_dilation(network):
    """The last layer reaches one sample too far."""
    last = network._gates()[-1]
    size = (last.in_channels, last.out_channels, last.kernel_size)
    network.gates[-1] = CausalConv1d(*size, dilation=last.dilation + 1)


def one_leak(network):
    """One entry of a later sample gets to one output."""
    seen = []

    def leak(last, inputs, out):
        out = out.clone()
        out[:, 1, 2] += 0.1 * seen.pop()
        return out

    network.first.register_forward_pre_hook(lambda first, inputs: seen.append(inputs[0][:, 0, 3]))
    network.last.register_forward_hook(leak)


def swapped_gates(network):
    for gate in network._gates():
        gate.conv.register_forward_hook(lambda conv, inputs, out: torch.cat(out.chunk(2, 1)[::-1], 1))


class Boastful(WaveNetStack):
    receptive_field = property(lambda self: WaveNetStack.receptive_field.fget(self) + 1)


def claims_more(network):
    network.__class__ = Boastful


FAULTS = {"first layer not shifted": not_shifted, "one leaked entry": one_leak}
PASS_FAULTS = {"dilation off by one": wrong_dilation, "gates swapped": swapped_gates}
FIELD_FAULTS = {
    "first layer not shifted": not_shifted,
    "dilation off by one": wrong_dilation,
    "claims one sample more": claims_more,
}


# ---- one pass


@torch.no_grad()
def law_pass_is_the_recursion(make):
    """Outputs are those of the paper's formulas, sample by sample, with the weights of the layers."""
    network = make()
    x, c = data(), contexts(network)
    found = network(x, c)
    if network.embedding is None:
        embedded = (2 * x - 1).unsqueeze(1)
    else:
        embedded = network.embedding.weight[(x * (LEVELS - 1)).long()].transpose(1, 2)

    def affine(layer, h):
        return h @ layer.weight[..., 0].T + layer.bias

    h = [affine(network.first.conv, embedded[..., t - 1] if t else 0 * embedded[..., 0]) for t in range(T)]
    total = [0.0] * T
    for place, gate in enumerate(network._gates()):
        weight, kernel, z = gate.conv.weight, gate.kernel_size, []
        dilation = 2 ** (place % make.keywords["num_layers"])
        for t in range(T):
            raw = gate.conv.bias
            for j in range(kernel):
                if t - j * dilation >= 0:
                    raw = raw + h[t - j * dilation] @ weight[..., kernel - 1 - j].T
            if c is not None:
                raw = raw + (c[..., t] if network.local else c) @ network.contexts[place].weight.T
            half = raw.shape[-1] // 2
            z.append(torch.tanh(raw[:, :half]) / (1 + torch.exp(-raw[:, half:])))
        total = [s + affine(network.skips[place], one) for s, one in zip(total, z, strict=True)]
        if place < len(network.residuals):
            h = [old + affine(network.residuals[place], one) for old, one in zip(h, z, strict=True)]
    out = [affine(network.last, affine(network.hidden, s.relu()).relu()) for s in total]
    torch.testing.assert_close(found, torch.stack(out, -1), rtol=0, atol=1e-12)


@torch.no_grad()
def law_probabilities_sum_to_one(make):
    """Over all waveforms of four samples, for each context."""
    network = make(4)
    x = torch.tensor(list(itertools.product(range(LEVELS), repeat=4))).double() / (LEVELS - 1)
    p = joint(network, contexts(network, 4)).log_prob(x.unsqueeze(1).expand(-1, ROWS, -1)).exp()
    assert ((p.sum(0) - 1).abs() < 1e-10).all()


@torch.no_grad()
def law_input_changes_later_outputs_alone(make):
    """Outputs up to an input's own sample have the same bits before and after it is changed; the next one has not."""
    network = make()
    x, c = data(), contexts(network)
    before = network(x, c)
    for i in range(T):
        moved = x.clone()
        moved[:, i] = (moved[:, i] + 0.5) % 1.5  # another level
        after = network(moved, c)
        assert torch.equal(after[..., : i + 1], before[..., : i + 1])
        if i + 1 < T:
            assert (after[..., i + 1] != before[..., i + 1]).any(-1).all()


def law_jacobian_is_strictly_lower(make):
    """No derivative by an input of the same or of a later time; all by those of the receptive field."""
    network = make()
    c = contexts(network)
    jacobian = torch.func.jacrev(lambda x: network(x, None if c is None else c[0]))(
        data()[0]
    )  # (params, T, T)
    t = torch.arange(T)
    distance = t.unsqueeze(-1) - t
    assert (jacobian[:, distance <= 0] == 0).all()
    assert (jacobian[:, (distance >= 1) & (distance <= network.receptive_field)] != 0).any(0).all()


def law_receptive_field_is_measured(make):
    """The last output sees as many inputs as are claimed, those right before it, and as many as the formula says."""
    of = make.keywords
    reach = of["num_stacks"] * (of["kernel_size"] - 1) * (2 ** of["num_layers"] - 1) + 1
    network = make(reach + 4)
    x = data(reach + 4)[0].requires_grad_()
    (gradient,) = torch.autograd.grad(network(x)[..., -1].square().sum(), x)
    seen = gradient.nonzero().flatten().tolist()
    assert seen == list(range(reach + 3 - network.receptive_field, reach + 3))
    assert network.receptive_field == reach


# ---- one sample after the other


def later_rings(network, number, context):
    """What is kept is taken from rings for dilations that are off by one."""
    twin = copy.deepcopy(network)
    for gate in twin._gates():
        gate.dilation += 1  # the convolution itself has its own
    return twin.conditionals(number, context)


def with_a_first_level(weights, terms, queues, slots, x, index):
    """The first sample comes after a level of zero, not after nothing."""
    weights = weights._replace(first_bias=weights.first_bias - (index == 0) * weights.first[0])
    return one_sample(weights, terms, queues, slots, x, index)


def without_residual_biases(weights, *inputs):
    return one_sample(weights._replace(residual_bias=0 * weights.residual_bias), *inputs)


SAMPLER_FAULTS = {
    "dilations off by one": later_rings,
    "a sample before the first": partial(WaveNetStack.conditionals, step=with_a_first_level),
    "no residual biases": partial(WaveNetStack.conditionals, step=without_residual_biases),
}


@torch.no_grad()
def law_cached_draws_are_naive_draws(sampler):
    """The same seed gives the same draws, and their conditionals those of a pass, whatever was kept on the way."""
    make, conditionals = sampler
    network = make(4 * T)  # each ring goes round several times
    c = contexts(network, 4 * T)
    number = () if c is not None else (ROWS,)
    drawn = []
    for p in (joint(network, c, naive=True), joint(network, c, conditionals=partial(conditionals, network))):
        torch.manual_seed(0)
        drawn.append(p.sample(number))
    assert torch.equal(*drawn)
    steps, x = conditionals(network, ROWS, c), drawn[0]
    _, params = next(steps)
    found = [params] + [steps.send(value)[1] for value in x[:, :-1].split(1, -1)]
    torch.testing.assert_close(torch.cat(found, -1), network(x, c), rtol=0, atol=1e-12)


@torch.no_grad()
def law_draws_have_the_exact_distribution(sampler):
    """Chi-square of 30,000 draws of three samples against the exact table; a false alarm once in a million runs."""
    make, conditionals = sampler
    network, number = make(3), 30_000
    c = contexts(network, 3)
    c = None if c is None else c[0]
    x = torch.tensor(list(itertools.product(range(LEVELS), repeat=3))).double() / (LEVELS - 1)
    expected = number * joint(network, c, conditionals=partial(conditionals, network)).log_prob(x).exp()
    drawn = joint(network, c, conditionals=partial(conditionals, network)).sample((number,))
    k = (drawn * (LEVELS - 1)).round().long()
    counts = torch.bincount((k * torch.tensor([9, 3, 1])).sum(-1), minlength=27).double()
    rare = expected < 10  # pooled, where the approximation by a chi-square is poor
    found = torch.cat([counts[~rare], counts[rare].sum().reshape(-1)[: int(rare.any())]])
    expected = torch.cat([expected[~rare], expected[rare].sum().reshape(-1)[: int(rare.any())]])
    assert ((found - expected).square() / expected).sum() < chi2.isf(1e-6, len(found) - 1)


# ---- the table

MAKE = {name: partial(made, **options) for name, options in KINDS.items()}
SMOOTH = {name: make for name, make in MAKE.items() if name != "levels"}  # a level has no derivative
SAMPLERS = {name: (make, WaveNetStack.conditionals) for name, make in MAKE.items()}
BROKEN_SAMPLERS = {
    f"{fault}, {name}": (make, conditionals)
    for fault, conditionals in SAMPLER_FAULTS.items()
    for name, make in MAKE.items()
    if name != "one layer" or fault != "no residual biases"
}
FIELDS = {
    f"kernel {kernel_size}, {num_stacks} of {num_layers}": partial(
        made, kernel_size=kernel_size, num_layers=num_layers, num_stacks=num_stacks
    )
    for kernel_size, num_layers, num_stacks in [(2, 1, 1), (2, 4, 1), (2, 3, 2), (3, 3, 1), (4, 2, 3)]
}


def broken(faults):
    """Networks with a fault each, without a context and with one for each sample."""
    return {
        f"{fault}, {name}": partial(MAKE[name], change=change)
        for fault, change in faults.items()
        for name in ("plain", "local context")
    }


test_law_holds, test_law_catches_mutant = as_tests(
    [
        (law_pass_is_the_recursion, MAKE, broken(FAULTS | PASS_FAULTS)),
        (law_probabilities_sum_to_one, MAKE, broken(FAULTS)),
        (law_input_changes_later_outputs_alone, MAKE, broken(FAULTS)),
        (law_jacobian_is_strictly_lower, SMOOTH, broken(FAULTS)),
        (
            law_receptive_field_is_measured,
            FIELDS,
            {
                name: partial(FIELDS["kernel 2, 2 of 3"], change=change)
                for name, change in FIELD_FAULTS.items()
            },
        ),
        (law_cached_draws_are_naive_draws, SAMPLERS, BROKEN_SAMPLERS),
        (
            law_draws_have_the_exact_distribution,
            SAMPLERS,
            {name: found for name, found in BROKEN_SAMPLERS.items() if "plain" in name or "global" in name},
        ),
    ]
)
