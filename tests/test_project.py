"""The files around the package agree with one another."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import pyro_dgm

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
README = (ROOT / "README.md").read_text()


def test_the_hooks_are_the_checks_of_ci() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands = re.findall(r"^run ((?:ruff|mypy).*)$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert [hook["entry"] for hook in hooks] == commands != []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "pip install -e '.[test]' && python -m pytest\n" in README
    assert re.search(r"^run python -m pytest$", (ROOT / ".ci" / "run").read_text(), re.M)


def test_files_that_the_readme_names_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    names = links + re.findall(r"\b(?:configs|tutorials|tests|pyro_dgm)/[a-z0-9_/]*\.\w+", README)
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert len(names) > 5


def test_the_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = "moons.test.x[:20], num_samples=50, num_gap=5, num_replications=50, num_nuts=0)"
    shorter = {"epochs=100": "epochs=1", "num_particles=5000": "num_particles=20", "moons.test.x)": few}
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    for block in blocks:
        for long, short in shorter.items():
            block = block.replace(long, short)
        exec(block, names)
    assert names["estimate"].mean < 0  # a probability of binary pixels
    assert names["samples"].shape == (500, 2)
    assert (tmp_path / "report.html").is_file()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == pyro_dgm.__version__
    assert citation["license"] == PROJECT["project"]["license"]
