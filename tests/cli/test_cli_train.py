"""The command line, called in-process: a valid run directory from every config, read back as it was."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pyro_dgm import experiment
from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger

NO_LIKELIHOOD = {"autoencoder_digits"}  # nor a ledger: tests/cli/test_cli_autoencoder.py
CONFIGS = [
    path
    for path in sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))
    if path.stem not in NO_LIKELIHOOD
]

# Random data in the place of those that have to be downloaded, and smaller programs where a step would take minutes.
STAND_INS = {
    "mnist": ((300, 1, 28, 28), 2, []),
    "imagenet64": (
        (100, 3, 64, 64),
        256,
        ["--program.channels=6", "--program.num_layers=2", "--training.batch_size=4"],
    ),
    "fsdd": ((100, 64), 256, []),
    "debd": ((200, 20), 2, ["--training.compile=false"]),
    "bsds300": ((700, 63), 256, []),
    "miniboone": ((200, 43), 256, []),
}
SMALLER = {
    "glow_mnist": ["--program.num_steps=2", "--program.channels=8"],
    "realnvp_mnist": ["--program.channels=8", "--program.num_blocks=1"],
    "iaf_vae_mnist_static": ["--program.posterior.init_args.num_layers=2"],
    "sylvester_vae_mnist_static": ["--program.posterior.init_args.num_layers=2"],
    "maf_miniboone": ["--program.hidden=[64, 64]"],
    "made_mnist_static": ["--program.hidden=[300]"],
    "made32_8000_mnist_static": ["--program.hidden=[300, 300]"],
    "made32_mnist_static": ["--program.hidden=[300, 300]"],
    "gated_pixelcnn_mnist_static": ["--program.channels=8"],
    "pixelcnn_mnist_static": ["--program.channels=8"],
    "pixelrnn_mnist_static": ["--program.num_layers=2", "--training.batch_size=20"],
    "pixelvae_mnist_static": [
        "--program.channels=[4, 8]",
        "--program.num_blocks=0",
        "--program.num_layers=1",
        "--program.maps=4",
        "--training.batch_size=8",
    ],
    "pixelvae_no_upsampling_mnist_static": ["--program.num_layers=1", "--program.maps=4"],
}

Fault = Callable[..., tuple[int, str]]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_a_few_steps_into_a_valid_run(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["--training.steps=3", "--evaluation.num_particles=4", "--evaluation.num_data=10"]
    changes += SMALLER.get(config.stem, [])
    for word, (shape, levels, others) in STAND_INS.items():
        if word in config.stem:
            k = np.random.default_rng(0).integers(0, levels, size=shape)
            np.save(tmp_path / "data.npy", (k / (levels - 1)).astype(np.float32))
            changes += [
                "--data.class_path=pyro_dgm.data.Arrays",
                f"--data.init_args.train={tmp_path / 'data.npy'}",
                f"--data.init_args.levels={levels}",
                *others,
            ]
    run = tmp_path / "run"
    assert main(["train", str(config), "--out", str(run), "--json", *changes]) == 0
    printed = json.loads(capsys.readouterr().out)
    ledger = read_ledger(run / "evaluation.json")
    assert printed["log_likelihood"] == ledger.log_likelihood and printed["run"] == str(run)
    assert ledger.log_likelihood is not None and ledger.elbo is not None
    assert ledger.log_likelihood >= ledger.elbo  # the mean of logs is below the log of the mean
    assert ledger.split_size == 10 and ledger.config == config.stem
    assert len((run / "metrics.jsonl").read_text().splitlines()) >= 1
    for path in printed["pictures"].values():
        assert imread(path).std() > 0
    program = experiment.load(run)
    assert not program.training
    assert sum(weight.numel() for weight in program.parameters()) == ledger.num_parameters


def test_a_run_is_loaded_without_its_data_and_evaluated_with_the_same_numbers(
    trained: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_ledger(trained / "evaluation.json")
    assert main(["evaluate", str(trained), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["log_likelihood"] == before.log_likelihood and again["elbo"] == before.elbo
    assert main(["evaluate", str(trained), "--num-particles", "50"]) == 0
    assert "50 particles" in capsys.readouterr().out
    better = read_ledger(trained / "evaluation.json")
    # More particles: a higher bound on the same data, but for noise of a few hundredths of a nat here.
    assert better.num_particles == 50 and better.log_likelihood > before.log_likelihood - 0.1  # type: ignore[operator]

    def no_data(*args: object, **kwargs: object) -> None:
        raise AssertionError("the data were made")

    monkeypatch.setattr("pyro_dgm.data.Digits.__init__", no_data)
    assert experiment.load(trained).sample(3).shape == (3, 1, 8, 8)  # type: ignore[operator]


def test_the_numbers_of_a_run_repeat_with_its_seed_and_change_with_another(
    tiny: Path, tmp_path: Path
) -> None:
    elbos = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        out = str(tmp_path / name)
        assert main(["train", str(tiny), "--out", out, f"--training.seed={seed}"]) == 0
        elbos.append(read_ledger(tmp_path / name / "evaluation.json").elbo)
    assert elbos[0] == elbos[1] != elbos[2]


def test_samples_are_drawn_into_a_picture_or_an_array(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    file = tmp_path / "é x.npy"
    arguments = ["sample", str(trained), "--num", "5", "--out", str(file), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {"samples": str(file), "shape": [5, 1, 8, 8]}
    draws = np.load(file)
    assert draws.shape == (5, 1, 8, 8) and set(np.unique(draws)) <= {0.0, 1.0}
    code, line = fault(*arguments)
    assert code == 2 and "output exists" in line
    assert main([*arguments, "--overwrite"]) == 0
    assert np.array_equal(np.load(file), draws)  # the same seed
    assert main([*arguments, "--overwrite", "--seed", "1"]) == 0
    assert not np.array_equal(np.load(file), draws)
    assert main(["sample", str(trained)]) == 0 and (trained / "samples.png").is_file()
    assert main(["sample", str(trained), "--out", str(tmp_path / "new" / "x.npy")]) == 0
    code, line = fault("sample", trained, "--seed", "-1")
    assert code == 2 and "bad seed" in line


IMPLICIT = """
import pyro
import torch

