"""fit: what it computes, what it repeats bit for bit, and what it leaves alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.objectives import ELBO, HasPlayers, Player
from pyro_dgm.objectives.player import adam
from pyro_dgm.program import Pair, Program
from pyro_dgm.training import Callback, Players, TensorBoard, fit, load_weights
from tests.training.stand_ins import (
    Autoencoder,
    Location,
    Noisy,
    Parts,
    Rows,
    copy_of,
    rows,
    same,
    sgd,
)


def train(program, data, objective=None, **options):
    return fit(
        program, objective or ELBO(), data, **{"epochs": 3, "batch_size": 16, "progress": False} | options
    )


def test_fit_finds_the_maximum_of_the_likelihood():
    data = rows(64, dim=2)
    x = data.tensors[0]
    program = Location()
    history = train(program, data, batch_size=64, epochs=60, optimizer=sgd(0.5))
    torch.testing.assert_close(program.location.detach(), x.mean(0))
    exact = -dist.Normal(x.mean(0), 1.0).log_prob(x).sum() / 64
    assert history.rows[-1]["loss"] == pytest.approx(exact.item(), rel=1e-5)


def test_fit_takes_the_steps_of_the_bare_loop_bit_for_bit():
    data = Noisy(torch.rand(48, 4))
    program, twin = Autoencoder(dropout=0.5), Autoencoder(dropout=0.5)
    twin.load_state_dict(program.state_dict())
    train(program, data, epochs=2, seed=3)

    pyro.set_rng_seed(3)
    generator, optimizer, elbo = torch.Generator().manual_seed(3), adam(twin.parameters()), ELBO()
    for _ in range(2):
        for index in torch.randperm(48, generator=generator).split(16):
            (x,) = data.batch(index)
            optimizer.zero_grad()
            (elbo(twin.model, twin.guide, x) / 16).backward()
            optimizer.step()
    assert same(copy_of(program), copy_of(twin))


def test_same_seed_same_weights_bit_for_bit():
    def weights(seed):
        torch.manual_seed(5)
        program = Autoencoder(dropout=0.5)
        torch.manual_seed(torch.seed())  # whatever came before
        train(program, Noisy(torch.rand(50, 4, generator=torch.Generator().manual_seed(0))), seed=seed)
        return copy_of(program)

    first = weights(1)
    assert same(first, weights(1))
    assert not same(first, weights(2))


class Nothing(Callback):
    def on_epoch(self, state): ...


def test_watching_does_not_change_training(tmp_path):
    def weights(val, **options):
        torch.manual_seed(5)
        program = Autoencoder(dropout=0.5)
        train(program, Parts(rows(50), val), **options)
        return copy_of(program)

    plain = weights(None)
    noisy = Noisy(torch.rand(30, 4))
    assert same(plain, weights(noisy))
    assert same(plain, weights(noisy, validate_every=2, callbacks=[Nothing()]))
    assert same(plain, weights(noisy, out=tmp_path, progress=True, checkpoint_seconds=0.0))


def test_validation_is_the_mean_per_datum_in_evaluation_mode():
    program = Autoencoder(dropout=0.9)
    val = rows(37, seed=1)  # batches of 16, 16 and 5
    row = train(program, Parts(rows(50), val), epochs=1, seed=3).rows[-1]
    program.eval()
    pyro.set_rng_seed(3)
    with torch.no_grad():
        parts = [ELBO()(program.model, program.guide, x) for x in val.tensors[0].split(16)]
    assert row["val_loss"] == pytest.approx(sum(parts).item() / 37, rel=1e-6)


def test_program_is_trained_in_training_mode_and_left_in_evaluation_mode():
    modes = []

    class Modes(Location):
        def model(self, x=None, *, n=1):
            modes.append((self.training, torch.is_grad_enabled()))
            return super().model(x, n=n)

    program = Modes()
    train(program, Parts(rows(16, 2), rows(16, 2)), epochs=1)
    assert modes[-1] == (False, False) and (True, True) in modes
    assert not program.training


def test_incomplete_batches_are_dropped_and_the_length_is_the_shorter_of_two():
    def steps(**options):
        return train(Location(), rows(50, 2), **options).column("step")

    assert steps(epochs=2) == [3, 6]
    assert steps(epochs=None, steps=7) == [3, 6, 7]
    assert steps(epochs=2, steps=4) == [3, 4]
    assert steps(epochs=1, steps=400) == [3]


def test_each_epoch_takes_each_datum_once_in_an_order_of_its_own():
    seen = []

    def objective(model, guide, x):
        seen.append(x[:, 0].clone())
        return ELBO()(model, guide, x)

    data = Rows(torch.arange(32.0).unsqueeze(1).repeat(1, 2))
    train(Location(), data, objective, epochs=2)
    first, second = torch.cat(seen[:2]), torch.cat(seen[2:])
    assert torch.equal(first.sort()[0], torch.arange(32.0)) and torch.equal(
        second.sort()[0], torch.arange(32.0)
    )
    assert not torch.equal(first, second)


def test_data_smaller_than_a_batch_make_one_with_one_warning():
    data = rows(5, dim=2)
    with pytest.warns(UserWarning, match="batches of 5 instead of 16") as caught:
        history = train(Location(), data, epochs=2, optimizer=sgd(1e-30))
    assert len(caught) == 1
    exact = -dist.Normal(0.0, 1.0).log_prob(data.tensors[0]).sum() / 5
    assert history.column("loss") == [pytest.approx(exact.item())] * 2


class Recorder(Callback):
    def __init__(self, *, stop_after=None):
        self.events, self.weights, self.stop_after = [], [], stop_after

    def on_start(self, state):
        self.events.append("start")

    def on_epoch(self, state):
        self.events.append(state.row["epoch"])
        self.weights.append(copy_of(state.program))
        state.stop = state.row["epoch"] == self.stop_after

    def on_end(self, state):
        self.events.append("end")
        self.weights.append(copy_of(state.program))


def overfitting():
    """Training and held-out data with different means: validation gets better, then worse."""
    return Parts(Rows(torch.full((32, 2), 3.0)), Rows(torch.full((10, 2), 1.0)))


def test_early_stopping_restores_the_best_validated_weights():
    program, recorder = Location(), Recorder()
    history = train(
        program, overfitting(), epochs=100, optimizer=sgd(0.05), early_stopping=3, callbacks=[recorder]
    )
    losses = history.column("val_loss")
    best = losses.index(min(losses))
    assert best > 0 and len(losses) == best + 1 + 3
    assert history.stopped_by == "early stopping" and history.best["epoch"] == best + 1
    assert same(copy_of(program), recorder.weights[best]) and not same(copy_of(program), recorder.weights[-2])
    assert same(copy_of(program), recorder.weights[-1])  # on_end sees the final weights


def test_without_early_stopping_the_last_weights_stay():
    program, recorder = Location(), Recorder()
    train(program, overfitting(), epochs=20, optimizer=sgd(0.05), callbacks=[recorder])
    assert same(copy_of(program), recorder.weights[-2])


def test_a_callback_can_stop_training():
    recorder = Recorder(stop_after=2)
    history = train(Location(), rows(32, 2), epochs=9, callbacks=[recorder])
    assert recorder.events == ["start", 1, 2, "end"]
    assert history.stopped_by == "callback"


def test_schedules_move_once_an_epoch():
    history = train(
        Location(),
        rows(32, 2),
        epochs=4,
        optimizer=sgd(0.4),
        scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=2, gamma=0.5),
    )
    assert history.column("learning_rate") == pytest.approx([0.4, 0.4, 0.2, 0.2])


def test_a_plateau_schedule_follows_the_validation():
    def plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0)

    rates = train(Location(), overfitting(), epochs=20, optimizer=sgd(0.05), scheduler=plateau)
    worse = [
        a < b for a, b in zip(rates.column("val_loss"), rates.column("val_loss")[1:], strict=False)
    ].index(True)
    learning_rates = rates.column("learning_rate")
    assert learning_rates[worse + 1] == pytest.approx(0.05)
    assert learning_rates[worse + 2] == pytest.approx(0.005)


def test_average_is_validated_and_kept():
    data = overfitting()
    program = Location()
    history = train(program, data, epochs=5, optimizer=sgd(0.05), ema=0.5)
    w, average = 0.0, 0.0
    losses = []
    for t in range(1, 11):
        w += 0.05 * (3.0 - w)
        decay = min(0.5, (1 + t) / (10 + t))
        average = decay * average + (1 - decay) * w
        if t % 2 == 0:
            losses.append((1.0 - average) ** 2 + math.log(2 * math.pi))
    assert program.location.tolist() == pytest.approx([average] * 2, rel=1e-5)
    assert history.column("val_loss") == pytest.approx(losses, rel=1e-5)


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("float64", torch.float64)])
def test_precision_is_that_of_parameters_and_data(precision, dtype):
    seen = set()

    def objective(model, guide, x):
        seen.add(x.dtype)
        return ELBO()(model, guide, x)

    program = Location()
    train(program, rows(16, 2), objective, precision=precision)
    assert seen == {dtype} and program.location.dtype == dtype


def test_bfloat16_is_for_networks_only():
    inside = []
    program = Autoencoder()
    program.encoder.register_forward_hook(lambda module, args, out: inside.append(out.dtype))
    full = Autoencoder()
    full.load_state_dict(program.state_dict())
    rough = train(program, rows(64), precision="bfloat16")
    assert torch.bfloat16 in inside and {p.dtype for p in program.parameters()} == {torch.float32}
    exact = train(full, rows(64))
    # Eight bits of mantissa: the losses agree to about 1 %, and not exactly.
    assert rough.column("loss") == pytest.approx(exact.column("loss"), rel=0.02)
    assert rough.column("loss") != exact.column("loss")


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")
def test_absent_cuda_is_refused():
    with pytest.raises(
        InvalidInput, match=r"no CUDA device here in device: 'cuda'; .*; try device='cpu'"
    ) as caught:
        train(Location(), rows(16, 2), device="cuda")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 0},
        {"epochs": -1},
        {"epochs": 1.5},
        {"epochs": True},
        {"epochs": None},
        {"steps": 0},
        {"batch_size": 0},
        {"batch_size": -4},
        {"validate_every": 0},
        {"early_stopping": 0},
        {"early_stopping": 3},  # no validation split
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"max_loss": -1.0},
        {"checkpoint_seconds": -1.0},
        {"ema": 0.0},
        {"ema": 1.0},
        {"ema": math.nan},
        {"seed": -1},
        {"seed": 0.5},
        {"device": "tpu"},
        {"precision": "float16"},
        {"optimizer": lambda p: torch.optim.Adam(p, lr=-1.0)},
        {"optimizer": lambda p: torch.optim.SGD(p, lr=math.nan)},
        {"init_from": "nowhere"},
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(options):
    program = Location()
    with pytest.raises(InvalidInput) as caught:
        train(program, rows(16, 2), **options)
    assert caught.value.exit_code == 2
    assert program.location.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    "arguments",
    [
        (Location(), None, rows(16)),  # a program without an objective is no step
        (Location(), 3.0, rows(16)),
        (lambda x: x, ELBO(), rows(16)),
        (Location(), ELBO(), torch.zeros(16, 2)),
        (Location(), ELBO(), Rows(torch.zeros(0, 2))),
    ],
)
def test_wrong_objects_are_refused(arguments):
    with pytest.raises(InvalidInput):
        fit(*arguments, epochs=1, progress=False)


def test_metrics_file_holds_the_rows_and_no_tensor(tmp_path):
    history = train(
        Location(), Parts(rows(32, 2), rows(8, 2)), epochs=5, out=tmp_path / "run", validate_every=2
    )
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == history.rows
    assert list(history.rows[0]) == [
        "step",
        "epoch",
        "loss",
        "elbo",
        "kl",
        "val_loss",
        "learning_rate",
        "gradient_norm",
        "seconds",
    ]
    assert [loss is None for loss in history.column("val_loss")] == [True, False, True, False, False]
    assert {type(value) for row in history.rows for value in row.values()} <= {int, float, type(None)}
    best = f"best-{history.best['step']:08d}"
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("best-*")] == [best]


def test_gradient_norm_is_per_datum():
    data = Rows(torch.full((8, 2), 3.0))
    row = train(Location(), data, epochs=1, batch_size=8).rows[0]
    assert row["gradient_norm"] == pytest.approx(math.sqrt(18))


def test_an_unwritable_folder_is_refused_before_the_first_step(tmp_path):
    (tmp_path / "file").touch()
    program = Location()
    with pytest.raises(ResourceError) as caught:
        train(program, rows(16, 2), out=tmp_path / "file" / "run")
    assert caught.value.exit_code == 5 and program.location.tolist() == [0.0, 0.0]


def test_no_memory_says_what_to_do():
    def objective(model, guide, x):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ResourceError, match=r"out of memory in step 1: batches of 16; try batch_size=8"):
        train(Location(), rows(16, 2), objective)


def test_a_loss_is_read_from_the_device_once_a_step(monkeypatch):
    reads = []
    for name in ("item", "tolist", "__float__", "__bool__"):
        original = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, original=original: reads.append(self.ndim) or original(self)
        )

    def objective(model, guide, x):
        return (model.__self__.location - x).square().sum()

    def count(steps):
        reads.clear()
        train(Location(), rows(16, 2), objective, epochs=None, steps=steps)
        return len(reads)

    assert count(30) - count(10) == 20


class TwoPlayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(2))

    def players(self, program):
        elbo = ELBO()
        return [
            Player(
                "program",
                lambda x: elbo(program.model, program.guide, x),
                list(program.parameters()),
                sgd(0.1),
            ),
            Player("shift", lambda x: (x - self.shift).abs().sum(), [self.shift], sgd(0.1), every=2),
        ]


def test_an_objective_with_players_of_its_own():
    objective = TwoPlayers()
    assert isinstance(objective, HasPlayers) and not isinstance(ELBO(), HasPlayers)
    history = train(Location(), Parts(rows(32, 2), rows(8, 2)), objective)
    row = history.rows[-1]
    assert row["loss"] == row["loss_program"] and row["loss_shift"] > 0.0
    assert objective.shift.abs().sum() > 0
    with pytest.raises(InvalidInput, match="optimizer"):
        train(Location(), rows(32, 2), objective, optimizer=sgd(0.1))


def test_parameters_of_the_objective_are_trained_with_the_programs():
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2))

        def forward(self, model, guide, x):
            return ELBO()(model, guide, x - self.shift)

    objective, program = Shifted(), Location()
    train(program, Rows(torch.full((16, 2), 3.0)), objective)
    assert objective.shift.min() > 0 and program.location.min() > 0


def pair():
    def model(x):
        location = pyro.param("location", torch.zeros(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(location + z.unsqueeze(-1), 1.0).to_event(1), obs=x)

    def guide(x):
        slope = pyro.param("slope", torch.zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ slope, 0.5))

    return model, guide


def test_a_users_pair_trains_every_parameter():
    program = Pair(*pair())
    history = train(program, Rows(torch.full((64, 2), 2.0)), epochs=20, optimizer=sgd(0.02))
    assert history.rows[-1]["loss"] < history.rows[0]["loss"]
    assert all(value.abs().min() > 0 for value in program.state_dict().values())


def test_svi_under_fit_takes_the_steps_that_it_takes_alone():
    def run(drive):
        pyro.clear_param_store()
        svi = pyro.infer.SVI(*pair(), pyro.optim.ClippedAdam({"lr": 0.01}), pyro.infer.Trace_ELBO())
        losses = drive(svi)
        return losses, {name: value.detach().clone() for name, value in pyro.get_param_store().items()}

    data = rows(32, 2)

    def alone(svi):
        pyro.set_rng_seed(7)
        generator = torch.Generator().manual_seed(7)
        means = []
        for _ in range(3):
            order = torch.randperm(32, generator=generator)
            means.append(sum(svi.step(*data.batch(index)) / 16 for index in order.split(16)) / 2)
        return means

    def under_fit(svi):
        history = fit(svi, data=Parts(data, data), epochs=3, batch_size=16, seed=7, progress=False)
        assert all(isinstance(loss, float) for loss in history.column("val_loss"))
        assert history.rows[-1]["gradient_norm"] > 0
        return history.column("loss")

    losses, weights = run(alone)
    fit_losses, fit_weights = run(under_fit)
    assert fit_losses == pytest.approx(losses)
    assert same(weights, fit_weights)


class Counter:
    """A step of somebody's own."""

    def __init__(self, result):
        self.result, self.count = result, 0

    def step(self, *batch):
        self.count += 1
        return self.result


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (32.0, {"loss": 2.0}),
        (torch.tensor(32.0), {"loss": 2.0}),
        ({"a": 2.0}, {"loss": 2.0}),
        ((32.0, 16.0), {"loss": 2.0, "loss_0": 2.0, "loss_1": 1.0}),
    ],
)
def test_any_step_is_driven(result, expected, tmp_path):
    step = Counter(result)
    history = fit(step, data=rows(32), steps=6, batch_size=16, progress=False, out=tmp_path)
    assert step.count == 6 and len(history.rows) == 3
    assert {name: value for name, value in history.rows[0].items() if name.startswith("loss")} == expected


