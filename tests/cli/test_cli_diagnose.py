"""diagnose, and what train's own evaluation leaves of the posterior."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import arviz
import numpy as np
import pytest

from pyro_dgm.cli import main
from pyro_dgm.data import Digits
from pyro_dgm.diagnostics import reliability
from pyro_dgm.evaluation.ledger import read_ledger
from pyro_dgm.experiment.posterior import summarize

Fault = Callable[..., tuple[int, str]]
SMALL = ["--num-particles", "50", "--num-gap", "5", "--num-replications", "0", "--num-nuts", "0"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_training_leaves_a_posterior_and_its_verdict(trained: Path) -> None:
    idata = arviz.from_netcdf(str(trained / "posterior.nc"))
    assert idata.posterior["z"].shape == (1, 200, 100, 2)
    assert np.array_equal(idata.observed_data["x"], Digits(binarize="dynamic").test.x[:100])
    verdict = reliability(idata)
    ledger = read_ledger(trained / "evaluation.json")
    assert ledger.reliable == verdict.reliable and ledger.reasons == list(verdict.reasons)


def test_one_draw_tells_nothing(run: Path, fault: Fault) -> None:
    code, line = fault("diagnose", run, "--num-samples", "1")
    assert code == 2 and "num_samples" in line


def test_a_diagnosis_is_of_as_many_draws_and_data_as_asked_and_reaches_the_ledger(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_ledger(run / "evaluation.json")
    assert main(["diagnose", str(run), "--num-samples", "30", "--num-data", "7", "--json", *SMALL]) == 0
    printed = json.loads(capsys.readouterr().out)
    idata = arviz.from_netcdf(str(run / "posterior.nc"))
    assert idata.posterior["z"].shape == (1, 30, 7, 2) and printed["posterior"] == str(run / "posterior.nc")
    assert printed["num_draws"] == 30 and printed["num_k_hats"] == 7
    verdict = reliability(idata)
    assert printed["reliable"] == verdict.reliable and printed["reasons"] == list(verdict.reasons)
    after = read_ledger(run / "evaluation.json")
    assert after.reliable == verdict.reliable and after.reasons == list(verdict.reasons)
    assert after.log_likelihood == before.log_likelihood
    assert printed["ess"]["median"] == pytest.approx(float(np.median(idata.sample_stats["ess"])))
    # A new evaluation of the same data keeps the verdict; of other data it has none.
    assert main(["evaluate", str(run)]) == 0
    assert read_ledger(run / "evaluation.json").reasons == after.reasons


def test_the_table_is_arviz_s_for_the_first_elements_and_bounded(run: Path) -> None:
    idata = arviz.from_netcdf(str(run / "posterior.nc"))
    rows = {row["name"]: row for row in summarize(idata)}
    assert list(rows) == ["z[0, 0]", "z[0, 1]", "z[1, 0]", "z, mean of all"]
    theirs = arviz.summary(idata, kind="stats", round_to="none")
    for name in ("z[0, 0]", "z[1, 0]"):
        assert rows[name]["mean"] == pytest.approx(theirs.loc[name, "mean"], rel=1e-6)
        assert rows[name]["hdi_97%"] == pytest.approx(theirs.loc[name, "hdi_97%"], rel=1e-6)
    assert rows["z, mean of all"]["elements"] == 200
    assert rows["z, mean of all"]["sd"] == pytest.approx(theirs["sd"].mean(), rel=1e-4)


def test_what_is_printed_says_yes_or_why_not(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(run), "--num-samples", "10", *SMALL]) == 0
    out = capsys.readouterr().out
    assert "reliable: no, because k-hat of 100 of 100 could not be estimated from 10 draws" in out
    assert "z, mean of all" in out and "effective sample size" in out


EXACT = """
program: {class_path: pyro_dgm.models.PPCA, init_args: {latent_dim: 1}}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Pinwheel}
training: {steps: 2}
evaluation: {num_particles: 2, num_data: 10}
"""
FLAT = """
import pyro, torch
import pyro.distributions as dist
from pyro_dgm.program import Program

class Flat(Program):
    def __init__(self):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(1, 8, 8))

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            return pyro.sample("x", dist.Bernoulli(logits=self.logits).to_event(3), obs=x)

    def guide(self, x=None):
        pass
