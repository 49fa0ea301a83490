"""A run that was interrupted and goes on is the run that was not: to the last bit, whatever it holds."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.errors import IntegrityError, Interrupted, InvalidInput, ResourceError
from pyro_dgm.objectives import ELBO, IWAE, Player
from pyro_dgm.program import Pair
from pyro_dgm.training import Callback, checkpoint_files, fit, load_weights
from pyro_dgm.training.interruption import Interruption
from pyro_dgm.training.lock import LOCK, OWNER, FolderLock
from tests.faults.filesystem import Tap
from tests.training.stand_ins import Autoencoder, Location, Noisy, Parts, copy_of, rows, same


class At(Callback):
    """Sends this process a signal when a step is reached, from within the step."""

    def __init__(self, number=signal.SIGTERM):
        self.number = number

    def on_epoch(self, state):
        os.kill(os.getpid(), self.number)


class Signals:
    """An objective that sends a signal in its n-th call."""

    def __init__(self, objective, nth, number=signal.SIGTERM):
        self.objective, self.nth, self.number, self.calls = objective, nth, number, 0

    def __call__(self, model, guide, *batch):
        self.calls += 1
        if self.calls == self.nth:
            os.kill(os.getpid(), self.number)
        # All generators count, not torch's alone.
        noise = np.random.rand() + random.random() + np.random.randn() + random.gauss(0.0, 1.0)  # noqa: NPY002
        return self.objective(model, guide, *batch) * (1 + 0.1 * noise)


class Adversary(nn.Module):
    """An objective with two players, one of which plays every other step, and a buffer that counts."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Linear(4, 1)
        self.register_buffer("seen", torch.zeros(()))

    def __call__(self, model, guide, *batch):
        return self.players(None)[0].loss(*batch)

    def players(self, program):
        elbo = IWAE(num_particles=2)

        def loss(x):
            self.seen += 1
            return elbo(program.model, program.guide, x) + 0.01 * self.critic(x).sum()

        def criticise(x):
            return (self.critic(x) - torch.randn(len(x), 1)).square().sum()

        return [
            Player("program", loss, list(program.parameters()), lambda p: torch.optim.Adam(p, lr=1e-2)),
            Player(
                "critic",
                criticise,
                list(self.critic.parameters()),
                lambda p: torch.optim.SGD(p, 0.1),
                every=2,
            ),
        ]


SCHEDULERS = {
    "plateau": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 7),
    "warm restarts": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.01, total_steps=20),
    "cyclic": lambda o: torch.optim.lr_scheduler.CyclicLR(
        o, 1e-3, 1e-2, step_size_up=3, cycle_momentum=False
    ),
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "steps": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 4]),
    "chain": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [torch.optim.lr_scheduler.LinearLR(o, 0.1), torch.optim.lr_scheduler.ExponentialLR(o, 0.8)],
        milestones=[3],
    ),
}
CASES = {
    "plain": {},
    "averaged": {"ema": 0.9},
    "early stopping": {"early_stopping": 2, "epochs": 30, "optimizer": lambda p: torch.optim.SGD(p, 0.05)},
    "averaged, early stopping": {"ema": 0.8, "early_stopping": 3},
    "clipped": {"clip_norm": 0.5},
    "double": {"precision": "float64"},
    "sparse validation": {"validate_every": 3},
    "odd length": {"steps": 33, "epochs": None},
    **{name: {"scheduler": scheduler} for name, scheduler in SCHEDULERS.items()},
}


def train(program, objective, out, **options):
    train, val = Noisy(torch.rand(50, 4, generator=torch.Generator().manual_seed(1))), rows(20, seed=2)
    defaults = {"epochs": 8, "batch_size": 8, "progress": False, "out": out, "checkpoint_seconds": 1000.0}
    return fit(program, objective, Parts(train, val), **defaults | options)


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


def final_state(out):
    """Tensors and plain data of the newest checkpoint, without times."""
    tensors, plain = checkpoint_files.read(checkpoint_files.saved(out)[0])
    plain["loop"].pop("seconds")
    plain.pop("metrics")  # whose hash has seconds in it
    return tensors, plain


