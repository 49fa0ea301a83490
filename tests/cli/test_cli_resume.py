"""Runs that go on: bit for bit where they were left, refused where they are others, untouched where they are done."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pyro_dgm import load
from pyro_dgm.cli import main
from pyro_dgm.evaluation.ledger import read_ledger
from pyro_dgm.experiment import training
from pyro_dgm.experiment.going_on import differences
from pyro_dgm.training import Callback, TrainingState
from pyro_dgm.training.loop import Loop

Fault = Callable[..., tuple[int, str]]
TIMES = {"training_seconds", "evaluation_seconds"}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A finished run of its own."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def interrupt_before(step: int, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Loop._step

    def interrupted(self: Loop, *args: Any) -> Any:
        if self.count + 1 == step:
            os.kill(os.getpid(), number)
        return original(self, *args)

    monkeypatch.setattr(Loop, "_step", interrupted)


def numbers(run: Path) -> dict[str, Any]:
    ledger = json.loads((run / "evaluation.json").read_text())
    return {name: value for name, value in ledger.items() if name not in TIMES}


def state(run: Path) -> dict[str, tuple[int, bytes]]:
    """Time of change and content of each file."""
    files = [path for path in run.rglob("*") if path.is_file() and path.name != ".lock"]
    # The metrics are cut to the length that the checkpoint knows, which may be theirs.
    times = {path: 0 if path.name == "metrics.jsonl" else path.stat().st_mtime_ns for path in files}
    return {str(path.relative_to(run)): (time, path.read_bytes()) for path, time in times.items()}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_goes_on_to_the_very_files_of_one_that_was_not(
    number: signal.Signals, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments = ["train", str(tiny), "--training.steps=20", "--out"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    capsys.readouterr()
    with monkeypatch.context() as patch:
        interrupt_before(18, number, patch)
        assert main([*arguments, str(tmp_path / "cut"), "--resume"]) == 128 + number
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert out == "" and line.startswith(f"error: interrupted by {number.name} after step 18;")
    assert "the same command with --resume" in line
    assert not (tmp_path / "cut" / "evaluation.json").exists()
    for command in ("evaluate", "diagnose", "sample"):  # of weights that are not the last ones
        assert main([command, str(tmp_path / "cut")]) == 0
    assert main([*arguments, str(tmp_path / "cut"), "--resume"]) == 0
    whole, cut = state(tmp_path / "whole"), state(tmp_path / "cut")
    same = [
        "config.yaml",
        "samples.png",
        "reconstructions.png",
        "checkpoints/step-00000020/tensors.safetensors",
    ]
    assert all(whole[name][1] == cut[name][1] for name in same)
    assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")


def test_a_finished_run_is_left_as_it_is_and_gets_only_what_it_lacks(tiny: Path, run: Path) -> None:
    command = ["train", str(tiny), "--out", str(run), "--resume"]
    before = state(run)
    assert main(command) == 0
    assert state(run) == before
    for name in ("evaluation.json", "posterior.nc", "samples.png"):
        (run / name).unlink()
        assert main(command) == 0
        after = state(run)
        assert {path for path in after if after[path] != before[path]} == {name}
        if name == "evaluation.json":
            assert numbers(run) == {k: v for k, v in json.loads(before[name][1]).items() if k not in TIMES}
        elif name == "samples.png":
            assert after[name][1] == before[name][1]
        before = after


def test_a_longer_run_goes_on_and_what_was_made_of_the_shorter_one_goes(
    tiny: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", str(tiny), "--out", str(run), "--resume", "--training.steps=6"]
    old = numbers(run)
    with monkeypatch.context() as patch:
        interrupt_before(5, signal.SIGTERM, patch)
        assert main(command) == 143
    # Between the two there are no numbers, rather than those of other weights.
    assert {path.name for path in run.iterdir()} == {".lock", "checkpoints", "config.yaml", "metrics.jsonl"}
    assert main(command) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["training"]["steps"] == 6
    new = numbers(run)
    assert new["elbo"] != old["elbo"] and new["config_sha256"] != old["config_sha256"]


def test_event_files_go_on_where_the_run_does_and_a_finished_one_gets_none(
    tiny: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[tuple[str, int]] = []

    class Recorder(Callback):
        def __init__(self, folder: Path) -> None:
            assert folder == run / "tensorboard"

        def on_start(self, state: TrainingState) -> None:
            events.append(("from", state.row["step"]))

        def on_epoch(self, state: TrainingState) -> None:
            events.append(("at", state.row["step"]))

    monkeypatch.setattr(training, "TensorBoard", Recorder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == "tensorboard")
    command = ["train", str(tiny), "--out", str(run), "--resume"]
    assert main(command) == 0 and events == []
    assert main([*command, "--training.steps=6"]) == 0 and events == [("from", 3), ("at", 6)]


def test_another_evaluation_is_made_of_the_weights_that_are_there(tiny: Path, run: Path) -> None:
    before = state(run)
    assert main(["train", str(tiny), "--out", str(run), "--resume", "--evaluation.num_particles=7"]) == 0
    assert read_ledger(run / "evaluation.json").num_particles == 7
    after = state(run)
    assert all(after[name] == before[name] for name in before if "checkpoints" in name or "metrics" in name)


OTHERS = {
    "an argument": (["--program.latent_dim=3"], "program.init_args.latent_dim: 2 in the run, 3 now"),
    "the seed": (["--training.seed=5"], "training.seed: 0 in the run, 5 now"),
    "two of them": (
        ["--program.hidden=[8, 8]", "--training.batch_size=32"],
        "program.init_args.hidden: [8] in the run, [8, 8] now; training.batch_size: 64 in the run, 32 now",
    ),
    "an argument that was not given": (["--training.ema=0.9"], "training.ema: null in the run, 0.9 now"),
    "another class": (
        ["--objective.class_path=IWAE", "--objective.num_particles=2"],
        'objective.class_path: "pyro_dgm.objectives.ELBO" in the run, "pyro_dgm.objectives.IWAE" now; expected',
    ),
    "a longer run with another rate": (
        ["--training.steps=9", "--optimizer.lr=0.1"],
        "optimizer.init_args.lr: 0.001 in the run, 0.1 now; expected",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_the_run_of_another_config_is_refused_field_by_field(
    name: str, tiny: Path, run: Path, fault: Fault
) -> None:
    changes, message = OTHERS[name]
    before = state(run)
    code, line = fault("train", tiny, "--out", run, "--resume", *changes)
    assert code == 3 and message in line
    assert state(run) == before


def test_a_default_of_a_newer_version_is_no_difference() -> None:
    old, new = {"training": {"seed": 0}}, {"training": {"seed": 0, "ema": None}}
    assert differences(old, new, given={"training": {}}) == []
    assert differences(old, new, given=new) == ["training.ema: nothing in the run, null now"]
    assert differences(new, old, given={}) == ["training.ema: null in the run, nothing now"]


def test_a_changed_file_of_the_users_is_refused_by_its_name(
    tmp_path: Path, tiny_text: str, fault: Fault
) -> None:
    (tmp_path / "own_objective.py").write_text(
        "from pyro_dgm.objectives import ELBO\ndef make():\n    return ELBO()\n"
    )
    config = tmp_path / "own.yaml"
    config.write_text(tiny_text.replace("pyro_dgm.objectives.ELBO", "own_objective.make"))
    arguments = ["train", str(config), "--out", str(tmp_path / "run")]
    assert main(arguments) == 0 and main([*arguments, "--resume"]) == 0
    with open(tmp_path / "own_objective.py", "a") as file:
        file.write("# another line\n")
    code, line = fault(*arguments, "--resume")
    assert code == 3 and "changed files" in line and "own_objective.py" in line


@pytest.mark.filterwarnings("always::UserWarning")
def test_changed_data_are_refused_and_an_evaluation_on_them_warns(
    tmp_path: Path, tiny_text: str, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.random.default_rng(0).integers(0, 2, size=(60, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    config = yaml.safe_load(tiny_text)
    config["data"] = {"class_path": "pyro_dgm.data.Arrays", "init_args": {"train": str(tmp_path / "x.npy")}}
    config["training"]["batch_size"] = 16
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))
    run = tmp_path / "run"
    arguments = ["train", str(tmp_path / "own.yaml"), "--out", str(run), "--resume"]
    assert main(arguments) == 0
    before = state(run)
    np.save(tmp_path / "x.npy", 1 - x)
    code, line = fault(*arguments)
    assert code == 3 and "changed data" in line and state(run) == before
    assert main(["evaluate", str(run)]) == 0
    assert "warning: " in (err := capsys.readouterr().err) and "they have changed since" in err
    np.save(tmp_path / "x.npy", x)
    assert main(arguments) == 0


@pytest.mark.filterwarnings("always::UserWarning")
def test_a_posterior_that_was_cut_off_is_drawn_anew(
    tiny: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = numbers(run)
    content = (run / "posterior.nc").read_bytes()
    (run / "posterior.nc").write_bytes(content[:5000])
    (run / "evaluation.json").unlink()
    assert main(["train", str(tiny), "--out", str(run), "--resume"]) == 0
    assert "is drawn anew" in capsys.readouterr().err
    assert numbers(run) == before and len((run / "posterior.nc").read_bytes()) == len(content)


def test_a_run_without_a_whole_row_of_metrics_is_evaluated(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_before(1, signal.SIGTERM, patch)
        assert main(["train", str(tiny), "--out", str(run)]) == 143
    (run / "metrics.jsonl").write_text('{"step"')
    assert main(["evaluate", str(run)]) == 0
    assert read_ledger(run / "evaluation.json").training_seconds is None


@pytest.mark.parametrize(
    "kept", [[], ["checkpoints", "metrics.jsonl"], ["config.yaml", "metrics.jsonl"], None]
)
def test_where_there_is_nothing_to_go_on_from_a_run_begins_and_says_so(
    kept: list[str] | None, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    if kept is not None:
        folder.mkdir()
        for name in kept:
            (folder / name).mkdir() if name == "checkpoints" else (folder / name).write_text("old\n")
    arguments = ["train", str(tiny), "--out", str(folder), "--resume", "--verbose"]
    assert main(arguments) == 0
    said = "info: nothing to resume" in capsys.readouterr().err
    assert said
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert "nothing to resume" not in err and "info: resumed after step 3 of 3" in err


def test_a_run_begins_with_the_weights_of_another(
    tiny: Path, trained: Path, tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained.parent)
    out = tmp_path / "é next"
    # A rate so small that nothing moves in float32: the result is that of the first run.
    changes = ["--init-from", trained.name, "--optimizer.lr=1e-30", "--training.seed=3"]
    assert main(["train", str(tiny), "--out", str(out), *changes]) == 0
    ours, theirs = load(out).state_dict(), load(trained).state_dict()
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
    config = yaml.safe_load((out / "config.yaml").read_text())
    assert config["training"]["init_from"] == trained.name
    assert main(["train", str(tiny), "--out", str(out), "--resume", *changes]) == 0
    code, line = fault("train", tiny, "--out", tmp_path / "a", "--init-from", tmp_path)
    assert code == 2 and "--init-from" in line
    wide = ["--program.hidden=[9]", "--program.latent_dim=3"]
    code, line = fault("train", tiny, "--out", tmp_path / "a", *changes, *wide)
    assert code == 3 and "training.init_from" in line
    assert "encoder.0.weight has shape (8, 64) instead of (9, 64)" in line or "instead of (9, 64)" in line
    assert not (tmp_path / "a").exists()
    before = state(out)
    code, line = fault("train", tiny, "--out", out, "--overwrite", "--init-from", out)
    assert code == 2 and "training.init_from" in line and "would be overwritten" in line
    assert state(out) == before
