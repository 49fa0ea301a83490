"""The README's table of results is what the committed ledgers give, and the ledgers are of the committed configs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import Ledger, read_ledger, write_ledger
from pyro_dgm.evaluation.results import BEGIN, END, main, rebuilt, row
from pyro_dgm.experiment.config import config_hash, read_config

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "configs" / "results"
LEDGERS = sorted(RESULTS.glob("*.json"))


def test_the_readme_and_the_ledgers_are_equal() -> None:
    assert main([str(RESULTS), str(ROOT / "README.md"), "--check"]) == 0


@pytest.mark.parametrize("path", LEDGERS, ids=lambda path: path.stem)
def test_a_committed_ledger_is_of_the_config_of_its_name(path: Path) -> None:
    ledger, config = read_ledger(path), read_config(ROOT / "configs" / f"{path.stem}.yaml")
    assert ledger.config == path.stem
    if ledger.status == "done":  # a promise is of whatever the config will be
        assert ledger.config_sha256 == config_hash(config)
    published = config.get("published")
    assert (dataclasses.asdict(ledger.published) if ledger.published else None) == published


def test_every_published_number_has_a_ledger() -> None:
    configs = {path.stem for path in (ROOT / "configs").glob("*.yaml") if read_config(path).get("published")}
    assert configs <= {path.stem for path in LEDGERS}


@pytest.fixture
def ledgers(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    promise = Ledger(config="vae", config_sha256="", status="not yet run", estimated_hours=1.5)
    write_ledger(folder / "vae.json", promise)
    return folder


def test_one_command_writes_the_table_and_a_second_time_changes_nothing(
    tmp_path: Path, ledgers: Path
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    arguments = [str(ledgers), str(readme)]
    assert main([*arguments, "--check"]) == 1
    assert "old" in readme.read_text()
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "not yet run (about 1.5 h)" in text
    write_ledger(
        ledgers / "iwae.json", Ledger(config="i|w", config_sha256="", status="not yet run", estimated_hours=1)
    )
    assert main([*arguments, "--check"]) == 1 and main(arguments) == 0
    lines = [line for line in readme.read_text().splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4


@pytest.mark.parametrize(
    "text", ["", BEGIN, END, f"{END}{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"]
)
def test_a_file_without_its_two_markers_is_left_alone(ledgers: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match="no place"):
        rebuilt(text, ledgers)


def test_a_row_shows_the_negative_log_likelihood_in_nats() -> None:
    done = Ledger(
        config="vae",
        config_sha256="",
        data_set="MNIST",
        split="test",
        split_size=10,
        estimator="e",
        log_likelihood=-88.714,
        standard_error=0.256,
        bits_per_dim=0.16326,
    )
    assert row(done)[1:5] == ("MNIST, 10 test", "e", "88.71 ± 0.26", "0.1633")
