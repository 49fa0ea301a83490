"""Checkpoints: what comes back, what is refused, and what a full disk leaves behind."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError
from pyro_dgm.objectives import ELBO, Player
from pyro_dgm.training import (
    Players,
    WeightAverage,
    checkpoint_files,
    fit,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from tests.training.stand_ins import Autoencoder, Location, Parts, Rows, copy_of, rows, same


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.register_buffer("scale", torch.tensor(2.0))


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True, betas=(0.8, 0.9)),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-2, centered=True),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-2)),
}


class Game:
    """Everything that training holds, with a seed of its own for the weights."""

    def __init__(self, seed, optimizer):
        torch.manual_seed(seed)
        self.program, self.critic, elbo = Autoencoder(dropout=0.3), Critic(), ELBO()
        self.players = Players(
            [
                Player(
                    "program",
                    lambda x: elbo(self.program.model, self.program.guide, x),
                    list(self.program.parameters()),
                    optimizer,
                ),
                Player(
                    "critic",
                    lambda x: (
                        (self.critic.net(x) * self.critic.scale - torch.randn(len(x), 1)).square().sum()
                    ),
                    list(self.critic.parameters()),
                    OPTIMIZERS["sgd"],
                    every=2,
                ),
            ]
        )
        self.average = WeightAverage(self.program.named_parameters(), decay=0.9)
        self.parts = {
            "program": self.program,
            "objective": self.critic,
            "step": self.players,
            "average": self.average,
        }

    def steps(self, num):
        losses = []
        for i in range(num):
            losses.append(self.players.step(rows(8, seed=i).tensors[0]))
            self.average.update()
        return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_several_optimisers_go_on_bit_for_bit(tmp_path, name):
    game = Game(1, OPTIMIZERS[name])
    game.steps(5)
    save_checkpoint(tmp_path / "c", **game.parts, state={"epoch": 3, "name": "ü", "rates": [0.1]})
    expected = game.steps(4)

    other = Game(2, OPTIMIZERS[name])
    other.steps(1)
    state = load_checkpoint(tmp_path / "c", **other.parts)
    assert state == {"epoch": 3, "name": "ü", "rates": [0.1]}
    assert other.steps(4) == expected
    assert same(copy_of(game.program), copy_of(other.program)) and same(
        copy_of(game.critic), copy_of(other.critic)
    )
    assert same(game.average.values, other.average.values)


def test_files_are_safetensors_and_json(tmp_path):
    game = Game(1, OPTIMIZERS["adam"])
    game.steps(1)
    save_checkpoint(tmp_path / "c", **game.parts, state={})
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"tensors.safetensors", "state.json"}
    tensors, plain = checkpoint_files.read(tmp_path / "c")
    json.dumps(plain)
    parts = {name.split("/")[0] for name in tensors}
    assert parts == {"program", "objective", "optimizer", "ema", "rng"}
    assert "optimizer/program/state/0/exp_avg" in tensors


def test_tied_weights_are_saved_and_loaded(tmp_path):
    program = Autoencoder()
    program.twin = program.encoder
    save_checkpoint(tmp_path / "c", program=program, state={})
    other = Autoencoder()
    other.twin = other.encoder
    load_weights(other, tmp_path / "c")
    assert same(copy_of(program), copy_of(other)) and other.twin is other.encoder


def test_a_checkpoint_replaces_an_older_one(tmp_path):
    program = Location()
    for value in (1.0, 2.0):
        program.location.data.fill_(value)
        save_checkpoint(tmp_path / "c", program=program, state={"value": value})
    assert load_checkpoint(tmp_path / "c", program=program) == {"value": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_other_weights_are_refused_by_name(tmp_path):
    save_checkpoint(tmp_path / "c", program=Autoencoder(dim=4), state={})
    wider = Autoencoder(dim=4)
    wider.encoder = nn.Linear(5, 2)
    wider.extra = nn.Linear(1, 1, bias=False)
    del wider.decoder
    before = copy_of(wider)
    with pytest.raises(IntegrityError) as caught:
        load_weights(wider, tmp_path / "c")
    message = str(caught.value)
    assert "missing extra.weight" in message and "unexpected decoder.1.bias, decoder.1.weight" in message
    assert "encoder.weight has shape (2, 4) instead of (2, 5)" in message
    assert caught.value.exit_code == 3 and same(before, copy_of(wider))


def test_another_optimiser_is_refused(tmp_path):
    game = Game(1, OPTIMIZERS["adam"])
    save_checkpoint(tmp_path / "c", **game.parts, state={})
    players = Players([Player("program", lambda x: x, list(game.program.parameters()))])
    with pytest.raises(IntegrityError, match="another optimizer"):
        load_checkpoint(tmp_path / "c", program=game.program, objective=game.critic, step=players)
    save_checkpoint(tmp_path / "d", program=game.program, state={})
    with pytest.raises(IntegrityError, match="no state of a step"):
        load_checkpoint(tmp_path / "d", program=game.program, step=players)
    with pytest.raises(IntegrityError, match="no moving average"):
        load_checkpoint(tmp_path / "d", program=game.program, average=game.average)
    with pytest.raises(IntegrityError, match="another objective"):
        load_checkpoint(tmp_path / "d", program=game.program, objective=game.critic)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def garble(path):
    path.write_bytes(b"\x80\x04" + path.read_bytes())


@pytest.mark.parametrize(
    "damage", [cut, garble, lambda path: path.write_bytes(b"")], ids=["cut", "garbled", "empty"]
)
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
def test_damaged_files_are_refused(tmp_path, file, damage):
    save_checkpoint(tmp_path / "c", program=Location(), state={})
    damage(tmp_path / "c" / file)
    with pytest.raises(IntegrityError, match=file):
        load_checkpoint(tmp_path / "c", program=Location())


def test_a_newer_format_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c", program=Location(), state={})
    path = tmp_path / "c" / "state.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(IntegrityError, match="99"):
        load_checkpoint(tmp_path / "c", program=Location())


def test_what_is_no_plain_data_is_refused_before_anything_is_written(tmp_path):
    class Strange:
        def state_dict(self):
            return {"optimizer": {}, "object": object()}

        def load_state_dict(self, state): ...

    with pytest.raises(InvalidInput, match="step/object: object"):
        save_checkpoint(tmp_path / "c", program=Location(), step=Strange(), state={})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["_write_file", "_flush"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, call, nth):
    program = Location()
    save_checkpoint(tmp_path / "c", program=program, state={"good": True})
    original, calls = getattr(checkpoint_files, call), []

    def full(*args):
        calls.append(args)
        if len(calls) > nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args)

    monkeypatch.setattr(checkpoint_files, call, full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        save_checkpoint(tmp_path / "c", program=program, state={"good": False})
    assert caught.value.exit_code == 5
    whole = load_checkpoint(tmp_path / "c", program=program)["good"]
    # Only when the last flush fails, after the rename, is the new one in place.
    assert whole is not (call == "_flush" and nth == 1)
    assert not list(tmp_path.glob(".c.new"))


def test_a_rename_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    program = Location()
    save_checkpoint(tmp_path / "c", program=program, state={"good": True})
    original = Path.rename

    def fail_for_the_new_one(self, target):
        if self.name == ".c.new":
            raise OSError(errno.EIO, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(ResourceError, match="Input/output error"):
        save_checkpoint(tmp_path / "c", program=program, state={"good": False})
    assert load_checkpoint(tmp_path / "c", program=program) == {"good": True}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def run(tmp_path, **options):
    program = Autoencoder()
    data = Parts(rows(40, seed=1), rows(40, seed=2))
    fit(
        program, ELBO(), data, **{"epochs": 30, "batch_size": 8, "progress": False, "out": tmp_path} | options
    )
    return program


@pytest.mark.parametrize(
    "options", [{}, {"ema": 0.95}, {"early_stopping": 2}, {"early_stopping": 2, "ema": 0.8}], ids=str
)
def test_a_run_gives_back_the_weights_that_it_ended_with(tmp_path, options):
    program, other = run(tmp_path, **options), Autoencoder()
    load_weights(other, tmp_path)
    assert same(copy_of(program), copy_of(other))


def test_the_best_weights_of_a_run_are_a_checkpoint(tmp_path):
    data = Parts(
        Rows(torch.full((32, 2), 3.0)), Rows(torch.full((8, 2), 1.0))
    )  # what fits one fits not the other
    history = fit(
        Location(), ELBO(), data, epochs=100, batch_size=8, progress=False, out=tmp_path, optimizer=slow
    )
    best, last = Location(), Location()
    load_checkpoint(tmp_path / "checkpoints" / "best", program=best)
    load_weights(last, tmp_path)
    state = json.loads((tmp_path / "checkpoints" / "best" / "state.json").read_text())["state"]
    assert state["val_loss"] == history.best["val_loss"] < history.rows[-1]["val_loss"]
    torch.testing.assert_close(best.location.detach(), torch.ones(2), rtol=0, atol=0.1)
    assert last.location.min() > 2


def slow(parameters):
    return torch.optim.SGD(parameters, lr=0.02)


def test_saving_is_limited_in_time(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(checkpoint_files, "_write_file", lambda path, content: saved.append(path))
    run(tmp_path / "a", checkpoint_seconds=1000.0, early_stopping=None)
    assert (
        len([path for path in saved if "last" in str(path) and "tensors" in str(path)]) == 2
    )  # first and end
