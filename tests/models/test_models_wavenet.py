"""WaveNet as a program: what it is given, where it starts, and its compiled sampler."""

import copy
import pickle

import pytest
import torch
from torch import nn

from pyro_dgm.distributions import (
    Autoregressive,
    BernoulliObservation,
    CategoricalObservation,
    DiscretizedLogisticMixtureObservation,
)
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.models.wavenet import WaveNet
from pyro_dgm.nets.causal_conv import Upsampling

T, LEVELS = 12, 5


def small(levels=LEVELS, **options):
    """A small program in float64 with random parameters."""
    options.setdefault("observation", CategoricalObservation((T,), levels))
    program = WaveNet((T,), **{"channels": 4, "num_layers": 2, **options}).double()
    with torch.no_grad():
        for value in program.parameters():
            value.normal_(std=0.5)
        program.observation.offset.normal_()
    return program


def data(n, levels=LEVELS):
    return torch.randint(levels, (n, T)).double() / (levels - 1)


# ---- what is given


def test_the_program_observes_waveforms_and_draws_them():
    program = small()
    x = data(7)
    assert torch.equal(program.model(x), x)
    assert program.model(n=3).shape == (3, T)
    assert program().support.check(program.sample(4)).all()


def test_labels_change_the_distribution():
    program = small(num_classes=3)
    x, y = data(6), torch.tensor([0, 1, 2, 0, 1, 2])
    log_p = program(program.context(y)).log_prob(x)
    same = program(program.context(y.roll(3))).log_prob(x)  # the same labels
    assert torch.equal(log_p, same)
    assert (program(program.context((y + 1) % 3)).log_prob(x) != log_p).all()
    assert program.sample(4).shape == program.sample(4, y=1).shape == program.model(y=y[:4]).shape == (4, T)


@torch.no_grad()
def test_local_features_change_samples_from_their_own_time_on():
    program = small(context_shape=(2, T))
    x, c = data(1), torch.randn(1, 2, T, dtype=torch.float64)
    moved = c.clone()
    moved[..., 5] += 1
    before, after = (program.network(x, value) for value in (c, moved))
    assert torch.equal(before[..., :5], after[..., :5])
    assert (before[..., 5] != after[..., 5]).all()
    assert program.sample(3, y=c[0]).shape == (3, T)