def test_players_are_a_step():
    w = nn.Parameter(torch.zeros(4))
    players = Players([Player("w", lambda x: (x - w).square().sum(), [w])])
    history = fit(players, data=Parts(rows(32), rows(8)), epochs=2, batch_size=16, progress=False)
    assert w.abs().min() > 0 and history.rows[-1]["val_loss"] > 0


def test_options_that_a_step_cannot_honour_are_refused():
    with pytest.raises(InvalidInput, match="clip_norm, ema"):
        fit(Counter(1.0), data=rows(32), steps=6, clip_norm=1.0, ema=0.9)
    with pytest.raises(InvalidInput, match="evaluate_loss"):
        fit(Counter(1.0), data=Parts(rows(32), rows(8)), steps=6, progress=False)


def test_a_program_may_hold_its_data():
    x = torch.randn(16, 2) + 1.0

    def model():
        location = pyro.param("location", torch.zeros(2))
        with pyro.plate("data", 16):
            pyro.sample("x", dist.Normal(location, 1.0).to_event(1), obs=x)

    program = Pair(model)
    assert fit(program, ELBO(), steps=150, progress=False, optimizer=sgd(0.01)).column("step") == [100, 150]
    torch.testing.assert_close(program.state_dict()["location"], x.mean(0), rtol=0, atol=1e-3)


