"""One config with several seeds: whole runs, and a spread that anyone can recompute."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger

Fault = Callable[..., tuple[int, str]]


def test_seeds_are_whole_runs_and_their_spread_is_that_of_the_numbers(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    out = tmp_path / "runs"
    command = ["train", str(tiny), "--out", str(out), "--seeds", "3", "--training.seed=4", "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    ledgers = [read_ledger(out / f"seed-{seed}" / "evaluation.json") for seed in (4, 5, 6)]
    assert [ledger.seed for ledger in ledgers] == printed["seeds"] == [4, 5, 6]
    for name in ("elbo", "log_likelihood", "bits_per_dim"):
        values = [getattr(ledger, name) for ledger in ledgers]
        mean = sum(values) / 3
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        spread = printed["summary"][name]
        assert spread["mean"] == pytest.approx(mean, rel=1e-12) and deviation > 0
        assert spread["standard_deviation"] == pytest.approx(deviation, rel=1e-9)
        assert spread["standard_error_of_mean"] == pytest.approx(deviation / math.sqrt(3), rel=1e-9)
    assert [ledger["elbo"] for ledger in printed["ledgers"]] == [ledger.elbo for ledger in ledgers]
    written = json.loads((out / "seeds.json").read_text())
    assert written["summary"] == printed["summary"] and written["runs"] == ["seed-4", "seed-5", "seed-6"]

    # The same seed alone gives the same numbers.
    assert main(["train", str(tiny), "--out", str(tmp_path / "one"), "--training.seed=5"]) == 0
    assert read_ledger(tmp_path / "one" / "evaluation.json").elbo == ledgers[1].elbo

    # Older runs: refused before any training, gone on with, or replaced.
    code, line = fault(*command)
    assert code == 2 and "seed-4" in line and "--resume" in line
    shutil.rmtree(out / "seed-6")
    (out / "seeds.json").unlink()
    assert fault(*command)[0] == 2 and not (out / "seed-6").exists()
    before = (out / "seed-5" / "config.yaml").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*command, "--resume"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"] == printed["summary"]
    assert (out / "seed-5" / "config.yaml").stat().st_mtime_ns == before
    assert main([*command[:-1], "--overwrite"]) == 0
    assert (out / "seed-5" / "config.yaml").stat().st_mtime_ns != before
    table = " ".join(capsys.readouterr().out.split())
    assert (
        "over seeds" in table
        and "over data" in table
        and f"{printed['summary']['elbo']['mean']:.3f}" in table
    )


def test_one_seed_has_no_spread(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tiny), "--out", str(tmp_path / "runs"), "--seeds", "1", "--json"]) == 0
    spread = json.loads(capsys.readouterr().out)["summary"]["elbo"]
    assert spread["standard_deviation"] is None and spread["standard_error_of_mean"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "0"], "--seeds"),
        (["--seeds", "two"], "--seeds"),
        (["--seeds", "3", "--training.seed=4294967295"], "training.seed"),
        (["--seeds", "3", "--training.seed=-1"], "training.seed"),
    ],
)
def test_no_such_seeds(options: list[str], message: str, tiny: Path, tmp_path: Path, fault: Fault) -> None:
    code, line = fault("train", tiny, "--out", tmp_path / "runs", *options)
    assert code == 2 and message in line and not (tmp_path / "runs").exists()


def test_seeds_are_not_put_into_a_run_nor_into_several_processes(
    tiny: Path, trained: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, line = fault("train", tiny, "--out", trained, "--seeds", "2", "--resume")
    assert code == 2 and "--out" in line
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")  # which says it for all
    assert "one command a seed" in fault("train", tiny, "--seeds", "2")[1]
