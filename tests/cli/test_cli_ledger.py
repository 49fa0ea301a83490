"""Ledgers: what is written is read back, and what is no ledger is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pyro_dgm.atomic import replacing
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation import ledger as ledger_module
from pyro_dgm.evaluation.ledger import Ledger, Published, read_ledger, versions, write_ledger

DONE = Ledger(
    config="vae",
    config_sha256="ab",
    published=Published(nats=88.71, source="a paper"),
    data_set="Digits",
    preprocessing={"levels": 17, "split": {"train": 3}},
    split="test",
    split_size=360,
    estimator="importance sampling, 10 particles",
    num_particles=10,
    log_likelihood=-22.5,
    standard_error=0.2,
    bits_per_dim=0.5,
    elbo=-23.0,
    elbo_standard_error=0.2,
    active_units={"z": 4},
    num_parameters=100,
    seed=0,
    training_seconds=1.0,
    evaluation_seconds=2.0,
    versions=versions(),
    reliable=False,
    reasons=["k-hat"],
)


def test_a_ledger_is_read_as_it_was_written(tmp_path: Path) -> None:
    promise = Ledger(config="vae", config_sha256="", status="not yet run", estimated_hours=2.0)
    for ledger in (DONE, promise):
        write_ledger(tmp_path / "ledger.json", ledger)
        assert read_ledger(tmp_path / "ledger.json") == ledger


def test_a_ledger_from_before_there_were_verdicts_is_read(tmp_path: Path) -> None:
    plain = dataclasses.asdict(dataclasses.replace(DONE, reliable=None, reasons=None))
    kept = {name: value for name, value in plain.items() if value is not None}
    (tmp_path / "ledger.json").write_text(json.dumps(kept))
    assert read_ledger(tmp_path / "ledger.json") == dataclasses.replace(DONE, reliable=None, reasons=None)


def test_the_commit_is_that_of_the_checkout_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def commit() -> str | None:
        ledger_module._commit.cache_clear()
        return versions().get("commit")

    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    package = tmp_path / "pyro_dgm" / "evaluation"
    package.mkdir(parents=True)
    (package / "ledger.py").touch()
    monkeypatch.setattr(ledger_module, "__file__", str(package / "ledger.py"))
    assert commit() is None
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "a"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    clean = commit()
    assert clean is not None and head.startswith(clean)
    (package / "ledger.py").write_text("changed")
    assert commit() == f"{clean}-dirty"
    # An installed package that merely lies within some checkout, and a machine without git.
    (tmp_path / "installed").mkdir()
    monkeypatch.setattr(ledger_module, "__file__", str(tmp_path / "installed/pyro_dgm/evaluation/ledger.py"))
    assert commit() is None
    monkeypatch.setattr(ledger_module, "__file__", str(package / "ledger.py"))
    monkeypatch.setenv("PATH", "")
    assert commit() is None
    ledger_module._commit.cache_clear()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_refused_and_the_old_file_stays(tmp_path: Path, bad: float) -> None:
    file = tmp_path / "ledger.json"
    write_ledger(file, DONE)
    before = file.read_bytes()
    with pytest.raises(InvalidInput, match="standard_error"):
        write_ledger(file, dataclasses.replace(DONE, standard_error=bad))
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


CHANGES: dict[str, tuple[Any, str]] = {
    "a missing field": ({"elbo": ...}, "missing field.*elbo"),
    "an unknown field": ({"foo": 1}, "unknown field.*foo"),
    "a string for a number": ({"elbo": "-3"}, "wrong field.*elbo"),
    "a bool for a number": ({"elbo": True}, "wrong field.*elbo"),
    "a fraction of a particle": ({"num_particles": 1.5}, "wrong field.*num_particles"),
    "another status": ({"status": "perhaps"}, "wrong field.*status"),
    "units that are not counted": ({"active_units": {"z": "all"}}, "wrong field.*active_units"),
    "half a publication": ({"published": {"nats": 1.0}}, "wrong field.*published"),
    "a newer schema": ({"schema": 99}, "unknown schema"),
    "a verdict that is a number": ({"reliable": 1}, "wrong field.*reliable"),
    "reasons that are one text": ({"reasons": "k-hat"}, "wrong field.*reasons"),
    "a reason that is no text": ({"reasons": ["k-hat", 1]}, "wrong field.*reasons"),
    "a promise without hours": ({"status": "not yet run"}, "missing field.*estimated_hours"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_no_ledger_is_refused_by_the_name_of_its_field(tmp_path: Path, name: str) -> None:
    changes, message = CHANGES[name]
    plain = {key: value for key, value in dataclasses.asdict(DONE).items() if value is not None}
    plain = {key: value for key, value in {**plain, **changes}.items() if value is not ...}
    (tmp_path / "ledger.json").write_text(json.dumps(plain))
    with pytest.raises(InvalidInput, match=message):
        read_ledger(tmp_path / "ledger.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"schema": NaN}', "[" * 100_000])
def test_what_is_no_json_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ledger.json").write_text(text)
    with pytest.raises(InvalidInput, match=r"ledger\.json"):
        read_ledger(tmp_path / "ledger.json")


def test_a_file_that_fails_half_way_leaves_the_old_one_whole(tmp_path: Path) -> None:
    file = tmp_path / "old.txt"
    file.write_text("old")

    def write_half() -> None:
        with replacing(file) as temporary:
            temporary.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert file.read_text() == "old" and list(tmp_path.iterdir()) == [file]