def test_a_run_starts_from_the_weights_of_another(tmp_path):
    first = Location()
    train(first, overfitting(), epochs=20, optimizer=sgd(0.05), early_stopping=2, out=tmp_path)
    second = Location()
    train(second, overfitting(), steps=1, optimizer=sgd(1e-30), init_from=tmp_path)
    assert same(copy_of(first), copy_of(second))
    assert 0.5 < first.location[0] < 1.5


def test_progress_is_a_line_each_tenth_where_there_is_no_terminal(capsys):
    train(Location(), Parts(rows(32, 2), rows(8, 2)), epochs=25, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1].startswith("fit: 100% step 50/50 loss") and "val_loss" in lines[-1]


def test_progress_is_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train(Location(), rows(32, 2), progress=True)
    assert "6/6" in capsys.readouterr().err.replace(" ", "")


def test_tensorboard_gets_the_rows_where_it_is_installed(monkeypatch):
    scalars = []

    class SummaryWriter:
        def __init__(self, folder, purge_step=None):
            assert (folder, purge_step) == ("logs", None)

        def add_scalar(self, name, value, step):
            scalars.append((name, step))

        def close(self):
            scalars.append("closed")

    module = type(pytest)("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", module)
    train(Location(), rows(32, 2), epochs=1, callbacks=[TensorBoard("logs")])
    assert ("loss", 2) in scalars and scalars[-1] == "closed"
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(InvalidInput, match=r"pip install 'pyro-dgm\[tensorboard\]'"):
        TensorBoard("logs")