@pytest.mark.parametrize("nth", [1, 5, 12, 17])
@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, name, nth):
    whole = Autoencoder(dropout=0.3)
    start = copy_of(whole)
    expected = train(whole, Signals(ELBO(), -1), tmp_path / "whole", **CASES[name])

    program = Autoencoder(dropout=0.3)
    program.load_state_dict(start)
    with pytest.raises(Interrupted, match="SIGTERM after step") as caught:
        train(program, Signals(ELBO(), nth), tmp_path / "cut", **CASES[name])
    assert caught.value.exit_code == 143 and caught.value.signal == signal.SIGTERM

    torch.rand(7), np.random.rand(), random.random()  # noqa: NPY002  # another process has other states
    program = Autoencoder(dropout=0.3)  # with other weights
    history = train(program, Signals(ELBO(), -1), tmp_path / "cut", resume=True, **CASES[name])
    assert same(copy_of(program), copy_of(whole))
    assert without_seconds(history) == without_seconds(expected)
    assert history.stopped_by == expected.stopped_by
    written = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert written == history.rows
    assert [row["seconds"] for row in written] == sorted(row["seconds"] for row in written)
    (tensors, plain), (other_tensors, other_plain) = (
        final_state(tmp_path / "cut"),
        final_state(tmp_path / "whole"),
    )
    assert same(tensors, other_tensors) and plain == other_plain


@pytest.mark.parametrize("nth", [2, 11])
def test_several_players_go_on_where_they_were(tmp_path, nth):
    def objects():
        torch.manual_seed(3)
        return Autoencoder(), Adversary()

    whole, objective = objects()
    train(whole, objective, tmp_path / "whole")
    program, other = objects()
    original, calls = other.players, []

    def players(program):
        first, second = original(program)

        def interrupting(x):
            calls.append(x)
            if len(calls) == nth:
                os.kill(os.getpid(), signal.SIGINT)
            return first.loss(x)

        return [Player("program", interrupting, first.parameters, first.optimizer), second]

    other.players = players
    with pytest.raises(KeyboardInterrupt) as caught:
        train(program, other, tmp_path / "cut")
    assert caught.value.exit_code == 130
    program, other = objects()
    train(program, other, tmp_path / "cut", resume=True)
    assert same(copy_of(program), copy_of(whole)) and same(copy_of(other), copy_of(objective))
    assert same(final_state(tmp_path / "cut")[0], final_state(tmp_path / "whole")[0])


def test_a_pair_of_functions_goes_on(tmp_path):
    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.tensor(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(slope * x, 1.0).to_event(1))

    def run(out, nth, **options):
        pyro.clear_param_store()
        pair = Pair(model, guide)
        train(pair, Signals(ELBO(), nth), out, **options)
        return copy_of(pair)

    whole = run(tmp_path / "whole", -1)
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", 9)
    assert same(run(tmp_path / "cut", -1, resume=True), whole)


def test_a_user_s_callback_keeps_its_count(tmp_path):
    class Counts(Callback):
        def __init__(self):
            self.epochs = 0

        def on_epoch(self, state):
            self.epochs += 1

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, state):
            self.epochs = state["epochs"]

    with pytest.raises(Interrupted):
        train(Autoencoder(), Signals(ELBO(), 20), tmp_path, callbacks=[Counts(), Counts()])
    first, second = Counts(), Counts()
    train(Autoencoder(), Signals(ELBO(), -1), tmp_path, callbacks=[first, second], resume=True)
    assert first.epochs == second.epochs == 8


def test_a_finished_run_resumes_to_itself_and_a_longer_one_goes_on(tmp_path):
    program = Autoencoder()
    history = train(program, ELBO(), tmp_path, ema=0.9)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    other = Autoencoder()
    again = train(other, ELBO(), tmp_path, ema=0.9, resume=True)
    assert again.rows == history.rows and same(copy_of(program), copy_of(other))
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    longer = train(other, ELBO(), tmp_path, ema=0.9, epochs=10, resume=True)
    assert longer.rows[:8] == history.rows and len(longer.rows) == 10
    assert longer.rows[-1]["seconds"] >= history.rows[-1]["seconds"]


