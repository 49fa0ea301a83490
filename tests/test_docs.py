"""The documentation: its worked example runs as it stands, and the site's own text functions do what they say.

The example is run in a fresh module, never added to the library: its docstring, its law with mutants, an answer in
closed form that it has no part in, the contract of all programs, and its config.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from pyro_dgm import models
from pyro_dgm.cli import main

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "tutorials" / "site"
PAGE = (SITE / "pages" / "contributing.md").read_text()
BLOCKS: dict[str, str] = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', PAGE, re.M | re.S))
MODEL = "pyro_dgm/models/factor_analysis.py"
LAW = "tests/models/test_models_factor_analysis.py"
CONFIG = "configs/factor_analysis_pinwheel.yaml"


def load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Makes the example's code, or a mutant of it, ``pyro_dgm.models.FactorAnalysis`` for one test."""

    def add(code: str) -> ModuleType:
        name = MODEL.removesuffix(".py").replace("/", ".")
        (tmp_path / "factor_analysis.py").write_text(code)
        module = load(tmp_path / "factor_analysis.py", name)
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(models, "FactorAnalysis", module.FactorAnalysis, raising=False)
        return module

    return add


# ---- the worked example


def test_the_steps_name_files_that_are_there_or_new() -> None:
    assert list(BLOCKS) == [MODEL, "pyro_dgm/models/__init__.py", "tests/test_contract.py", LAW, CONFIG]
    assert all((ROOT / path).parent.is_dir() for path in BLOCKS)
    new = [path for path in BLOCKS if not (ROOT / path).exists()]
    assert new == [MODEL, LAW, CONFIG]  # the library does not have the example
    named = re.findall(r"`((?:tests|tutorials|pyro_dgm|configs)/[\w/]+(?:\.\w+)?)/?`", PAGE)
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert "BELOW" in (ROOT / "tests" / "test_imports.py").read_text()


def test_its_file_is_as_short_as_it_says_and_its_docstring_runs(install: Callable[[str], ModuleType]) -> None:
    module = install(BLOCKS[MODEL])
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testmod(module, optionflags=flags)
    assert results.attempted > 0 and results.failed == 0
    for function in (module.FactorAnalysis.model, module.FactorAnalysis.guide):
        assert len(inspect.getsource(function).splitlines()) < 25
    assert 60 <= len(BLOCKS[MODEL].splitlines()) <= 250


def test_its_log_probability_is_that_of_the_gaussian_it_describes(
    install: Callable[[str], ModuleType],
) -> None:
    torch.manual_seed(1)
    factors = install(BLOCKS[MODEL]).FactorAnalysis(4, 2).double()
    for parameter in factors.parameters():
        parameter.data.normal_()
    loadings, mean, log_scale = (
        getattr(factors, n).detach().numpy() for n in ("loadings", "mean", "log_scale")
    )
    covariance = loadings @ loadings.T + np.diag(np.exp(log_scale) ** 2)
    x = np.random.default_rng(0).normal(size=(5, 4))
    exact = multivariate_normal(mean, covariance).logpdf(x)
    np.testing.assert_allclose(factors.log_prob(torch.from_numpy(x)).detach().numpy(), exact, rtol=1e-10)