def test_a_program_of_no_class_of_ours():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.location = nn.Parameter(torch.zeros(2))

        def model(self, x):
            pyro.module("plain", self)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.location, 1.0).to_event(1), obs=x)

        def guide(self, x):
            pass

    assert not isinstance(Plain(), Program)
    program = Plain()
    train(program, Rows(torch.ones(16, 2)))
    assert program.location.min() > 0


def test_weights_cannot_come_from_nowhere(tmp_path):
    with pytest.raises(InvalidInput, match="no checkpoint"):
        load_weights(Location(), tmp_path)


class Validated:
    """An objective whose n-th validation is another number."""

    def __init__(self, nth, value):
        self.nth, self.value, self.calls = nth, value, 0

    def __call__(self, model, guide, x):
        loss = ELBO()(model, guide, x)
        if model.__self__.training:
            return loss
        self.calls += 1
        return loss * 0.0 + self.value if self.calls == self.nth else loss


@pytest.mark.filterwarnings("ignore:the validation loss is")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_validation_that_is_no_number_is_never_the_best(value):
    data = Parts(Rows(torch.full((32, 2), 3.0)), Rows(torch.full((8, 2), 3.0)))  # each validation is better
    options = {"epochs": 4, "optimizer": sgd(0.05), "early_stopping": 3}
    history = train(Location(), data, Validated(1, value), **options)
    assert history.column("val_loss")[0] is None
    assert history.best["epoch"] == 4 and history.stopped_by == "length"