from pyro_dgm import Program


class Generator(Program):
    def __init__(self, data_dim: int) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2, data_dim)

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
        return self.net(z)

    def guide(self, x=None, *, n=1):
        pass


class Moments:
    def __call__(self, model, guide, x):
        return len(x) * (model(x).mean(0) - x.mean(0)).square().sum()
"""


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_model_without_densities_is_trained_and_leaves_no_ledger(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    (tmp_path / "implicit_moons.py").write_text(IMPLICIT)
    config = tmp_path / "moons.yaml"
    config.write_text(
        "program: {class_path: implicit_moons.Generator}\nobjective: {class_path: implicit_moons.Moments}\n"
        "data: {class_path: pyro_dgm.data.Moons}\ntraining: {steps: 3}\n"
    )
    run = tmp_path / "run"
    for more in ([], ["--resume"]):
        assert main(["train", str(config), "--out", str(run), "--json", *more]) == 0
        out, err = capsys.readouterr()
        assert err.count("warning: no evaluation.json: ") == 1
        assert json.loads(out).keys() == {"run", "pictures"}
    assert (run / "samples.png").is_file()
    assert not (run / "evaluation.json").exists() and not (run / "posterior.nc").exists()
    assert fault("evaluate", run, "--trust")[0] == 2
    assert "not evaluated" in fault("compare", run, run)[1]


def test_a_latin_terminal_and_a_closed_one_bring_no_traceback(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ascii_out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", ascii_out)
    assert main(["evaluate", str(trained)]) == 0
    ascii_out.flush()
    assert b"bits/dim" in ascii_out.buffer.getvalue()  # type: ignore[attr-defined]
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["evaluate", str(trained), "--json"]) == 0


def test_json_is_the_only_thing_on_standard_output(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tiny), "--out", str(tmp_path / "run"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and isinstance(json.loads(out), dict)
    assert "fit" in err  # progress


def test_a_float64_run_is_loaded_as_it_was_trained(tiny: Path, tmp_path: Path) -> None:
    assert main(["train", str(tiny), "--out", str(tmp_path / "run"), "--training.precision=float64"]) == 0
    program = experiment.load(tmp_path / "run")
    assert {weight.dtype for weight in program.parameters()} == {torch.float64}
    assert main(["evaluate", str(tmp_path / "run")]) == 0
