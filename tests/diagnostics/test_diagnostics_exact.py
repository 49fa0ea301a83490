"""Without latent variables nothing is drawn that the numbers do not need, and the numbers stay what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import arviz
import numpy as np
import pytest
import torch

from pyro_dgm.cli import main
from pyro_dgm.diagnostics import draws as draws_module
from pyro_dgm.diagnostics import importance, reliability, to_inferencedata
from pyro_dgm.diagnostics.draws import take_draws
from pyro_dgm.distributions import autoregressive
from pyro_dgm.evaluation.ledger import read_ledger
from pyro_dgm.models import FVSBN, PPCA

NUM_DATA, NUM_DRAWS = 7, 50


class Counted:
    """An FVSBN whose model's runs are counted."""

    def __init__(self) -> None:
        self.program = FVSBN((6,))
        torch.nn.init.normal_(next(self.program.parameters()))
        self.runs = 0
        self.x = torch.rand(NUM_DATA, 6).round()

    def model(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.program.model(x)


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes that were sampled from an autoregressive distribution."""
    found: list[torch.Size] = []
    true = autoregressive.Autoregressive.sample

    def sample(self: Any, *shape: torch.Size) -> torch.Tensor:
        found.append(torch.Size(*shape))
        return true(self, *shape)

    monkeypatch.setattr(autoregressive.Autoregressive, "sample", sample)
    return found


def test_weights_and_likelihoods_without_latents_take_a_few_runs_and_no_sample(
    sampled: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws_module, "_ELEMENTS_PER_PASS", 1)  # as for large data: a draw at a time
    pair = Counted()
    draws = take_draws(pair.model, pair.program.guide, (pair.x,), NUM_DRAWS, predicts=False)
    few = pair.runs
    expected = pair.program().log_prob(pair.x).detach().numpy()
    assert draws.log_weight.values.shape == (NUM_DRAWS, NUM_DATA) and draws.num_samples == NUM_DRAWS
    assert np.allclose(draws.log_weight.values, expected, atol=1e-5)
    assert draws.groups["log_likelihood"]["x"].values.shape == (NUM_DRAWS, NUM_DATA)
    assert draws.groups["observed_data"]["x"].values.shape == (NUM_DATA, 6)
    take_draws(pair.model, pair.program.guide, (pair.x,), 10 * NUM_DRAWS, predicts=False)
    assert pair.runs == 2 * few and sampled == []
    found = importance(pair.model, pair.program.guide, pair.x, num_samples=NUM_DRAWS)
    assert np.allclose(found.log_p, expected, atol=1e-5) and np.allclose(found.elbo, expected, atol=1e-5)
    assert found.usable_as_is.all() and found.num_samples == NUM_DRAWS
    assert np.allclose(found.log_p_standard_error, 0, atol=1e-6) and np.allclose(found.ess, NUM_DRAWS)


def test_an_inferencedata_without_predictions_is_the_same_but_for_them(sampled: list[torch.Size]) -> None:
    pair = Counted()
    plain = to_inferencedata(pair.model, pair.program.guide, pair.x, num_samples=NUM_DRAWS, predicts=False)
    assert sampled == []
    whole = to_inferencedata(pair.model, pair.program.guide, pair.x, num_samples=NUM_DRAWS)
    assert sampled
    assert set(whole.groups()) - set(plain.groups()) == {"posterior_predictive"}
    assert whole.posterior_predictive["x"].shape == (1, NUM_DRAWS, NUM_DATA, 6)
    for group in plain.groups():
        for name, values in plain[group].items():
            assert values.dims == whole[group][name].dims, name
            assert np.allclose(values, whole[group][name], atol=1e-5, equal_nan=True), name
    assert reliability(plain) == reliability(whole) and reliability(plain).reliable


def test_latents_are_drawn_as_often_as_asked_without_predictions_too() -> None:
    ppca = PPCA(data_dim=4, latent_dim=2)
    x = ppca.model(n=5).detach()
    idata = to_inferencedata(ppca.model, ppca.guide, x, num_samples=NUM_DRAWS, predicts=False)
    z = idata.posterior["z"].values
    assert z.shape == (1, NUM_DRAWS, 5, 2) and len(np.unique(z[..., 0, 0])) == NUM_DRAWS
    assert "posterior_predictive" not in idata.groups() and "kl_z" not in idata.sample_stats


def test_the_diagnosis_of_a_run_without_latents_draws_its_picture_alone(
    tmp_path: Path, sampled: list[torch.Size], capsys: pytest.CaptureFixture[str]
) -> None:
    run, config = tmp_path / "run", Path(__file__).resolve().parents[2] / "configs" / "fvsbn_digits.yaml"
    assert main(["train", str(config), "--out", str(run), "--training.steps=3", "--quiet"]) == 0
    sampled.clear()
    capsys.readouterr()
    assert main(["diagnose", str(run), "--num-gap", "5", "--num-nuts", "0", "--json", "--quiet"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert len(sampled) == 1  # the 64 images of the report
    idata = arviz.from_netcdf(str(run / "posterior.nc"))
    assert set(idata.groups()) == {"log_likelihood", "sample_stats", "observed_data"}
    log_p, ledger = idata.sample_stats["log_p"].values, read_ledger(run / "evaluation.json")
    assert log_p.shape == (100,) and np.isfinite(log_p).all()
    assert np.allclose(idata.log_likelihood["x"].values, log_p, atol=1e-4)
    assert printed["reliable"] is True and ledger.reliable is True and printed["variables"] == []
    assert any("exact" in line for line in printed["advice"]["trustworthy"])
