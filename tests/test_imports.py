"""Imports run one way: this file holds the table of who may import whom, and reads every source file."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted((ROOT / "pyro_dgm").rglob("*.py"))

# Each part of the package and the parts right below it. A part may import itself and all that lies below it.
BELOW: dict[str, set[str]] = {
    "cli": {"experiment"},
    "experiment": {"training", "evaluation", "diagnostics", "compression", "data", "program"},
    "training": {"objectives", "samplers", "program", "atomic"},
    "evaluation": {"objectives", "samplers", "atomic"},
    "diagnostics": {"evaluation", "objectives", "samplers", "atomic"},
    "compression": {"objectives", "samplers", "atomic"},
    "objectives": {"distributions"},
    "samplers": {"distributions"},
    "models": {"program", "distributions"},
    "program": {"errors"},
    "distributions": {"nets"},
    "nets": {"shapes"},
    "data": {"errors"},
    "atomic": {"errors"},
    "shapes": {"errors"},
    "errors": set(),
}
WITHOUT_PYRO = {"nets", "data", "atomic", "shapes", "errors"}
NOT_IMPORTABLE = {"tests", "tutorials", "configs"}
NEIGHBOUR = re.compile(r"\.\./" + "shared")  # data beside a checkout is no part of the product


def reachable(part: str) -> set[str]:
    """Everything that `part` may import: itself and the parts below it, at any depth."""
    found = {part}
    for lower in BELOW.get(part, set()):
        found |= reachable(lower)
    return found


def imported(module: str, source: str, *, is_package: bool = False) -> set[str]:
    """Absolute dotted names that `source` imports anywhere, inside functions and for type checkers too."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *filter(None, [node.module])])
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    return names


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """One line for each import of `module` that the table forbids."""
    parts = module.split(".")
    part = parts[1] if len(parts) > 1 else ""
    found = []
    for name in sorted(imported(module, source, is_package=is_package)):
        top, _, rest = name.partition(".")
        target = rest.partition(".")[0]
        if top in NOT_IMPORTABLE:
            found.append(f"{module} imports {name}: nothing imports {top}")
        elif top == "pyro" and part in WITHOUT_PYRO:
            found.append(f"{module} imports {name}: {part} knows no Pyro")
        elif top == "pyro_dgm" and not part:
            if target == "cli":
                found.append(f"{module} imports {name}: the command line is not part of the library")
        elif top == "pyro_dgm" and target not in reachable(part):
            found.append(f"{module} imports {name}: {part} may import {sorted(reachable(part))}")
    if NEIGHBOUR.search(source):
        found.append(f"{module} names a folder outside the project")
    return found


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_run_one_way(path: Path) -> None:
    assert violations(module_name(path), path.read_text(), is_package=path.name == "__init__.py") == []


def test_every_part_of_the_package_has_a_row() -> None:
    parts = {path.relative_to(ROOT / "pyro_dgm").parts[0].removesuffix(".py") for path in SOURCES}
    assert parts - {"__init__"} <= set(BELOW)


def test_the_table_has_no_circle() -> None:
    for part, lower in BELOW.items():
        assert all(part not in reachable(other) for other in lower)


MUTANTS = {
    "a model knows an objective": ("pyro_dgm.models.vae", "from pyro_dgm.objectives import ELBO"),
    "an objective knows a model": ("pyro_dgm.objectives.elbo", "from ..models.vae import VAE"),
    "hidden in a function": ("pyro_dgm.training.fitting", "def f():\n    import pyro_dgm.experiment"),
    "hidden from the interpreter": (
        "pyro_dgm.training.fitting",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pyro_dgm.cli import main",
    ),
    "a network knows Pyro": ("pyro_dgm.nets.mlp", "import pyro.distributions as dist"),
    "one layer, sideways": ("pyro_dgm.training.fitting", "from pyro_dgm.evaluation import log_likelihood"),
    "training knows the data sets": ("pyro_dgm.training.fitting", "from pyro_dgm.data.digits import Digits"),
    "the library imports its tests": ("pyro_dgm.data.digits", "from tests.conftest import fresh_state"),
    "through the public surface": ("pyro_dgm.models.vae", "from pyro_dgm import Program"),
    "the surface imports the command line": ("pyro_dgm", "from pyro_dgm import cli"),
    "an unknown part": ("pyro_dgm.cli", "from . import utils"),
    "a neighbour of the checkout": ("pyro_dgm.data.mnist", f"FOLDER = '../{'shared'}/data'"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_checker_rejects_a_planted_mutant(name: str) -> None:
    module, source = MUTANTS[name]
    assert len(violations(module, source, is_package=module == "pyro_dgm")) == 1


ALLOWED = {
    "downwards": ("pyro_dgm.experiment", "from pyro_dgm.objectives.elbo import ELBO"),
    "within a part": ("pyro_dgm.nets.conv", "from .shapes import flatten_event"),
    "errors are for all": ("pyro_dgm.models.vae", "from pyro_dgm.errors import InvalidInput"),
    "a model knows Pyro": ("pyro_dgm.models.vae", "import pyro\nimport pyro.distributions as dist"),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_the_checker_passes_what_is_allowed(name: str) -> None:
    module, source = ALLOWED[name]
    assert violations(module, source) == []