def test_where_there_is_nothing_to_resume_training_begins(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "ep')  # killed before its first checkpoint
    history = train(Autoencoder(), ELBO(), tmp_path, resume=True)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == len(history.rows) == 8


def test_a_run_is_not_written_over(tmp_path):
    train(Autoencoder(), ELBO(), tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InvalidInput, match="output exists in out: .*; try resume=True"):
        train(Autoencoder(), ELBO(), tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5}, "batch_size: 8 in the run, 5 now"),
        ({"seed": 1, "clip_norm": 1.0}, "seed: 0 in the run, 1 now; clip_norm: None in the run, 1.0 now"),
        ({"optimizer": lambda p: torch.optim.SGD(p, 0.1)}, "optimizers: {'program': 'Adam'} in the run"),
        ({"scheduler": SCHEDULERS["cosine"]}, r"schedulers: \[\] in the run, \['CosineAnnealingLR'\] now"),
        ({"ema": 0.9}, "ema: None in the run, 0.9 now"),
    ],
    ids=str,
)
def test_a_run_with_other_settings_is_not_resumed(tmp_path, options, message):
    train(Autoencoder(), ELBO(), tmp_path)
    with pytest.raises(IntegrityError, match=message):
        train(Autoencoder(), ELBO(), tmp_path, resume=True, **options)


def test_another_program_is_not_resumed(tmp_path):
    train(Autoencoder(), ELBO(), tmp_path)
    with pytest.raises(IntegrityError, match="another program: .*missing location"):
        train(Location(4), ELBO(), tmp_path, resume=True)


def test_resume_needs_a_folder():
    with pytest.raises(InvalidInput, match="nothing to resume in out"):
        train(Autoencoder(), ELBO(), None, resume=True)


