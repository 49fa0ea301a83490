"""A number that goes bad: caught before the update, with step, data and site named."""

from __future__ import annotations

import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_dgm.errors import InvalidInput, NonFiniteError
from pyro_dgm.objectives import ELBO, IWAE, Player
from pyro_dgm.program import Program
from pyro_dgm.training import fit, locate_nonfinite
from pyro_dgm.training.metrics import ExplosionWatch
from tests.training.stand_ins import Autoencoder, Location, Rows, copy_of, rows, same, sgd


def train(program, data, objective=None, **options):
    return fit(
        program, objective or ELBO(), data, **{"epochs": 3, "batch_size": 16, "progress": False} | options
    )


class Trap(Autoencoder):
    """Breaks at a given training step, in a way of its own."""

    def __init__(self, spring):
        super().__init__()
        self.calls, self.spring = 0, spring

    def features(self, x):
        return self.spring(self, self.encoder(x))

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.features(x), 0.5).to_event(1))


@pytest.fixture
def quiet_validation():
    """Without argument checks a NaN reaches the loss."""
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)


def test_nan_data_are_named_and_nothing_has_moved(quiet_validation):
    data = rows(80)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(0)).split(16)
    bad = 2
    data.tensors[0][order[bad][7], 2] = float("nan")
    torch.manual_seed(0)
    program, twin = Autoencoder(), Autoencoder()
    twin.load_state_dict(program.state_dict())
    with pytest.raises(NonFiniteError) as caught:
        train(program, data)
    listed = re.escape(", ".join(str(i) for i in order[bad][:10].tolist()))
    assert re.search(
        rf"non-finite loss in player 'program' at step {bad + 1}, site 'z' of the guide \(log-density is nan, "
        rf"value is nan, parameter 'loc' is nan\), batch indices {listed}, ... \(16 in all\): nan; ",
        str(caught.value),
    )
    assert caught.value.exit_code == 4
    train(twin, data, steps=bad)
    assert same(copy_of(program), copy_of(twin))


def test_pyros_own_argument_check_is_the_same_fault():
    data = rows(16)
    data.tensors[0][3] = float("inf")
    with pytest.raises(
        NonFiniteError, match=r"non-finite number in step 1, site 'z' of the guide .* \(16 in all\)"
    ):
        train(
            Autoencoder(),
            data,
            lambda model, guide, x: pyro.infer.Trace_ELBO().differentiable_loss(model, guide, x),
        )


def test_another_error_of_the_model_is_left_as_it_is():
    def objective(model, guide, x):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        train(Autoencoder(), rows(16), objective)
    with pytest.raises(InvalidInput, match="latent variable without a guide"):
        program = Autoencoder()
        program.guide = lambda x: None
        train(program, rows(16))


