"""Players: whose gradient goes where, what is refused, and what a refusal leaves behind."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from pyro_dgm.errors import InvalidInput, NonFiniteError
from pyro_dgm.objectives import Player
from pyro_dgm.training import Players
from tests.training.stand_ins import sgd


def leaf(value):
    return nn.Parameter(torch.tensor(value))


def test_gradient_reaches_only_the_players_own_parameters():
    critic, generator = leaf(2.0), leaf(3.0)
    players = Players(
        [
            Player("critic", lambda x: (critic * generator * x).sum(), [critic], sgd(0.1), every=2),
            Player("generator", lambda x: (critic * generator * x).sum(), [generator], sgd(0.1)),
        ]
    )
    x = torch.ones(4)
    players.step(x)
    after_its_turn = critic.grad.clone()
    assert after_its_turn == 3.0  # generator's value: the mean of the gradient over four data
    assert generator.grad == pytest.approx(2.0 - 0.1 * 3.0)  # the critic had moved before
    held = critic.detach().clone()
    players.step(x)  # the generator alone
    assert torch.equal(critic.grad, after_its_turn) and torch.equal(critic, held)


@pytest.mark.parametrize("num", [1, 3, 8])
def test_update_is_that_of_the_mean_over_the_batch(num):
    w = leaf(1.0)
    x = torch.arange(1.0, num + 1)
    losses = Players([Player("w", lambda x: (w * x).sum(), [w], sgd(0.5))]).step(x)
    assert losses == {"w": pytest.approx(x.mean().item())}
    assert w.item() == pytest.approx(1.0 - 0.5 * x.mean().item())


def test_players_take_turns():
    played = []

    def loss(name, w):
        return lambda: played.append(name) or w.square()

    a, b = leaf(1.0), leaf(1.0)
    players = Players([Player("a", loss("a", a), [a]), Player("b", loss("b", b), [b], every=3)])
    told = [set(players.step()) for _ in range(5)]
    assert "".join(played) == "abaaaba"
    assert told == [{"a", "b"}, {"a"}, {"a"}, {"a", "b"}, {"a"}]


@pytest.mark.parametrize(("clip", "length"), [(0.5, 0.5), (5.0, 5.0), (5.5, 5.0), (None, 5.0)])
def test_clipping_bounds_the_global_norm(clip, length):
    w, v = leaf(0.0), leaf(0.0)
    players = Players([Player("p", lambda: 3 * w + 4 * v, [w, v], sgd(1.0))], clip_norm=clip)
    players.step()
    moved = torch.stack((w, v)).detach()
    assert moved.norm().item() == pytest.approx(length, rel=1e-6)
    torch.testing.assert_close(moved / moved.norm(), torch.tensor([-0.6, -0.8]))
    assert players.gradient_norms["p"] == pytest.approx(5.0)  # told as it was before clipping


def test_frozen_and_unused_parameters_are_left_alone():
    w, frozen, unused = leaf(1.0), leaf(2.0), leaf(3.0)
    frozen.requires_grad_(False)
    Players([Player("p", lambda: (w * frozen).square(), [w, frozen, unused])]).step()
    assert (frozen.item(), unused.item()) == (2.0, 3.0)
    assert w.item() != 1.0


def bad_loss(w, v):
    return w * v / 0.0


def bad_gradient(w, v):
    return w + (v * 0.0).sqrt()


@pytest.mark.parametrize(
    ("loss", "what"), [(bad_loss, "non-finite loss"), (bad_gradient, "non-finite gradient")]
)
def test_a_bad_number_changes_nothing(loss, what):
    w, v = leaf(1.0), leaf(2.0)
    good = True

    def noisy():
        torch.rand(3)
        return (w * v).square() if good else loss(w, v)

    players = Players([Player("critic", noisy, [w, v])], clip_norm=1.0)
    players.step()
    good = False
    before = (
        [w.detach().clone(), v.detach().clone()],
        copy.deepcopy(players.optimizers["critic"].state_dict()),
        torch.get_rng_state(),
    )
    with pytest.raises(
        NonFiniteError, match=rf"{what} in player 'critic' at step 2: (nan|inf); .*; try"
    ) as caught:
        players.step()
    assert caught.value.exit_code == 4
    assert torch.equal(before[0][0], w) and torch.equal(before[0][1], v)
    assert torch.equal(before[2], torch.get_rng_state())
    assert players.count == 1
    after = players.optimizers["critic"].state_dict()["state"]
    for index, state in before[1]["state"].items():
        assert all(torch.equal(value, after[index][name]) for name, value in state.items())


def test_a_loss_above_max_loss_is_refused():
    w = leaf(3.0)
    players = Players([Player("p", lambda: w.square(), [w])], max_loss=8.0)
    with pytest.raises(NonFiniteError, match="loss above max_loss"):
        players.step()
    assert w.item() == 3.0


@pytest.mark.parametrize("lr", [-1.0, 0.0, math.nan, math.inf])
def test_a_wrong_learning_rate_is_refused(lr):
    with pytest.raises(InvalidInput, match="learning rate"):
        Players([Player("p", lambda: None, [leaf(1.0)], lambda p: torch.optim.Adam(p, lr=lr))])


def frozen_leaf():
    return nn.Parameter(torch.tensor(1.0), requires_grad=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Players([]),
        lambda: Players([Player("p", lambda: None, [leaf(1.0)])] * 2),
        lambda: Players([Player("p", lambda: None, [])]),
        lambda: Players([Player("p", lambda: None, [frozen_leaf()])]),
        lambda: Player("p", lambda: None, [], every=0),
        lambda: Player("a/b", lambda: None, []),
        lambda: Players([Player("p", lambda: 3.0, [leaf(1.0)])]).step(),
        lambda: Players([Player("p", lambda: torch.ones(2, requires_grad=True), [leaf(1.0)])]).step(),
        lambda: Players([Player("p", lambda: torch.tensor(1.0), [leaf(1.0)])]).step(),
    ],
)
def test_wrong_players_are_refused(make):
    with pytest.raises(InvalidInput):
        make()


def test_a_parameter_named_twice_is_stepped_once():
    w = leaf(1.0)
    Players([Player("p", lambda: w.square(), [w, w], sgd(0.1))]).step()
    assert w.item() == pytest.approx(0.8)


def test_the_gradient_norm_is_not_rounded_to_the_type_of_the_loss():
    w = leaf(1.0)
    players = Players([Player("p", lambda: (1.001 * w).bfloat16(), [w])])
    players.step()
    assert players.gradient_norms["p"] == pytest.approx(1.001)  # 1.0 in bfloat16
