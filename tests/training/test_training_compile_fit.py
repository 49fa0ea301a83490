"""`fit` with compiled steps: the run of plain steps but for rounding, and as exactly resumed."""

from __future__ import annotations

import os

import pytest
import torch
from pyro.infer import RenyiELBO
from torch import nn

from pyro_dgm.errors import IntegrityError, Interrupted, InvalidInput, NonFiniteError
from pyro_dgm.objectives import ELBO, IWAE, Player, PyroELBO
from pyro_dgm.training import Players, fit
from pyro_dgm.training.options import resolve_compile
from tests.training.stand_ins import Autoencoder, Noisy, Parts, Rows, copy_of, rows, same
from tests.training.test_training_gan import Adversarial, Generator
from tests.training.test_training_resume import Adversary, Signals

PLATE = {"vectorize_particles": True, "max_plate_nesting": 1}


pytestmark = pytest.mark.usefixtures("graphs")


def run(objective=None, *, data=None, program=None, **options):
    torch.manual_seed(0)
    program = program or Autoencoder(dropout=0.3).double()
    data = data or Parts(Noisy(torch.rand(40, 4, generator=torch.Generator().manual_seed(1))), rows(12))
    options = {"epochs": 6, "batch_size": 8, "precision": "float64", "progress": False, **options}
    history = fit(program, objective or ELBO(), data, **options)
    return program, [
        {k: v for k, v in row.items() if k != "seconds" and v is not None} for row in history.rows
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": ELBO(2, kl="analytic"), "clip_norm": 0.5},
        {"objective": IWAE(3), "ema": 0.9, "early_stopping": 2},
        {"objective": Adversary},
        {"scheduler": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.7)},
        {"objective": PyroELBO(RenyiELBO(0.0, num_particles=3, **PLATE))},
        {"precision": "bfloat16"},
    ],
    ids=["elbo", "analytic", "iwae", "players", "schedule", "renyi", "bfloat16"],
)
def test_a_compiled_run_is_the_plain_one(options, graphs):
    def once(**more):
        found = {**options, **more}
        torch.manual_seed(5)
        objective = found.pop("objective", None)
        return run(objective() if isinstance(objective, type) else objective, **found)

    (plain, expected), (compiled, found) = once(compile=False), once(compile=True)
    assert graphs
    tolerance = 2e-2 if options.get("precision") == "bfloat16" else 1e-9
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row == pytest.approx(other, rel=tolerance)
    for value, other in zip(compiled.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.allclose(value, other, rtol=tolerance, atol=tolerance)


def test_an_adversarial_game_compiles(graphs):
    def once(compile):
        data = rows(64, dim=2)
        torch.manual_seed(3)
        return run(
            Adversarial(), data=data, program=Generator(), compile=compile, precision="float32", epochs=3
        )[1]

    for row, other in zip(once(True), once(False), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    assert len(graphs) == 2


def test_buffers_of_an_objective_are_written_once_a_step(graphs):
    objective = Adversary()
    run(objective, compile=True)
    assert graphs
    assert objective.seen == 6 * 5 + 6 * 2  # steps, and validation batches


@pytest.mark.parametrize("nth", [3, 9, 12, 16])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, nth):
    class Stops(Signals):
        def __call__(self, model, guide, *batch):  # without the noise of other generators
            self.calls += 1
            if self.calls == self.nth:
                os.kill(os.getpid(), self.number)
            return self.objective(model, guide, *batch)

    def once(folder, objective, **options):
        return run(objective, out=tmp_path / folder, compile="auto", **options)

    def auto(choice, **facts):
        return resolve_compile(choice, **{**facts, "num_steps": 10**6})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyro_dgm.training.fitting.resolve_compile", auto)
        whole, expected = once("whole", Stops(ELBO(), -1))
        with pytest.raises(Interrupted):
            once("cut", Stops(ELBO(), nth))
    # The checkpoint says that it was compiled, though so short a run would not be.
    program, found = once("cut", Stops(ELBO(), -1), resume=True)
    assert found == expected and same(copy_of(whole), copy_of(program))


def test_a_run_goes_on_as_it_began(tmp_path):
    run(compile=True, epochs=2, out=tmp_path)
    with pytest.raises(IntegrityError, match="compile"):
        run(compile=False, out=tmp_path, resume=True)


def test_auto_compiles_what_repays_it():
    facts = {"num_processes": 1, "before": None}
    assert resolve_compile("auto", num_steps=5_000, **facts)
    assert not resolve_compile("auto", num_steps=4_999, **facts)
    assert not resolve_compile("auto", num_steps=10**6, num_processes=2, before=None)
    assert resolve_compile("auto", num_steps=10, num_processes=1, before=True)
    assert not resolve_compile("auto", num_steps=10**6, num_processes=1, before=False)
    with pytest.raises(InvalidInput, match="compilation in several processes in compile: 2"):
        resolve_compile(True, num_steps=10, num_processes=2, before=None)


def test_the_first_epoch_is_plain(graphs):
    run(epochs=1, compile=True)
    assert not graphs
    run(epochs=2, compile=True)
    assert len(graphs) == 1


def test_what_cannot_be_recorded_is_trained_plainly(graphs):
    def once(compile):
        return run(Signals(ELBO(), -1), compile=compile)

    with pytest.warns(UserWarning, match="random numbers of NumPy or Python"):
        found = once(True)
    assert not graphs and found[1] == once(False)[1]


def test_a_bad_number_is_refused_before_the_update():
    data = torch.rand(40, 4, generator=torch.Generator().manual_seed(1)).double()

    class Breaks(Autoencoder):
        scale = 1.0

        def guide(self, x):
            return super().guide(torch.where(x > 0.999, x / (1.0 - x.clamp(max=1.0)), x))

    data[17, 2] = 1.0
    seen = []
    for compile in (True, False):
        torch.manual_seed(0)
        program = Breaks().double()
        program.encoder.weight.data[:, 2] = 0.0
        with pytest.raises(NonFiniteError) as caught:
            run(data=Rows(data), program=program, compile=compile, batch_size=40)
        seen.append((str(caught.value).split("; ")[0], copy_of(program)))
    assert seen[0][0] == seen[1][0] and same(seen[0][1], seen[1][1])


def test_players_of_ones_own_compile(graphs):
    def once(compile):
        torch.manual_seed(1)
        w = nn.Parameter(torch.tensor(2.0))
        players = Players([Player("w", lambda x: (w * x - 1).square().sum(), [w])])
        fit(players, data=rows(40, dim=1), epochs=3, batch_size=8, compile=compile, progress=False)
        return w.item()

    assert once(True) == pytest.approx(once(False), rel=1e-6)
    assert graphs
    with pytest.raises(InvalidInput, match="compile"):
        fit(Plain(), data=rows(8), epochs=1, compile=True)


class Plain:
    def step(self, *batch):
        return 0.0


def test_a_gradient_that_parameters_share_is_clipped_once():
    found = []
    for is_compiled in (False, True):
        a, b = (torch.zeros(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        loss = Player(
            "sum", lambda x, a=a, b=b: ((a + b) * x).sum(), [a, b], lambda p: torch.optim.SGD(p, lr=1.0)
        )
        players = Players([loss], clip_norm=1.0)
        if is_compiled:
            players.compile()
        for _ in range(3):
            players.step(torch.tensor([[3.0, 4.0, 0.0]], dtype=torch.float64))
        found.append(torch.stack([a, b]).detach())
    torch.testing.assert_close(found[1], found[0])
