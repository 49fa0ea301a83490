"""A config looked at without training it: what it tells is what the objects are, and nothing is left behind."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch
import yaml

from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.experiment import memory
from pyro_dgm.experiment.config import parse_yaml
from pyro_dgm.experiment.dry_run import dry_run

FILES = Path(__file__).resolve().parents[1] / "faults" / "programs.py"


def test_the_report_of_a_vae_is_what_it_is(tiny: Path) -> None:
    report = dry_run(tiny)
    # 64 pixels, 8 hidden units, 2 latents: encoder, posterior (location and scale), decoder of two layers.
    sizes = [64 * 8 + 8, 8 * 4 + 4, 2 * 8 + 8, 8 * 64 + 64]
    assert [row.parameters for row in report.modules] == sizes
    assert report.total == report.trainable == sum(sizes)
    sites = {(site.program, site.name): site for site in report.sites}
    assert list(sites) == [("model", "z"), ("model", "x"), ("guide", "z")]
    x = sites["model", "x"]
    assert (x.kind, x.distribution, x.plates) == ("observed", "Bernoulli.to_event(3)", {"data": 4})
    assert (x.batch_shape, x.event_shape) == ((4,), (1, 8, 8))
    assert sites["guide", "z"].kind == "latent" and sites["guide", "z"].event_shape == (2,)
    assert (report.data.train, report.data.batches_per_epoch, report.data.steps) == (1077, 16, 3)


def test_steps_are_the_shorter_of_the_two_lengths(tiny: Path) -> None:
    def steps(**training: int) -> int:
        return dry_run(
            tiny, changes=[(f"training.{key}", str(value)) for key, value in training.items()]
        ).data.steps

    assert steps(steps=20, epochs=1) == 16
    assert steps(steps=20, epochs=2) == 20


def test_the_resolved_config_is_that_of_the_run(tiny: Path, trained: Path) -> None:
    assert dry_run(tiny).config == yaml.safe_load((trained / "config.yaml").read_text())


def test_the_report_is_json_text_and_a_config(tiny: Path) -> None:
    report = dry_run(tiny, changes=[("optimizer.eps", ".inf")])
    plain = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert plain["total"] == report.total and plain["config"]["optimizer"]["init_args"]["eps"] == "inf"
    text = report.text()
    assert all(
        name in text for name in ("program.posterior.head", "Bernoulli.to_event(3)", "1,077", "latent_dim: 2")
    )
    assert max(map(len, text.splitlines())) <= 110
    assert parse_yaml(dry_run(tiny).yaml(), where="a test") == dry_run(tiny).config


def test_nothing_is_written_and_random_numbers_go_on_as_if_nothing_had_been(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.parent)

    def draws() -> list[float]:
        pyro.set_rng_seed(3)
        return [float(torch.rand(())), random.random(), np.random.rand()]  # noqa: NPY002

    before = draws()
    pyro.set_rng_seed(3)
    dry_run(tiny)
    assert [float(torch.rand(())), random.random(), np.random.rand()] == before  # noqa: NPY002
    assert [path.name for path in tiny.parent.iterdir()] == ["tiny.yaml"]


FAULTS = {
    "epochs": ([("training.epochs", "0")], "training.epochs"),
    "no length": ([("training.steps", "null")], "epochs or steps"),
    "validation": ([("training.validate_every", "0")], "training.validate_every"),
    "clip": ([("training.clip_norm", "-1")], "training.clip_norm"),
    "a class written in C": ([("objective.class_path", "builtins.dict")], "does not tell its arguments"),
    "device": ([("training.device", "tpu")], "training.device"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_training_refuses_a_dry_run_refuses(name: str, tiny: Path) -> None:
    changes, key = FAULTS[name]
    with pytest.raises(InvalidInput, match=key):
        dry_run(tiny, changes=changes)


def test_an_error_inside_the_program_is_without_the_table_that_pyro_adds(tiny: Path) -> None:
    changes = [("program.encoder.class_path", "FlattenEvent"), ("program.encoder.event_shape", "[2]")]
    with pytest.raises(InvalidInput, match="wrong event shape") as error:
        dry_run(tiny, changes=changes)
    assert "Trace Shapes" not in str(error.value) and len(str(error.value)) < 200


def test_a_scheduler_without_an_optimizer_is_tried_too(tiny: Path) -> None:
    changes = [("optimizer", "null"), ("scheduler.class_path", "OneCycleLR"), ("scheduler.max_lr", "0.1")]
    with pytest.raises(InvalidInput, match="scheduler|total_steps"):
        dry_run(tiny, changes=changes)


PROGRAMS = """
import pyro, torch
import pyro.distributions as dist
from torch import nn
from torch.nn.functional import softplus
from pyro_dgm.distributions import Energy
from pyro_dgm.objectives import Player
from pyro_dgm.program import Program