def test_the_best_row_where_the_first_player_rests_in_some_epochs():
    class Seldom(TwoPlayers):
        def players(self, program):
            first, second = super().players(program)
            return [replace(first, every=4), second]

    history = train(Location(), rows(32, 2), Seldom(), epochs=4)
    assert history.column("loss")[1::2] == [None, None]
    assert history.best["loss"] == min(history.column("loss")[::2])


def test_a_module_s_extra_state_is_kept_with_the_best_weights(tmp_path):
    class Counting(Location):
        seen = 0

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    program, other = Counting(), Counting()
    program.seen = 3
    train(program, overfitting(), early_stopping=2, out=tmp_path)
    load_weights(other, tmp_path)
    assert other.seen == 3


def test_no_memory_for_the_validation_is_told_as_well():
    def objective(model, guide, x):
        if not model.__self__.training:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return ELBO()(model, guide, x)

    with pytest.raises(ResourceError, match=r"out of memory in validation after step 2: batches of 16"):
        train(Location(), Parts(rows(32, 2), rows(8, 2)), objective)


def test_max_loss_of_players_is_their_own():
    w = nn.Parameter(torch.zeros(4))
    players = Players([Player("w", lambda x: (x - w).square().sum(), [w])])
    with pytest.raises(InvalidInput, match=r"max_loss: 3\.0; try Players\(\.\.\., max_loss"):
        fit(players, data=rows(32), epochs=1, max_loss=3.0, progress=False)


def test_nothing_to_average_is_refused():
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2))

        def forward(self, model, guide, x):
            return (x - self.shift).square().sum()

    class Bare(Program):
        def model(self, x=None, *, n=1):
            return x

    with pytest.raises(InvalidInput, match="nothing to average in ema"):
        train(Bare(), rows(32, 2), Shift(), ema=0.9)


class Lost:
    """A stream whose reader has gone."""

    encoding = "utf-8"

    def __init__(self, *, terminal):
        self.isatty = lambda: terminal

    def write(self, text):
        raise BrokenPipeError

    def flush(self):
        raise BrokenPipeError

    def fileno(self):
        raise OSError


@pytest.mark.parametrize(
    "stream", [None, Lost(terminal=False), Lost(terminal=True)], ids=["none", "pipe", "bar"]
)
def test_training_outlives_standard_error(monkeypatch, stream):
    monkeypatch.setattr("sys.stderr", stream)
    assert len(train(Location(), rows(32, 2), epochs=12, progress=True).rows) == 12
