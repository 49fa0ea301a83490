"""Faults that a run directory and its surroundings meet, by the rows of the table of faults: 40 and 43 to 47."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import arviz
import numpy as np
import pytest
import yaml

from pyro_dgm.cli import main
from pyro_dgm.diagnostics import reliability
from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.experiment import training
from pyro_dgm.training.lock import FolderLock
from tests.faults.conftest import Place, fault_of


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[int]:
    """Block in which another process holds a run; gives its id."""
    ready, wait = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with FolderLock(folder):
            os.write(ready[1], b"1")
            os.close(wait[1])
            os.read(wait[0], 1)  # until the other end is closed or the process is killed
        os._exit(0)
    os.close(wait[0])
    os.read(ready[0], 1)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for descriptor in (*ready, wait[1]):
            os.close(descriptor)


def test_row_40_a_run_has_one_process_and_the_others_are_told_which(place: Place) -> None:
    assert place.train().code == 0
    run = place.path("run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with held_by_another_process(run) as owner:
        for outcome in (
            place.train("--resume"),
            place.train("--overwrite"),
            place.call("evaluate", run),
            place.call("diagnose", run),
        ):
            fault = fault_of(outcome, code=5)
            assert f"error: run in use in {run}: " in outcome.err
            assert f"process {owner} on " in fault["value"] and "since 2" in fault["value"]
        # Reading needs no lock.
        assert place.call("sample", run, "--out", place.path("x.npy")).code == 0
        assert {path: path.read_bytes() for path in before} == before
    assert place.train("--resume").code == 0  # the owner was killed: nothing is left in the way


def test_row_40_the_loser_of_a_race_leaves_the_winner_s_run_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    late = training.Place(run)  # nothing is there yet
    run.mkdir()
    with held_by_another_process(run):
        with pytest.raises(ResourceError, match="run in use"), late:
            pass
        assert {path.name for path in run.iterdir()} == {".lock", ".owner.json"}
    (run / "config.yaml").touch()
    with pytest.raises(InvalidInput, match="output exists"), training.Place(run):
        pass


def test_row_43_output_that_exists_is_kept_unless_it_may_be_changed(place: Place) -> None:
    assert place.train().code == 0
    run = place.path("run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    fault = fault_of(place.train(), parts=["value", "cure"])
    assert fault["what"] == "output exists" and fault["value"] == str(run)
    assert "--resume" in fault["cure"] and "--overwrite" in fault["cure"]
    assert {path: path.read_bytes() for path in before} == before
    sample = ("sample", run, "--out", place.path("x.npy"))
    assert place.call(*sample).code == 0
    assert "--overwrite" in fault_of(place.call(*sample), parts=["value", "cure"])["cure"]
    assert place.train("--resume").code == place.train("--overwrite").code == 0


@pytest.mark.parametrize("name", ["né w\n日本", "a'b\"c 100% {x} $y", "-dash"])
def test_row_44_a_path_of_any_letters_works(name: str, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.path(name)
    folder.mkdir()
    shutil.copy(place.path("tiny.yaml"), folder / f"{name}.yaml")
    monkeypatch.chdir(folder)
    run = f"./{name}"
    trained = place.call("train", f"./{name}.yaml", "--out", run, "--json")
    assert trained.code == 0 and json.loads(trained.out)["run"] == name, trained.err
    assert place.call("train", f"./{name}.yaml", "--out", run, "--resume").code == 0
    assert place.call("train", f"./{name}.yaml", "--out", f"{run}2", "--init-from", run).code == 0
    for command in (["evaluate", run], ["diagnose", run], ["sample", run], ["compare", run, f"{run}2"]):
        outcome = place.call(*command, "--json")
        assert outcome.code == 0 and isinstance(json.loads(outcome.out), dict), outcome.err
    fault = fault_of(place.call("train", f"./{name}.yaml", "--out", run), parts=["value", "cure"])
    assert fault["value"] == " ".join(name.split())


def commands(run: Path) -> dict[str, list[str]]:
    return {
        "train": ["train", str(run.parent / "tiny.yaml"), "--out", str(run), "--resume"],
        "evaluate": ["evaluate", str(run)],
        "sample": ["sample", str(run)],
        "diagnose": ["diagnose", str(run), "--num-samples", "30"],
        "compare": ["compare", str(run), str(run)],
    }


@pytest.mark.parametrize("as_json", [[], ["--json"]])
def test_row_45_a_reader_that_has_gone_is_code_141_and_no_traceback(
    as_json: list[str], place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place.train().code == 0
    for name, command in commands(place.path("run")).items():
        reader, writer = os.pipe()
        os.close(reader)
        with monkeypatch.context() as patch, os.fdopen(writer, "w") as stream:
            patch.setattr(sys, "stdout", stream)
            outcome = place.call(*command, *as_json)
        assert outcome.code == 141, name
        assert "Traceback" not in outcome.err and "error" not in outcome.err


def test_row_45_streams_without_letters_or_none_at_all(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.train().code == 0
    for command in commands(place.path("run")).values():
        for streams in ((None, None), (io.TextIOWrapper(io.BytesIO(), encoding="ascii"),) * 2):
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", streams[0])
                patch.setattr(sys, "stderr", streams[1])
                code = main(command)
            assert code == 0
            for stream in filter(None, streams):
                stream.flush()
                assert b"Traceback" not in stream.buffer.getvalue()  # type: ignore[attr-defined]


NARROW = """
import pyro, torch
import pyro.distributions as dist
from pyro_dgm.program import Program

