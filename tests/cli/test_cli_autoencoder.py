"""A program without a likelihood and without samples from the command line: an autoencoder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread

from pyro_dgm import experiment
from pyro_dgm.cli import main

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "autoencoder_digits.yaml"
SHORT = ["--training.epochs=1", "--program.init_args.hidden=[8]", "--program.init_args.latent_dim=2"]


@pytest.mark.filterwarnings("always::UserWarning")
def test_it_trains_draws_what_it_can_and_says_what_it_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Callable[..., tuple[int, str]]
) -> None:
    run = tmp_path / "run"
    for more in ([], ["--resume"]):
        assert main(["train", str(CONFIG), "--out", str(run), "--json", *SHORT, *more]) == 0
        out, err = capsys.readouterr()
        (no_samples,) = [line for line in err.splitlines() if line.startswith("warning: no samples.png: ")]
        (no_ledger,) = [line for line in err.splitlines() if line.startswith("warning: no evaluation.json: ")]
        assert "no p(z) to draw from" in no_samples and "VAE" in no_samples
        assert "no normalised density in site 'z'" in no_ledger and "reconstruction error" in no_ledger
        found = json.loads(out)
        assert found.keys() == {"run", "pictures"}  # no likelihood
        assert found["pictures"].keys() == {"curves", "reconstructions"}
        assert all(imread(path).std() > 0 for path in found["pictures"].values())
    assert not experiment.load(run).training
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows and not any({"elbo", "kl", "log_likelihood"} & row.keys() for row in rows)
    made = {path.name for path in run.iterdir()}
    assert {"curves.png", "reconstructions.png", "metrics.jsonl"} <= made
    assert not {"evaluation.json", "samples.png", "posterior.nc"} & made
    for command in ("evaluate", "diagnose"):
        code, line = fault(command, run)
        assert code == 2 and "no normalised density in site 'z'" in line and "; try " in line
    for more in ([], ["--out", tmp_path / "x.npy"]):
        code, line = fault("sample", run, *more)
        assert code == 2 and "no p(z) to draw from" in line
    assert not (tmp_path / "x.npy").exists() and not (run / "samples.png").exists()
    assert not (run / "evaluation.json").exists()


def test_a_bound_for_an_objective_is_refused_before_anything_is_written(
    tmp_path: Path, fault: Callable[..., tuple[int, str]]
) -> None:
    text = (
        CONFIG.read_text().partition("objective:")[0] + "objective: {class_path: pyro_dgm.objectives.ELBO}\n"
    )
    config = tmp_path / "bound.yaml"
    config.write_text(
        text + "data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: static}}\n"
        "training: {epochs: 1}\n"
    )
    code, line = fault("train", config, "--out", tmp_path / "run", "--quiet")
    assert code == 2 and "no normalised density in site 'z'" in line and "PyroELBO(Trace_ELBO())" in line
    assert not (tmp_path / "run").exists()
