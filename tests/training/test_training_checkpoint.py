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
from pyro_dgm.training import checkpoint as checkpoint_module
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

    @property
    def parts(self):
        return {
            "program": self.program,
            "objective": self.critic,
            "optimizer": self.players.optimizers,
            "ema": self.average.values,
            "rng": torch.get_rng_state(),
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
    rest = {"count": game.players.count, "averaged": game.average.count, "name": "ü", "rates": [0.1]}
    save_checkpoint(tmp_path / "c", {**game.parts, **rest})
    expected = game.steps(4)

    other = Game(2, OPTIMIZERS[name])
    other.steps(1)
    rng = torch.empty_like(torch.get_rng_state())
    assert load_checkpoint(tmp_path / "c", {**other.parts, "rng": rng}) == rest
    other.players.count, other.average.count = rest["count"], rest["averaged"]
    torch.set_rng_state(rng)
    assert other.steps(4) == expected
    assert same(copy_of(game.program), copy_of(other.program)) and same(
        copy_of(game.critic), copy_of(other.critic)
    )
    assert same(game.average.values, other.average.values)


def test_files_are_safetensors_and_json(tmp_path):
    game = Game(1, OPTIMIZERS["adam"])
    game.steps(1)
    save_checkpoint(tmp_path / "c", game.parts)
    names = {"tensors.safetensors", "state.json", "manifest.json"}
    assert {path.name for path in (tmp_path / "c").iterdir()} == names
    tensors, plain = checkpoint_files.read(tmp_path / "c")
    json.dumps(plain)
    parts = {name.split("/")[0] for name in tensors}
    assert parts == {"program", "objective", "optimizer", "ema", "rng"}
    assert "optimizer/program/state/0/exp_avg" in tensors


def test_tied_weights_are_saved_and_loaded(tmp_path):
    program = Autoencoder()
    program.twin = program.encoder
    save_checkpoint(tmp_path / "c", {"program": program})
    other = Autoencoder()
    other.twin = other.encoder
    load_weights(other, tmp_path / "c")
    assert same(copy_of(program), copy_of(other)) and other.twin is other.encoder


def test_a_checkpoint_replaces_an_older_one(tmp_path):
    program = Location()
    for value in (1.0, 2.0):
        program.location.data.fill_(value)
        save_checkpoint(tmp_path / "c", {"program": program, "value": value})
    assert load_checkpoint(tmp_path / "c", {"program": program}) == {"value": 2.0}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_what_was_read_does_not_follow_the_file(tmp_path):
    save_checkpoint(tmp_path / "c", {"program": Autoencoder()})
    tensors, _ = checkpoint_files.read(tmp_path / "c")
    before = {name: value.clone() for name, value in tensors.items()}
    file = tmp_path / "c" / checkpoint_files.TENSORS
    with file.open("r+b") as stream:  # in place, where a mapping of the file would see it
        stream.seek(-8, 2)
        stream.write(b"\xff" * 8)
    assert same(tensors, before)


def test_other_weights_are_refused_by_name(tmp_path):
    save_checkpoint(tmp_path / "c", {"program": Autoencoder(dim=4)})
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
    assert caught.value.where == str(tmp_path / "c")
    assert caught.value.exit_code == 3 and same(before, copy_of(wider))


def test_parts_of_another_run_are_refused(tmp_path):
    game = Game(1, OPTIMIZERS["adam"])
    game.steps(1)
    save_checkpoint(tmp_path / "c", game.parts)
    program = {"program": game.program}
    optimizers = game.players.optimizers
    fewer = OPTIMIZERS["adam"]([game.critic.net.weight])
    for parts, message in (
        ({"optimizer": {"program": optimizers["program"]}}, "another optimizer in .*: unexpected critic"),
        ({"optimizer": {**optimizers, "third": fewer}}, "another optimizer in .*: missing third"),
        ({"optimizer": {**optimizers, "critic": fewer}}, "another optimizer/critic"),
        ({"scheduler": []}, "another checkpoint in .*: missing scheduler"),
        ({"objective": game.program}, "another objective in .*: missing"),
        ({"ema": {}}, "another ema in .*: unexpected"),
        ({"rng": torch.zeros(3)}, "rng has shape"),
    ):
        with pytest.raises(IntegrityError, match=message):
            load_checkpoint(tmp_path / "c", {**program, **parts})


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def garble(path):
    path.write_bytes(b"\x80\x04" + path.read_bytes())


@pytest.mark.parametrize(
    "damage", [cut, garble, lambda path: path.write_bytes(b"")], ids=["cut", "garbled", "empty"]
)
@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
def test_damaged_files_are_refused(tmp_path, file, damage):
    save_checkpoint(tmp_path / "c", {"program": Location()})
    damage(tmp_path / "c" / file)
    with pytest.raises(IntegrityError, match=file):
        load_checkpoint(tmp_path / "c", {"program": Location()})


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_damage_and_an_empty_folder_no_checkpoint(tmp_path, file):
    save_checkpoint(tmp_path / "c", {"program": Location()})
    (tmp_path / "c" / file).unlink()
    with pytest.raises(IntegrityError, match=file):
        load_checkpoint(tmp_path / "c", {"program": Location()})
    with pytest.raises(InvalidInput, match="no checkpoint"):
        load_checkpoint(tmp_path, {"program": Location()})


def test_a_newer_format_is_refused(tmp_path):
    save_checkpoint(tmp_path / "c", {"program": Location()})
    path = tmp_path / "c" / "manifest.json"
    path.write_text(path.read_text().replace('"format": 2', '"format": 99'))
    with pytest.raises(IntegrityError, match="newer format in .*: 99; expected at most 2"):
        load_checkpoint(tmp_path / "c", {"program": Location()})


def test_names_with_slashes_are_kept_apart(tmp_path):
    parts = {"a": {"b": torch.zeros(1)}, "a/b": torch.ones(2)}
    save_checkpoint(tmp_path / "c", parts)
    tree = load_checkpoint(tmp_path / "c", {})
    assert torch.equal(tree["a"]["b"], torch.zeros(1)) and torch.equal(tree["a/b"], torch.ones(2))


def test_what_is_no_plain_data_is_refused_before_anything_is_written(tmp_path):
    class Strange:
        def state_dict(self):
            return {"object": object()}

        def load_state_dict(self, state): ...

    with pytest.raises(InvalidInput, match="step/object: object"):
        save_checkpoint(tmp_path / "c", {"program": Location(), "step": Strange()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", ["_write_file", "flush"])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, call, nth):
    program = Location()
    save_checkpoint(tmp_path / "c", {"program": program, "good": True})
    original, calls = getattr(checkpoint_files, call), []

    def full(*args):
        calls.append(args)
        if len(calls) > nth:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args)

    monkeypatch.setattr(checkpoint_files, call, full)
    with pytest.raises(ResourceError, match="No space left") as caught:
        save_checkpoint(tmp_path / "c", {"program": program, "good": False})
    assert caught.value.exit_code == 5
    whole = load_checkpoint(tmp_path / "c", {"program": program})["good"]
    # Only when the last flush fails, after the rename, is the new one in place.
    assert whole is not (call == "flush" and nth == 1)
    assert not list(tmp_path.glob(".new-c"))


def test_a_rename_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    program = Location()
    save_checkpoint(tmp_path / "c", {"program": program, "good": True})
    original = Path.rename

    def fail_for_the_new_one(self, target):
        if self.name == ".new-c":
            raise OSError(errno.EIO, "Input/output error")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(ResourceError, match="Input/output error"):
        save_checkpoint(tmp_path / "c", {"program": program, "good": False})
    assert load_checkpoint(tmp_path / "c", {"program": program}) == {"good": True}
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
    folder = max((tmp_path / "checkpoints").glob("best-*"))
    rest = load_checkpoint(folder, {"program": best})
    load_weights(last, tmp_path)
    assert rest["val_loss"] == history.best["val_loss"]
    assert (
        folder.name == f"best-{history.best['step']:08d}" and rest["val_loss"] < history.rows[-1]["val_loss"]
    )
    torch.testing.assert_close(best.location.detach(), torch.ones(2), rtol=0, atol=0.1)
    assert last.location.min() > 2


def slow(parameters):
    return torch.optim.SGD(parameters, lr=0.02)


@pytest.mark.parametrize(("seconds", "number"), [(1000.0, 2), (0.0, 30 * 5)])
def test_saving_is_limited_in_time(tmp_path, monkeypatch, seconds, number):
    names, original = [], checkpoint_files.write

    def count(folder, tensors, plain):
        names.append(folder.name)
        original(folder, tensors, plain)

    monkeypatch.setattr(checkpoint_module, "write", count)
    run(tmp_path / "a", checkpoint_seconds=seconds)
    assert (
        len([name for name in names if name.startswith("step")]) == number
    )  # first epoch and end, or each step
    kept = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert [name for name in kept if name.startswith("step")] == sorted(
        name for name in names if name.startswith("step")
    )[-2:]
    assert 1 <= len([name for name in kept if name.startswith("best")]) <= 2


def test_tied_weights_of_an_averaged_run_are_the_averages(tmp_path):
    def tied():
        program = Autoencoder()
        program.twin = program.encoder  # state_dict has it under both names
        return program

    program, other = tied(), tied()
    fit(program, ELBO(), rows(40), epochs=3, batch_size=8, ema=0.9, out=tmp_path, progress=False)
    load_weights(other, tmp_path)
    assert same(copy_of(program), copy_of(other))


def test_what_a_user_puts_beside_the_checkpoints_stays(tmp_path):
    run(tmp_path, epochs=1)
    names = {"best-so-far", "step-00000005-copy", "newer", "old", ".old-backup", "steps.txt"}
    for name in names:
        (tmp_path / "checkpoints" / name).mkdir()
    for name in (".new-step-00000007", ".old-best-00000005", ".gone-step-00000001"):  # as kills leave them
        (tmp_path / "checkpoints" / name).mkdir()
    run(tmp_path, epochs=2, resume=True)
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names <= kept and not {name for name in kept - names if name.startswith(".")}