@torch.no_grad()
def test_coarse_features_are_brought_to_every_sample():
    program = small(context_shape=(2, T // 4), context_network=Upsampling(2, 4))
    fine = small(context_shape=(2, T))
    fine.load_state_dict(
        {
            name: value
            for name, value in program.state_dict().items()
            if not name.startswith("context_network")
        }
    )
    x, c = data(3), torch.randn(3, 2, T // 4, dtype=torch.float64)
    program.context_network.conv.weight.copy_(torch.eye(2).unsqueeze(-1))
    torch.testing.assert_close(program(c).log_prob(x), fine(c.repeat_interleave(4, -1)).log_prob(x))


def test_a_network_may_embed_the_labels():
    program = small(num_classes=3, context_network=nn.Linear(3, 2))
    assert program.network.context_features == 2 and not program.network.local
    assert program.sample(4, y=2).shape == (4, T)


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: WaveNet((1, 8)), InvalidInput, "more than time in data_shape: (1, 8); expected (T,)"),
        (
            lambda: small(context_shape=(2, 3)),
            InvalidInput,
            "features of another shape in context_shape: (2, 3)",
        ),
        (
            lambda: small(context_shape=(2, 3), context_network=Upsampling(2, 3)),
            InvalidInput,
            "features of another shape in context_network: (2, 9); expected (F,), or (F, 12)",
        ),
        (lambda: small(context_shape=(2,)).sample(3), IncompatibleModel, "no y to condition on in WaveNet"),
        (
            lambda: small(context_shape=(2,)).sample(3, compiled=True),
            IncompatibleModel,
            "no y to condition on in WaveNet",
        ),
        (
            lambda: small(observation=Plain()).sample(3, compiled=True),
            InvalidInput,
            "no draws of single samples in observation: Plain",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(make, error, told):
    with pytest.raises(error) as found:
        make()
    assert str(found.value).startswith(told)


class Plain(nn.Module):
    """A piece of a user's own."""

    num_params, data_shape = 1, (T,)

    def __init__(self):
        super().__init__()
        self.register_buffer("offset", torch.zeros(()))
        self.piece = BernoulliObservation((T,))

    def forward(self, params):
        return self.piece(params)


@torch.no_grad()
def test_cached_draws_of_16_bits_are_naive_draws():
    program = small(observation=DiscretizedLogisticMixtureObservation((T,), 65536, num_components=3))
    found = []
    for p in (program(), Autoregressive(lambda x, c: program.network(x), program.observation)):
        torch.manual_seed(1)
        found.append(p.sample((20,)))
    assert torch.equal(*(k.double() for k in found))
    assert program().support.check(found[0]).all()


# ---- where it starts


@pytest.mark.parametrize("levels", [LEVELS, 65536])
@torch.no_grad()
def test_it_starts_at_the_marginal_of_all_samples(levels):
    """Outputs of zero stand for the frequencies, or for the mean, of all samples whatever their time."""
    if levels == LEVELS:
        observation = CategoricalObservation((T,), levels)
    else:
        observation = DiscretizedLogisticMixtureObservation((T,), levels, num_components=3)
    program = WaveNet((T,), observation=observation)
    x = (torch.randint(levels, (50, T)) * torch.linspace(0, 1, T)).round() / (levels - 1)  # louder and louder
    program.initialize(x)
    p = observation(torch.zeros(observation.num_params, T)).base_dist
    assert (observation.offset == observation.offset[:, :1]).all() and observation.offset.any()
    if levels == LEVELS:
        counts = torch.bincount((x * (levels - 1)).round().long().flatten(), minlength=levels) + 1
        torch.testing.assert_close(p.logits[0].softmax(-1), counts / counts.sum())
    else:
        torch.testing.assert_close(p.component_distribution.loc[0].mean(), x.mean())
    before = observation.offset.clone()
    program.initialize(1 - x)
    assert torch.equal(observation.offset, before)  # once


def test_labels_are_checked_before_it_starts():
    with pytest.raises(InvalidInput, match="labels out of range"):
        small(num_classes=2).initialize(data(2), torch.tensor([0, 2]))


# ---- the compiled sampler


def both(program, num, **given):
    """Draws of the plain and of the compiled sampler with the same seed, and the generator's state after each."""
    found = []
    for compiled in (False, True):
        torch.manual_seed(1)
        found.append((program.sample(num, compiled=compiled, **given), torch.get_rng_state()))
    return found


@pytest.fixture(params=["traced", pytest.param("compiled", marks=pytest.mark.slow)])
def how(request, monkeypatch):
    """Steps that are traced alone, which takes a second, and steps that are compiled too."""
    if request.param == "traced":
        monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: graph)
    return request.param


def test_compiled_draws_are_plain_draws_whatever_becomes_of_the_program(how):
    """One waveform with local features; in float64 the two must be equal, and leave the same random state."""
    program = small(context_shape=(2, T))
    c = torch.randn(2, T, dtype=torch.float64)
    (plain, state), (compiled, state_after) = both(program, 1, y=c)
    assert torch.equal(plain, compiled) and torch.equal(state, state_after)

    # Parameters that are changed in place or replaced are those of the next draws, without compiling anew.
    (kept,) = program._steps._steps.values()
    with torch.no_grad():
        program.network.last.bias.add_(torch.linspace(-2, 2, LEVELS))
        program.observation.offset = program.observation.offset.flip(0).clone()
    (changed, _), (compiled, _) = both(program, 1, y=c)
    assert torch.equal(changed, compiled) and not torch.equal(changed, plain)
    assert list(program._steps._steps.values()) == [kept]

    # Another observation, or another number in it, is drawn from anew.
    program.observation.offset.zero_()
    program.observation.levels = 4
    (changed, _), (compiled, _) = both(program, 1, y=c)
    assert torch.equal(changed, compiled)

    # A copy begins without what was compiled, and a program that has it can be copied and pickled.
    for twin in (copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert not twin._steps._steps
    assert not any("_steps" in name for name in program.state_dict())


@pytest.mark.parametrize(
    ("observation", "num", "options"),
    [
        (CategoricalObservation((T,), LEVELS), 3, {"kernel_size": 3, "num_stacks": 2}),
        (CategoricalObservation((T,), LEVELS), 2, {"num_classes": 3, "input_levels": LEVELS}),
        (CategoricalObservation((T,), LEVELS), 513, {}),  # more than are drawn at once
        (DiscretizedLogisticMixtureObservation((T,), 65536, num_components=3), 1, {}),
        (DiscretizedLogisticMixtureObservation((T,), 65536, num_components=3), 2, {"num_layers": 1}),
    ],
    ids=["kernel 3", "labels", "513 draws", "16 bits", "16 bits, one layer"],
)
def test_compiled_draws_of_all_kinds_are_plain_draws(how, observation, num, options):
    (plain, state), (compiled, state_after) = both(small(observation=observation, **options), num)
    assert torch.equal(plain, compiled) and torch.equal(state, state_after)


def test_a_step_that_draws_anew_would_be_found(monkeypatch):
    """The mutant: a compiled step with random numbers of its own."""
    monkeypatch.setattr("torch._inductor.compile", lambda graph, inputs, options: twice(graph))
    (plain, state), (compiled, state_after) = both(small(), 1)
    assert not torch.equal(plain, compiled) and not torch.equal(state, state_after)


def twice(graph):
    def run(*inputs):
        torch.rand(())
        return graph(*inputs)

    return run


@pytest.mark.parametrize("kernel_size", [2, 3])
def test_layers_that_reach_further_than_the_data_cost_no_more(kernel_size):
    """With dilations up to 2^23 the density is that of what can be seen, and cached draws are naive ones."""
    program = small(num_layers=24, kernel_size=kernel_size)
    x = program.sample(4)
    whole = program().log_prob(x)
    for layer in program.network.gates[
        4:
    ]:  # a dilation of 16, more than the data are long, sees nothing but zeros
        assert layer.dilation >= T
        with torch.no_grad():
            layer.conv.weight[..., :-1] = 1e6
    torch.testing.assert_close(program().log_prob(x), whole, rtol=0, atol=0)
    p = program()
    naive = Autoregressive(lambda x, c: p.network(x, c), p.observation)
    torch.manual_seed(1)
    kept = p.sample((20,))
    torch.manual_seed(1)
    assert torch.equal(kept, naive.sample((20,)))


def test_a_context_of_another_length_is_refused_by_the_sampler_too():
    program = small(context_shape=(2, T))
    with pytest.raises(InvalidInput, match="wrong event shape in WaveNetStack context"):
        program(torch.randn(3, 2, T + 4, dtype=torch.float64)).sample()
