import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives import ELBO
from pyro_dgm.program import Pair, Program
from pyro_dgm.training import Callback, CollapseWatchdog, fit
from pyro_dgm.training.callbacks import TrainingState
from pyro_dgm.training.metrics import History
from tests.training.stand_ins import Rows


class Dial(Program):
    """q(z | x) = N(gain x, 1) for two units, which a callback turns; dropout and batch norm in the guide."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(2))
        self.scale = nn.Parameter(torch.zeros(()))
        self.norm = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z * self.scale.exp(), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.gain * self.norm(x), 1.0).to_event(1))


class Turn(Callback):
    """Sets the gains of the program after each epoch, before the watchdog looks."""

    def __init__(self, *gains):
        self.gains = list(gains)

    def on_epoch(self, state):
        with torch.no_grad():
            state.program.gain.copy_(torch.tensor(self.gains[state.row["epoch"] - 1]))


X = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
ON, OFF, HALF = (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)


def watched(watchdog, gains, program=None, **options):
    """Messages of a run whose gains are turned so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(
            program or Dial(),
            ELBO(),
            Rows(X),
            epochs=len(gains),
            batch_size=32,
            callbacks=[Turn(*gains), watchdog],
            progress=False,
            **options,
        )
    return [str(warning.message) for warning in caught]


def test_it_warns_once_for_each_collapse_and_again_after_recovery():
    watchdog = CollapseWatchdog(X)
    messages = watched(watchdog, [ON, OFF, OFF, ON, OFF])
    assert [message.split(":")[0] for message in messages] == [
        "posterior collapse at site 'z' in epoch 2",
        "posterior collapse at site 'z' in epoch 5",
    ]
    assert all("try KL annealing" in message and "\n" not in message for message in messages)
    assert [row["kl_z"] > 0.1 for row in watchdog.history] == [True, False, False, True, False]
    assert [row["collapsed_units_z"] for row in watchdog.history] == [0, 2, 2, 0, 2]
    assert [(row["epoch"], row["step"]) for row in watchdog.history] == [(n, 2 * n) for n in range(1, 6)]


def test_the_numbers_are_those_of_the_closed_form_in_evaluation_mode():
    program, watchdog = Dial(), CollapseWatchdog(X)
    watched(watchdog, [HALF], program)
    with torch.no_grad():  # fit leaves the program in evaluation mode
        mean = program.gain * program.norm(X)
    assert watchdog.history[0]["kl_z"] == pytest.approx(0.5 * mean.square().sum(1).mean().item(), rel=1e-5)
    assert [watchdog.history[0][name] for name in ("collapsed_units_z", "units_z")] == [1, 2]


def test_most_units_are_enough():
    assert watched(CollapseWatchdog(X), [HALF]) == []
    (message,) = watched(CollapseWatchdog(X, most=0.5), [HALF, HALF])
    assert "1 of 2 units" in message


def test_thresholds_and_epochs_are_those_asked_for():
    assert watched(CollapseWatchdog(X, threshold=1e-9, most=1), [(0.2, 0.2)]) == []
    watchdog = CollapseWatchdog(X, every=2)
    assert len(watched(watchdog, [OFF, OFF, ON])) == 1
    assert [row["epoch"] for row in watchdog.history] == [2]


@pytest.mark.parametrize("kl", ["monte_carlo", "analytic"])
def test_a_watched_run_is_bit_for_bit_the_unwatched_one(kl):
    class Draws(Callback):
        def on_epoch(self, state):
            state.row["draw"] = torch.rand(()).item()

    def run(*callbacks):
        torch.manual_seed(0)
        program = Dial()
        history = fit(
            program,
            ELBO(kl=kl),
            Rows(X),
            epochs=3,
            batch_size=32,
            callbacks=[*callbacks, Draws()],
            progress=False,
        )
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]
        return program.state_dict(), rows

    (state, rows), (other, others) = run(), run(CollapseWatchdog(X, threshold=1e-9, most=1))
    assert rows == others
    assert all(torch.equal(value, other[name]) for name, value in state.items())


def test_a_resumed_run_has_the_same_numbers_and_warnings(tmp_path):
    gains = [ON, OFF, OFF, OFF, ON, OFF]

    def run(out, *lengths):
        messages = []
        for length in lengths:
            torch.manual_seed(0)
            watchdog = CollapseWatchdog(X)
            messages += watched(watchdog, gains[:length], out=out, resume=True)
        return watchdog.history, messages

    history, messages = run(tmp_path / "whole", 6)
    assert run(tmp_path / "parts", 3, 6) == (history, messages)
    assert len(history) == 6
    assert len(messages) == 2


def test_a_pair_and_sites_outside_the_data():
    def model(x):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(shift + pyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x[:, 0])

    def guide(x):
        pyro.sample("shift", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0))

    watchdog = CollapseWatchdog(X)
    with pytest.warns(UserWarning, match="collapse at site 'z'"):
        fit(
            Pair(model, guide), ELBO(), Rows(X), epochs=1, batch_size=32, callbacks=[watchdog], progress=False
        )
    assert sorted(watchdog.history[0]) == ["collapsed_units_z", "epoch", "kl_z", "step", "units_z"]


@pytest.mark.parametrize(
    "options", [{"threshold": 0}, {"unit_threshold": -1.0}, {"most": 0}, {"every": 0}, {"num_particles": 0}]
)
def test_wrong_arguments_are_refused(options):
    with pytest.raises(InvalidInput, match=f"CollapseWatchdog\\({next(iter(options))}\\)"):
        CollapseWatchdog(X, **options)


def test_no_batch_and_no_program_are_refused():
    with pytest.raises(InvalidInput, match="batch"):
        CollapseWatchdog()
    step = pyro.infer.SVI(Dial().model, Dial().guide, pyro.optim.Adam({}), pyro.infer.Trace_ELBO())
    with pytest.raises(InvalidInput, match="nothing to watch"):
        fit(step, data=Rows(X), epochs=1, batch_size=32, callbacks=[CollapseWatchdog(X)], progress=False)


PRIOR = torch.tensor([1.0, 2.0]) / 3


class Labelled(Program):
    """A label that the guide leaves to enumeration: x ~ N(k, 1), k ~ Categorical(1/3, 2/3), and an idle z."""

    def model(self, x=None, *, n=1):
        with pyro.plate("data", n if x is None else len(x)):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            k = pyro.sample("k", dist.Categorical(PRIOR), infer={"enumerate": "parallel"})
            mean = k.unsqueeze(-1).expand(*k.shape, 2).to(x.dtype)
            return pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.5 * x, 1.0).to_event(1))


def test_a_latent_left_to_enumeration_is_watched_with_its_exact_posterior():
    watchdog = CollapseWatchdog(X, num_particles=2000)
    watchdog.on_epoch(TrainingState(Labelled(), None, History([{"epoch": 1, "step": 2}])))
    (row,) = watchdog.history
    log_joint = PRIOR.log() - 0.5 * (X[:, None] - torch.arange(2.0)[:, None]).square().sum(-1)
    posterior = log_joint.softmax(-1)
    kl = (posterior * (posterior / PRIOR).log()).sum(-1).mean().item()
    assert row["kl_z"] == pytest.approx(0.125 * X.square().sum(1).mean().item(), rel=1e-5)
    # 2000 draws of 64 labels, whose log-ratios have a standard deviation of 0.52: five standard errors and more.
    assert kl > 0.1 and row["kl_k"] == pytest.approx(kl, abs=5 * 0.6 / (2000 * 64) ** 0.5)
