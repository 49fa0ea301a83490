"""A function that puts a program together, named in a config like a class: errors by key, a run, and its reading."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from pyro_dgm import experiment
from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger

Fault = Callable[..., tuple[int, str]]
PROGRAMS = {
    "gmvae": {"latent_dim": 2, "hidden": [8], "num_components": 3},
    "vamp_vae": {"latent_dim": 2, "hidden": [8], "num_components": 3},
}


@pytest.fixture(params=PROGRAMS)
def config(request: pytest.FixtureRequest, tiny: Path, tiny_text: str) -> Path:
    plain = yaml.safe_load(tiny_text)
    plain["program"] = {
        "class_path": f"pyro_dgm.models.{request.param}",
        "init_args": PROGRAMS[request.param],
    }
    plain["training"] |= {"ema": 0.5}
    tiny.write_text(yaml.safe_dump(plain))
    return tiny


def test_a_run_of_a_function_is_made_again_from_its_folder(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(config), "--out", str(run)]) == 0
    before = read_ledger(run / "evaluation.json")
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_likelihood"] == before.log_likelihood
    assert main(["sample", str(run), "--num", "2", "--out", str(tmp_path / "x.png")]) == 0
    program = experiment.load(run)
    assert program.prior().event_shape == (2,)  # type: ignore[operator]


def test_tied_parameters_survive_a_run_its_averages_and_a_resumption(tiny: Path, tmp_path: Path) -> None:
    plain = yaml.safe_load(tiny.read_text())
    plain["program"] = {"class_path": "pyro_dgm.models.vamp_vae", "init_args": PROGRAMS["vamp_vae"]}
    plain["training"] = {"epochs": 2, "batch_size": 64, "ema": 0.5}
    tiny.write_text(yaml.safe_dump(plain))
    through, halves = tmp_path / "through", tmp_path / "halves"
    assert main(["train", str(tiny), "--out", str(through)]) == 0
    assert main(["train", str(tiny), "--out", str(halves), "--training.epochs=1"]) == 0
    assert main(["train", str(tiny), "--out", str(halves), "--resume", "--training.epochs=2"]) == 0
    states = [experiment.load(run).state_dict() for run in (through, halves)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    program = experiment.load(through)
    for clone in (program, copy.deepcopy(program)):
        assert clone.prior.encoder is clone.encoder  # type: ignore[union-attr]
        assert clone.prior.posterior is clone.posterior  # type: ignore[union-attr]
    tied = [name for name in states[0] if name.startswith("encoder.")]
    assert tied and all(torch.equal(states[0][name], states[0][f"prior.{name}"]) for name in tied)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_components", 0), ("latent_dim", -1), ("hidden", "[]"), ("num_components", "many")],
)
def test_a_wrong_argument_of_a_function_is_named_by_its_key(
    config: Path, tmp_path: Path, fault: Fault, name: str, value: object
) -> None:
    code, line = fault("train", config, "--out", tmp_path / "run", f"--program.init_args.{name}={value}")
    assert code == 2 and f"program.init_args.{name}" in line