"""


def test_an_exact_posterior_is_reliable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "exact.yaml").write_text(EXACT)
    assert main(["train", str(tmp_path / "exact.yaml"), "--out", str(tmp_path / "run")]) == 0
    assert "reliable: yes" in capsys.readouterr().out
    ledger = read_ledger(tmp_path / "run" / "evaluation.json")
    assert ledger.reliable is True and ledger.reasons == []


def test_a_model_without_latents_has_no_posterior_and_says_so(
    tmp_path: Path, tiny_text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat_model.py").write_text(FLAT)
    old = "pyro_dgm.models.VAE, init_args: {latent_dim: 2, hidden: [8]}"
    (tmp_path / "flat.yaml").write_text(tiny_text.replace(old, "flat_model.Flat"))
    run = tmp_path / "run"
    assert main(["train", str(tmp_path / "flat.yaml"), "--out", str(run), "--verbose"]) == 0
    assert "info: no posterior.nc: the model has no latent variables" in capsys.readouterr().err
    assert not (run / "posterior.nc").exists()
    assert read_ledger(run / "evaluation.json").reliable is None
    assert main(["train", str(tmp_path / "flat.yaml"), "--out", str(run), "--resume"]) == 0


@pytest.mark.parametrize(
    "options", [["--num-samples", "0"], ["--num-data", "0"], ["--num-data", "-3"], ["--num-samples", "x"]]
)
def test_no_draws_or_no_data(options: list[str], trained: Path, fault: Fault) -> None:
    code, line = fault("diagnose", trained, *options)
    assert code == 2 and options[0].strip("-").replace("-", "_") in line.replace("-", "_")


def test_the_report_has_everything_of_a_run_of_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [
        "--num-particles",
        "50",
        "--num-gap",
        "20",
        "--num-replications",
        "100",
        "--num-nuts",
        "1",
        "--json",
    ]
    assert main(["diagnose", str(run), *options]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] == str(run / "report.html")
    assert set(printed["advice"]) == {"trustworthy", "doubtful", "next_steps", "limits"}
    text = (run / "report.html").read_text(encoding="utf-8")
    titles = (
        "The run",
        "What the model draws",
        "What the latents do",
        "What is explained worst",
        "Importance weights",
        "Inference gap",
        "Calibration on simulated data",
        "Latents in use",
        "Against Markov chains",
    )
    for title in titles:
        assert f">{title}</h2>" in text
    pictures = {path.name for path in (run / "report").iterdir()}
    assert pictures >= {
        "k_hat.png",
        "gap.png",
        "calibration.png",
        "nuts.png",
        "traversals.png",
        "samples.png",
    }
    assert (
        text.count("data:image/png;base64,") == len(pictures) + 2
    )  # the curve and reconstructions lie elsewhere
    # A run that is trained anew has no report yet.
    assert main(["train", str(run / "config.yaml"), "--out", str(run), "--overwrite", "--quiet"]) == 0
    assert not (run / "report.html").exists() and not (run / "report").exists()


@pytest.mark.parametrize("option", ["--num-particles", "--num-gap"])
def test_a_report_of_nothing(run: Path, fault: Fault, option: str) -> None:
    code, line = fault("diagnose", run, option, "0")
    assert code == 2 and option.strip("-").replace("-", "_") in line


def test_a_model_without_latent_variables_has_an_exact_likelihood_and_a_short_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", Path(__file__).resolve().parents[2] / "configs" / "fvsbn_digits.yaml"
    assert main(["train", str(config), "--out", str(run), "--training.steps=3", "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "test log p(x), exact" in printed and "ELBO" not in printed and "active units" not in printed
    assert read_ledger(run / "evaluation.json").estimator == "exact"
    assert main(["diagnose", str(run), *SMALL]) == 0
    printed = capsys.readouterr()
    assert "it is exact, since the model has no latent variables" in printed.out
    report = (run / "report.html").read_text()
    assert "log p(x) of each datum is exact" in report and "k-hat" not in report
    assert "k-hat" not in printed.out and "warning" not in printed.err
    assert "traversal" not in (run / "report.html").read_text()