class Narrow(Program):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def model(self, x=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, self.scale.exp()).to_event(1), obs=x)

    def guide(self, x):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(torch.zeros(3), 0.1).to_event(1))
"""


def test_row_46_a_guide_of_too_light_tails_marks_the_result_and_says_why(place: Place) -> None:
    place.path("narrow_guide.py").write_text(NARROW)
    data = place.program("Location")[1]
    outcome = place.train("--program.class_path=narrow_guide.Narrow", data, "--json")
    printed = json.loads(outcome.out)
    assert printed["reliable"] is False and "k-hat" in printed["reasons"][0]
    ledger = json.loads((place.path("run") / "evaluation.json").read_text())
    assert ledger["reliable"] is False and ledger["reasons"] == printed["reasons"]
    outcome = place.call("diagnose", place.path("run"), "--trust", "--json")
    printed = json.loads(outcome.out)
    assert printed["reliable"] is False and printed["num_k_hats_above"] > 0
    assert printed["worst_k_hat"] > printed["k_hat_threshold"]
    assert "reliable: no, because k-hat of " in place.call("diagnose", place.path("run"), "--trust").out
    compared = place.call("compare", place.path("run"), place.path("run")).out
    assert next(line for line in compared.splitlines() if "reliable" in line).split() == [
        "reliable",
        "no",
        "no",
    ]


def test_row_46_chains_that_have_not_mixed_and_divergences_are_reasons_too() -> None:
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 500))
    assert reliability(arviz.from_dict({"z": draws})).reliable
    apart = reliability(arviz.from_dict({"z": draws + np.arange(4)[:, None]}))
    assert not apart.reliable and "R-hat" in apart.reasons[0] and apart.worst_r_hat > 1.01  # type: ignore[operator]
    diverging = np.zeros((4, 500), dtype=bool)
    diverging[1, 7] = True
    split = reliability(arviz.from_dict({"z": draws}, sample_stats={"diverging": diverging}))
    assert not split.reliable and split.divergences == 1 and "diverged" in split.reasons[0]


@pytest.mark.filterwarnings("always::UserWarning")
def test_row_47_a_run_that_goes_on_under_other_versions_says_which(place: Place) -> None:
    assert place.train().code == 0
    config = place.path("run") / "config.yaml"
    found = yaml.safe_load(config.read_text())
    now = dict(found["run"]["versions"])
    assert {"python", "torch", "pyro-ppl", "numpy", "pyro-dgm"} <= now.keys()
    found["run"]["versions"] |= {"torch": "2.0.9", "numpy": "1.0.3", "python": "3.0.0"}
    config.write_text(yaml.safe_dump(found, sort_keys=False))
    outcome = place.train("--resume", "--training.steps=5")
    assert outcome.code == 0 and len(outcome.warnings) == 1, outcome.err
    assert f"torch 2.0.9 (now {now['torch']}), numpy 1.0.3 (now {now['numpy']})" in outcome.warnings[0]
    # What the run began with is kept, for the next time too; the ledger names what its numbers were made with.
    assert yaml.safe_load(config.read_text())["run"]["versions"]["torch"] == "2.0.9"
    ledger = json.loads((place.path("run") / "evaluation.json").read_text())
    assert ledger["versions"]["torch"] == now["torch"]


def test_row_47_a_clock_that_goes_backwards_changes_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = place.train("--training.steps=8", "--json", run="whole")
    assert place.train("--training.steps=4").code == 0  # an epoch
    count = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1e9 - 1000.0 * next(count))
    for path in place.path("run").rglob("*"):
        os.utime(path, (4e9, 4e9))  # the year 2096
    outcome = place.train("--training.steps=8", "--resume", "--json")
    assert outcome.code == 0 and outcome.warnings == []
    assert json.loads(outcome.out)["elbo"] == json.loads(whole.out)["elbo"]
