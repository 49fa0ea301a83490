"""Runs side by side: differences where there are any to take, reasons where there are none."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger

Fault = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    run = tmp_path_factory.mktemp("wide") / "run"
    changes = ["--program.hidden=[16]", "--program.latent_dim=3"]
    config = trained.parent / "tiny.yaml"
    assert main(["train", str(config), "--out", str(run), *changes]) == 0
    return run


def altered(run: Path, folder: Path, **values: Any) -> Path:
    """A copy of a run with other values in its ledger."""
    shutil.copytree(run, folder)
    path = folder / "evaluation.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return folder


def test_two_runs_are_told_apart_by_their_numbers_and_their_configs(
    trained: Path, wide: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(trained), str(wide), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    one, two = (read_ledger(run / "evaluation.json") for run in (trained, wide))
    first, second = printed["runs"]
    assert first["difference"] is None and first["incomparable"] == second["incomparable"] == ""
    assert second["difference"] == two.log_likelihood - one.log_likelihood  # type: ignore[operator]
    error = math.sqrt(one.standard_error**2 + two.standard_error**2)  # type: ignore[operator]
    assert second["difference_standard_error"] == pytest.approx(error, rel=1e-12)
    assert [first["num_parameters"], second["num_parameters"]] == [one.num_parameters, two.num_parameters]
    assert printed["config"] == {
        "program.init_args.latent_dim": [2, 3],
        "program.init_args.hidden": [[8], [16]],
    }
    assert main(["compare", str(trained), str(wide)]) == 0
    table = " ".join(capsys.readouterr().out.split())
    assert "unpaired" in table and f"{second['difference']:+.3f} ± {error:.3f}" in table
    assert "program.init_args.latent_dim" in table
    assert main(["compare", str(trained), str(trained)]) == 0
    assert "the configs do not differ" in capsys.readouterr().out


OTHERS = {
    "other data": {"data_set": "MNIST"},
    "other preprocessing": {"preprocessing": {"binarize": "static"}},
    "another split": {"split": "val"},
    "another number of data": {"split_size": 19},
}


@pytest.mark.parametrize("reason", OTHERS)
def test_numbers_about_other_data_are_marked_and_not_subtracted(
    reason: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = altered(trained, tmp_path / "other", **OTHERS[reason])
    assert main(["compare", str(trained), str(other), str(trained), "--json"]) == 0
    _, second, third = json.loads(capsys.readouterr().out)["runs"]
    assert second["incomparable"] == reason and second["difference"] is None
    assert third["difference"] == 0.0
    assert main(["compare", str(trained), str(other)]) == 0
    table = "".join(letter for letter in capsys.readouterr().out if letter.isalpha())
    assert f"notcomparable{reason.replace(' ', '')}" in table


def test_what_cannot_be_compared_at_all_is_refused(trained: Path, tmp_path: Path, fault: Fault) -> None:
    assert fault("compare", trained)[0] == 2
    code, line = fault("compare", trained, tmp_path)
    assert code == 2 and "no run" in line and str(tmp_path) in line
    other = altered(trained, tmp_path / "other")
    (other / "evaluation.json").unlink()
    code, line = fault("compare", trained, other)
    assert code == 2 and f"pyro-dgm evaluate {other}" in line


def test_a_comparison_runs_no_code_of_the_runs(trained: Path, tmp_path: Path) -> None:
    other = altered(trained, tmp_path / "other")
    config = other / "config.yaml"
    config.write_text(config.read_text().replace("pyro_dgm.models.VAE", "antigravity.VAE"))
    assert main(["compare", str(trained), str(other)]) == 0