def run_law() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[LAW], names)
    tests = [value for name, value in names.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


MUTANTS = {
    "the identity left out of the precision": ("torch.eye(self.latent_dim).to(self.mean) + ", ""),
    "the mean forgotten": ("(x - self.mean).mT", "x.mT"),
    "the scale for the variance": ("dings / (2 * self.log_scale)", "dings / self.log_scale"),
    "another noise in the model": ("dist.Normal(mean, self.log_scale.exp())", "dist.Normal(mean, 1.0)"),
    "a wrong log p(x)": ("variance = (2 * self.log_scale)", "variance = (self.log_scale)"),
}


def test_its_law_holds(install: Callable[[str], ModuleType]) -> None:
    install(BLOCKS[MODEL])
    run_law()


@pytest.mark.parametrize("mutant", MUTANTS)
def test_its_law_catches_a_mutant(mutant: str, install: Callable[[str], ModuleType]) -> None:
    right, wrong = MUTANTS[mutant]
    assert BLOCKS[MODEL].count(right) == 1
    install(BLOCKS[MODEL].replace(right, wrong))
    with pytest.raises(AssertionError):
        run_law()


def test_its_row_keeps_the_contract(install: Callable[[str], ModuleType]) -> None:
    factor_analysis = install(BLOCKS[MODEL]).FactorAnalysis
    contract = load(ROOT / "tests" / "test_contract.py", "contract_of_the_example")
    row = BLOCKS["tests/test_contract.py"].strip()
    ((make, draw),) = eval(f"{{{row}}}", {"FactorAnalysis": factor_analysis, "torch": torch}).values()
    tests = [test for test in vars(contract).values() if list_of_arguments(test) == ["make", "draw"]]
    assert len(tests) >= 8
    for test in tests:
        test(make, draw)


def list_of_arguments(value: object) -> list[str]:
    return list(inspect.signature(value).parameters) if inspect.isfunction(value) else []


def test_its_config_trains(
    install: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install(BLOCKS[MODEL])
    config = tmp_path / Path(CONFIG).name
    config.write_text(BLOCKS[CONFIG])
    changes = ["--training.epochs=1", "--evaluation.num_particles=3", "--evaluation.num_data=10"]
    assert main(["train", str(config), "--out", str(tmp_path / "run"), *changes]) == 0, (
        capsys.readouterr().err
    )


# ---- what the site makes of the README, of notebooks and of docstrings; `mkdocs build --strict` does the rest

markup = load(SITE / "markup.py", "site_markup")


def test_the_pages_take_sections_that_the_readme_has() -> None:
    sections = markup.sections((ROOT / "README.md").read_text())
    assert "".join(sections.values()) == (ROOT / "README.md").read_text()
    pages = [path.read_text() for path in (SITE / "pages").glob("*.md")]
    wanted = [
        title for page in pages for title in re.findall(r"^(?:# )?<!-- README: ?(.*?) ?-->$", page, re.M)
    ]
    assert sorted(wanted) == sorted(sections)  # each section on one page


def test_a_docstring_becomes_markdown() -> None:
    text = textwrap.dedent(r"""
        Bound :math:`\log p(x)` of :class:`~a.b.C`, not :meth:`run`; ``*x`` of *shape, [1] < 2.

        .. math:: x_1 * y,
            \qquad z

        Args:
            x: a ``code``.

        Example:
            >>> x = [1] * 2
            >>> x
            [1, 1]

        Reference:
            A and B, "Name",
            2014.
            C, "Other [name]", 2015.
        """)
    expected = textwrap.dedent(r"""
        Bound $\log p(x)$ of <~a.b.C>, not <run>; ``*x`` of \*shape, \[1\] &lt; 2.

        $$
        x_1 * y, \qquad z
        $$

        Args:
            x: a ``code``.

        Examples:
            >>> x = [1] * 2
            >>> x
            [1, 1]

        **Reference:**

        - A and B, "Name", 2014.
        - C, "Other \[name\]", 2015.
        """)
    assert markup.from_docstring(text, lambda target: f"<{target}>") == expected
    assert markup.from_docstring("Reference: A (B, 2014).", str) == "**Reference:**\n\n- A (B, 2014)."


def test_a_notebook_becomes_markdown() -> None:
    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["1\n", "2\n"]},
        {"output_type": "display_data", "data": {"image/png": "aGVs\nbG8=", "text/plain": "<Figure>"}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {"cell_type": "code", "source": ["print(1)\n", "print(2)"], "outputs": outputs},
    ]
    image = '<img alt="Plot made by the code above" src="data:image/png;base64,aGVsbG8=">'
    expected = f"# Title\ntext\n\n```python\nprint(1)\nprint(2)\n```\n\n```text\n1\n2\n```\n\n{image}"
    assert markup.from_notebook(json.dumps({"cells": cells})) == expected


def test_ci_builds_the_site_by_the_command_that_the_page_gives() -> None:
    command = "mkdocs build --strict -f tutorials/site/mkdocs.yml"
    assert f"\n    {command}\n" in PAGE
    assert command in (ROOT / "README.md").read_text()
    assert f"\nrun {command}\n" in (ROOT / ".ci" / "run").read_text()
    assert "docs" in re.findall(r"'\.\[(.*)\]'", (ROOT / ".ci" / "run").read_text())[0].split(",")


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    # The reference would show the module in its place, and so would an import of the dotted name.
    for package in sorted((ROOT / "pyro_dgm").glob("*/__init__.py")):
        module = importlib.import_module(f"pyro_dgm.{package.parent.name}")
        public = set(getattr(module, "__all__", ()))
        assert not public & {path.stem for path in package.parent.glob("*.py")}, package