class Generator(Program):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2)

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            return self.net(pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1)))

class Tied(Generator):
    def __init__(self):
        super().__init__()
        self.again = nn.Linear(2, 2)
        self.again.weight = self.net.weight

class Adversarial(nn.Module):
    def __init__(self, lr: float = 1e-3):
        super().__init__()
        self.critic, self.lr = nn.Linear(2, 1), lr

    def players(self, program):
        def critic(x):
            return softplus(self.critic(program.model(x).detach()) - self.critic(x)).sum()

        def generator(x):
            return softplus(self.critic(x) - self.critic(program.model(x))).sum()

        def adam(parameters):
            return torch.optim.Adam(parameters, lr=self.lr)

        first = Player("generator", generator, list(program.parameters()), adam)
        return [first, Player("critic", critic, list(self.critic.parameters()), adam)]

class EnergyModel(Program):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def model(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("x", Energy(lambda x: self.scale.exp() * x.square().sum(-1), (2,)), obs=x)

    def guide(self, x):
        pass

class Contrast:
    def __call__(self, model, guide, x):
        from pyro import poutine
        energy = -poutine.trace(model).get_trace(x).log_prob_sum()
        return energy + poutine.trace(model).get_trace(x + 1).log_prob_sum()
"""


def write(folder: Path, program: str, objective: str, more: str = "") -> Path:
    (folder / "dry_run_programs.py").write_text(PROGRAMS)
    path = folder / "config.yaml"
    path.write_text(
        f"program: dry_run_programs.{program}\n"
        f"objective: {objective}\n"
        "data: {class_path: Moons, init_args: {sizes: [64, 8, 8]}}\n"
        f"training: {{steps: 2, batch_size: 8}}\n{more}"
    )
    return path


ADVERSARIAL = "dry_run_programs.Adversarial"


def test_players_are_rehearsed_and_need_no_density(tmp_path: Path) -> None:
    report = dry_run(write(tmp_path, "Generator", ADVERSARIAL))
    assert [row.name for row in report.modules] == ["program.net", "objective.critic"]
    assert report.total == 2 * 2 + 2 + 2 + 1
    assert [(site.program, site.name) for site in report.sites] == [("model", "z")]


def test_a_weight_that_two_modules_share_counts_once(tmp_path: Path) -> None:
    report = dry_run(write(tmp_path, "Tied", ADVERSARIAL))
    assert sum(row.parameters for row in report.modules) == report.total == (2 * 2 + 2) + 2 + (2 + 1)


def test_a_player_that_cannot_play_is_found(tmp_path: Path) -> None:
    path = write(tmp_path, "Generator", f"{{class_path: {ADVERSARIAL}, init_args: {{lr: -1}}}}")
    with pytest.raises(InvalidInput, match="learning rate"):
        dry_run(path)
    with pytest.raises(InvalidInput, match="an optimizer beside those of the players"):
        dry_run(write(tmp_path, "Generator", ADVERSARIAL, "optimizer: Adam\n"))


def test_an_unnormalised_model_is_left_to_an_objective_that_can_train_it(tmp_path: Path) -> None:
    report = dry_run(write(tmp_path, "EnergyModel", "dry_run_programs.Contrast"))
    assert [site.distribution for site in report.sites] == ["Energy"]
    with pytest.raises(TypeError, match="no normalised density"):
        dry_run(write(tmp_path, "EnergyModel", "ELBO"))


@pytest.mark.parametrize(
    ("program", "objective", "message"),
    [
        ("Unguided", "ELBO", "'z'"),
        ("Switch", "{class_path: IWAE, init_args: {num_particles: 2}}", "VIMCO"),
        (
            "Flow",
            "{class_path: PyroELBO, init_args: {elbo: {class_path: TraceMeanField_ELBO}}}",
            "'z'",
        ),
    ],
)
def test_options_that_do_not_go_together_are_found(
    program: str, objective: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "fault_programs.py").write_text(FILES.read_text())
    path = write(tmp_path, program, objective)
    path.write_text(path.read_text().replace("dry_run_programs", "fault_programs"))
    with pytest.raises(InvalidInput, match=message):
        dry_run(path)


def test_a_program_beyond_the_memory_is_refused_before_it_is_made(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError, match=r"program.init_args \(a tensor of shape \(10000000000, 64\)\)"):
        dry_run(tiny, changes=[("program.hidden", "[10000000000, 8]")])
    assert time.monotonic() - start < 20.0  # what is refused takes no time; the tensor would take 2.5 TB
    # Each layer fits, the gradients do not.
    monkeypatch.setattr(memory, "available", lambda: 40_000_000)
    with pytest.raises(ResourceError, match="gradients of VAE"):
        dry_run(tiny, changes=[("program.hidden", "[2000, 2000]")])