def damage(folder):
    path = folder / "tensors.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_checkpoint_is_left_out_with_a_line(tmp_path):
    whole = Autoencoder(dropout=0.3)
    start = copy_of(whole)
    train(whole, ELBO(), tmp_path / "whole", checkpoint_seconds=0.0)
    program = Autoencoder(dropout=0.3)
    program.load_state_dict(start)
    with pytest.raises(Interrupted):
        train(program, Signals(ELBO(), 20), tmp_path / "cut", checkpoint_seconds=0.0)
    # Signals changes the noise: begin again without it
    folders = checkpoint_files.saved(tmp_path / "whole")
    expected = copy_of(whole)
    damage(folders[0])
    resumed = Autoencoder(dropout=0.3)
    with pytest.warns(UserWarning, match=r"damaged checkpoint .*sha256.*; step-00000048 is left out"):
        train(resumed, ELBO(), tmp_path / "whole", checkpoint_seconds=0.0, resume=True)
    assert same(copy_of(resumed), expected)
    assert checkpoint_files.saved(tmp_path / "whole")[0] == folders[0]
    checkpoint_files.read(folders[0])  # written anew

    for folder in checkpoint_files.saved(tmp_path / "cut"):
        damage(folder)
    with pytest.raises(IntegrityError, match="no good checkpoint left"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(Autoencoder(), ELBO(), tmp_path / "cut", resume=True)


def test_best_weights_that_are_gone_are_damage(tmp_path):
    train(Autoencoder(), ELBO(), tmp_path, early_stopping=5)
    best = max((tmp_path / "checkpoints").glob("best-*"))
    damage(best)
    with pytest.raises(IntegrityError, match="damaged"):
        load_weights(Autoencoder(), tmp_path)


def test_weights_of_a_damaged_run_are_not_those_of_an_older_checkpoint(tmp_path):
    train(Autoencoder(), ELBO(), tmp_path, checkpoint_seconds=0.0)
    damage(checkpoint_files.saved(tmp_path)[0])
    with pytest.raises(IntegrityError, match="damaged"):
        load_weights(Autoencoder(), tmp_path)


def test_metrics_that_were_changed_are_damage(tmp_path):
    with pytest.raises(Interrupted):
        train(Autoencoder(), Signals(ELBO(), 20), tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"epoch": 1', '"epoch": 7'))
    with pytest.raises(IntegrityError, match="damaged metrics"):
        train(Autoencoder(), ELBO(), tmp_path, resume=True)


def test_a_torn_or_surplus_row_is_cut(tmp_path):
    with pytest.raises(Interrupted):
        train(Autoencoder(), Signals(ELBO(), 20), tmp_path)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 24, "epoch": 4}\n{"step": 3')
    history = train(Autoencoder(), Signals(ELBO(), -1), tmp_path, resume=True)
    assert [row["epoch"] for row in history.rows] == list(range(1, 9))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.rows


def test_the_first_signal_waits_for_the_step_and_the_second_does_not(tmp_path):
    class Twice(Signals):
        def __call__(self, model, guide, *batch):
            loss = super().__call__(model, guide, *batch)
            if self.calls == self.nth:
                self.first = True  # reached: the first signal did not end the step
                os.kill(os.getpid(), self.number)
            return loss

    objective = Twice(ELBO(), 3, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(Autoencoder(), objective, tmp_path)
    assert objective.first and not isinstance(caught.value, Interrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_folder_a_signal_does_what_it_always_does():
    with pytest.raises(KeyboardInterrupt) as caught:
        train(Autoencoder(), Signals(ELBO(), 3, signal.SIGINT), None)
    assert not isinstance(caught.value, Interrupted)


def test_a_thread_and_an_ignored_signal_are_left_alone(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert not interruption.signal
    finally:
        signal.signal(signal.SIGINT, before)
    histories = []
    thread = threading.Thread(target=lambda: histories.append(train(Autoencoder(), ELBO(), tmp_path)))
    thread.start()
    thread.join()
    assert len(histories[0].rows) == 8


def test_a_signal_between_epochs_saves_too(tmp_path):
    with pytest.raises(Interrupted, match="after step 6; everything is saved in .*step-00000006"):
        train(Autoencoder(), ELBO(), tmp_path, callbacks=[At()])
    assert train(Autoencoder(), ELBO(), tmp_path, resume=True).rows[-1]["epoch"] == 8


def test_a_signal_after_the_last_save_is_not_swallowed(tmp_path):
    class Late(At):
        def on_epoch(self, state):
            pass

        def on_end(self, state):
            os.kill(os.getpid(), self.number)

    with pytest.raises(Interrupted, match="SIGTERM after step 48; the run was at its end"):
        train(Autoencoder(), ELBO(), tmp_path, callbacks=[Late()])
    assert len(train(Autoencoder(), ELBO(), tmp_path, resume=True).rows) == 8


def test_one_process_a_run(tmp_path):
    program = Autoencoder()
    child = os.fork()
    if child == 0:  # holds the lock until it is killed
        with FolderLock(tmp_path):
            signal.pause()
        os._exit(0)
    try:
        for _ in range(500):
            if (tmp_path / OWNER).exists():
                break
            threading.Event().wait(0.01)
        with pytest.raises(ResourceError, match=f"run in use in .*: process {child} on .* since") as caught:
            train(program, ELBO(), tmp_path)
        assert caught.value.exit_code == 5
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert len(train(program, ELBO(), tmp_path).rows) == 8  # the lock died with its owner


def test_locks_nest_within_a_process(tmp_path):
    with FolderLock(tmp_path), FolderLock(tmp_path):
        assert (tmp_path / OWNER).exists()
    assert not (tmp_path / OWNER).exists()


def test_saves_and_resumes_are_logged(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="pyro_dgm"), pytest.raises(Interrupted):
        train(Autoencoder(), Signals(ELBO(), 11), tmp_path)  # three calls of the eleven are validation
    assert "checkpoint at step 8" in caplog.text
    with caplog.at_level(logging.INFO, logger="pyro_dgm"):
        train(Autoencoder(), Signals(ELBO(), -1), tmp_path, resume=True)
    assert "resumed after step 8 of 48" in caplog.text


@pytest.mark.filterwarnings("ignore:the validation loss is")
def test_rows_without_a_finite_validation_are_the_same_when_they_come_back(tmp_path):
    def objective(model, guide, x):
        return ELBO()(model, guide, x) / (1.0 if model.__self__.training else 0.0)

    history = train(Autoencoder(), objective, tmp_path)
    again = train(Autoencoder(), objective, tmp_path, resume=True)
    assert history.column("val_loss") == [None] * 8 and again.rows == history.rows


def test_a_learning_rate_of_one_may_become_another(tmp_path):
    options = {"optimizer": lambda p: torch.optim.SGD(p, lr=1), "clip_norm": 1e-3}
    options["scheduler"] = lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.5)
    train(Autoencoder(), ELBO(), tmp_path, **options)
    assert train(Autoencoder(), ELBO(), tmp_path, resume=True, **options).rows[-1]["learning_rate"] == 2**-7


def test_an_option_that_an_older_torch_did_not_save_has_its_default(tmp_path):
    train(Autoencoder(), ELBO(), tmp_path)
    for folder in checkpoint_files.saved(tmp_path):
        tensors, plain = checkpoint_files.read(folder)
        del plain["optimizer"]["program"]["param_groups"][0]["maximize"]
        checkpoint_files.write(folder, tensors, plain)
    assert len(train(Autoencoder(), ELBO(), tmp_path, resume=True, epochs=9).rows) == 9


def test_a_checkpoint_of_a_newer_format_is_not_passed_over(tmp_path):
    train(Autoencoder(), ELBO(), tmp_path)
    newest = checkpoint_files.saved(tmp_path)[0] / "manifest.json"
    newest.write_text(newest.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(IntegrityError, match="newer format"):
        train(Autoencoder(), ELBO(), tmp_path, resume=True)
    assert newest.exists()


def test_a_parameter_that_no_checkpoint_would_hold_is_refused_where_there_is_a_folder(tmp_path):
    class Plain:  # no nn.Module: nothing would know of its critic
        def __init__(self):
            self.inner = Adversary()

        def players(self, program):
            return self.inner.players(program)

    with pytest.raises(InvalidInput, match="no checkpoint would hold in player 'critic'"):
        train(Autoencoder(), Plain(), tmp_path)
    assert not list(tmp_path.iterdir())
    train(Autoencoder(), Plain(), None, epochs=1)


def test_a_signal_while_the_handlers_are_put_back_is_noted(monkeypatch):
    original = signal.signal

    def put_back(number, handler):  # a signal comes just before
        monkeypatch.undo()
        os.kill(os.getpid(), number)
        return original(number, handler)

    with Interruption() as interruption:
        monkeypatch.setattr(signal, "signal", put_back)
        assert interruption.signal == 0
    assert interruption.signal == signal.SIGINT


def test_rows_that_another_process_wrote_just_before_are_not_lost(tmp_path, monkeypatch):
    original = FolderLock.__enter__

    def enter(self):  # the other one writes and leaves between our first look and the lock
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
        return original(self)

    monkeypatch.setattr(FolderLock, "__enter__", enter)
    with pytest.raises(InvalidInput, match="output exists"):
        train(Autoencoder(), ELBO(), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'


def test_a_kill_while_the_lock_is_taken_leaves_nothing_that_accumulates(tmp_path):
    nth, code = 0, 9
    while code == 9:
        child = os.fork()
        if child == 0:
            calls = 0

            def die(call, half):
                nonlocal calls
                if calls == nth:  # noqa: B023  # the child sees one value
                    half()
                    os._exit(9)
                calls += 1

            with Tap(tmp_path, die), FolderLock(tmp_path):
                pass
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert {path.name for path in tmp_path.iterdir()} <= {LOCK, OWNER}
        nth += 1
    assert nth > 2
    (tmp_path / OWNER).write_text('{"pid": 1')  # torn
    assert len(train(Autoencoder(), ELBO(), tmp_path).rows) == 8
    assert not (tmp_path / OWNER).exists()