class RareNoise(Program):
    """Its density is bad only for a rare draw of z, so that other noise shows nothing."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            scale = self.scale * torch.where(z > 3.3, torch.nan, 1.0)  # about 1 in 2,000
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(()), self.scale.detach()))


@pytest.mark.parametrize(
    "objective", [ELBO(), ELBO(num_particles=3), IWAE(num_particles=3)], ids=["1", "3", "iwae"]
)
def test_the_failed_step_is_replayed_with_its_own_noise(quiet_validation, objective):
    with pytest.raises(
        NonFiniteError, match=r"step (\d+), site 'x' of the model \(.*'scale' is nan\)"
    ) as caught:
        train(RareNoise(), Rows(torch.randn(16)), objective, epochs=2000, optimizer=sgd(1e-6))
    assert "at step 1," not in str(caught.value)


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_failed_step_of_svi_is_replayed_with_its_own_noise(quiet_validation):
    program = RareNoise()
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.SGD({"lr": 1e-8}), pyro.infer.Trace_ELBO())
    with pytest.raises(NonFiniteError, match=r"step \d+, site 'x' of the model \(.*'scale' is nan\)"):
        fit(svi, data=Rows(torch.randn(16)), epochs=2000, batch_size=16, progress=False)


def test_the_site_whose_gradient_alone_is_bad(quiet_validation):
    def spring(self, features):
        self.calls += self.training
        # The gradient of the root of zero is infinite, and its value is not.
        return features + (features * 0.0).abs().sqrt() if self.calls > 4 else features

    program = Trap(spring)
    with pytest.raises(
        NonFiniteError, match=r"non-finite gradient .*, site 'z' of the guide \(gradient of its log"
    ):
        train(program, rows(64))
    assert all(bool(p.isfinite().all()) for p in program.parameters())


def test_without_a_site_the_parameter_is_named():
    def objective(model, guide, x):
        return ELBO()(model, guide, x) + (model.__self__.decoder[1].bias * 0.0).sqrt().sum()

    with pytest.raises(
        NonFiniteError, match=r"gradient of the parameter 'decoder\.1\.bias' of the program, batch"
    ):
        train(Autoencoder(), rows(16), objective)


def test_the_player_of_several_is_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor(1.0))

        def players(self, program):
            elbo = ELBO()
            return [
                Player(
                    "program", lambda x: elbo(program.model, program.guide, x), list(program.parameters())
                ),
                Player("critic", lambda x: self.w.sqrt() * 0.0 + (self.w * 0.0).sqrt(), [self.w]),
            ]

    objective = Two()
    with pytest.raises(
        NonFiniteError, match=r"player 'critic' at step 1, gradient of the parameter 'w' of the obj"
    ):
        train(Autoencoder(), rows(16), objective)
    assert objective.w.item() == 1.0


def test_svi_is_stopped_before_its_update(quiet_validation):
    x = torch.randn(32, 4)
    x[5] = torch.nan
    program = Autoencoder()
    svi = pyro.infer.SVI(program.model, program.guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO())
    before = copy_of(program)
    with (
        pytest.warns(UserWarning, match="Encountered NaN"),
        pytest.raises(
            NonFiniteError, match=r"non-finite loss in step 1, site 'z' of the guide .* \(32 in all\)"
        ),
    ):
        fit(svi, data=Rows(x), steps=3, batch_size=32, progress=False)
    assert same(before, copy_of(program))
    assert all(p.grad is None or not p.grad.any() for p in program.parameters())


def test_a_step_of_somebodys_own_is_stopped_at_once():
    class Bad:
        count = 0

        def step(self, x):
            self.count += 1
            return float("inf") if self.count == 3 else 1.0

    step = Bad()
    with pytest.raises(NonFiniteError, match=r"step 3 \(its update was already applied\)"):
        fit(step, data=rows(32), epochs=9, batch_size=16, progress=False)
    assert step.count == 3


def test_the_last_checkpoint_is_kept(tmp_path, quiet_validation):
    def spring(self, features):
        self.calls += self.training
        return features / 0.0 if self.calls > 11 else features

    program = Trap(spring)
    with pytest.raises(NonFiniteError):
        train(program, rows(64), out=tmp_path, checkpoint_seconds=0.0)
    twin = Trap(lambda self, features: features)
    train(twin, rows(16), steps=1, init_from=tmp_path, optimizer=sgd(1e-30))
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") >= 1


def diverging(rate):
    """Gradient descent on a square, whose error grows by a factor at each step."""
    program = Location()
    program.location.data.fill_(1.0)
    return program, Rows(torch.zeros(16, 2)), sgd(rate)


def test_an_exploding_loss_is_warned_of_once():
    program, data, optimizer = diverging(4.0)  # the error triples
    with pytest.warns(UserWarning, match="the loss explodes") as caught:
        train(program, data, epochs=15, optimizer=optimizer)
    assert len(caught) == 1


def test_a_second_explosion_is_not_warned_of():
    watch = ExplosionWatch()
    with pytest.warns(UserWarning) as caught:
        for step, loss in enumerate([1.0, 1e4, 0.5, 1e4]):
            watch.look(loss, step)
    assert len(caught) == 1


def test_a_falling_loss_is_not_warned_of():  # a warning would be an error here
    program, data, optimizer = diverging(0.5)
    train(program, data, epochs=15, optimizer=optimizer)


def test_an_exploding_loss_is_stopped_where_it_is_told_to():
    program, data, optimizer = diverging(4.0)
    with pytest.raises(
        NonFiniteError, match=r"loss above max_loss .* expected a loss up to max_loss"
    ) as caught:
        train(program, data, epochs=15, optimizer=optimizer, max_loss=50.0)
    assert caught.value.exit_code == 4
    assert program.location.abs().max() < 30.0


def pair(scale=1.0, mask=None):
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=torch.ones(len(x), dtype=torch.bool) if mask is None else mask):
                pyro.sample("x", dist.Normal(z, scale), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    return model, guide


def test_a_sound_pair_has_no_bad_site():
    assert locate_nonfinite(*pair(), torch.randn(3)) is None


def test_what_a_mask_leaves_out_does_not_count():
    x = torch.tensor([0.0, torch.nan, 1.0])
    assert locate_nonfinite(*pair(mask=~x.isnan()), x) is None
    assert "site 'x' of the model" in locate_nonfinite(*pair(mask=x.isnan()), x)


def test_an_infinite_density_is_not_finite():
    assert "site 'x' of the model (log-density is -inf" in locate_nonfinite(*pair(scale=1e-30), torch.ones(2))
