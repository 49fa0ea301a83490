"""What docstrings promise: each public name says what it is, takes and raises; each model gives formula and paper."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

import pyro_dgm
from pyro_dgm import errors, models


def parts() -> dict[str, list[str]]:
    """Public names by part of the package: by the modules that the package's own ``__all__`` leads to."""
    values = [getattr(pyro_dgm, name) for name in pyro_dgm.__all__]
    modules = [value.__name__ if inspect.ismodule(value) else value.__module__ for value in values]
    names = {}
    for path in sorted({".".join(module.split(".")[:2]) for module in modules}):
        module = importlib.import_module(path)
        defined = [n for n, value in vars(module).items() if getattr(value, "__module__", "") == path]
        public = getattr(module, "__all__", [name for name in defined if name[0] != "_"])
        names[path] = [name for name in public if callable(getattr(module, name))]
    return names


PUBLIC = [(path, name) for path, names in parts().items() for name in names]


def missing(value: Any) -> list[str]:
    """What the docstring of a public class or function lacks of what it promises."""
    text = inspect.cleandoc(value.__doc__ or "")
    if not text:
        return ["docstring"]
    found = [] if re.match(r"\S.*[.;:]", text) else ["a sentence that says what it is"]
    own = value if inspect.isfunction(value) else vars(value).get("__init__")
    if own is None or getattr(value, "_is_protocol", False):
        return found  # its base, or whoever implements the protocol, says how it is called
    takes = [name for name in inspect.signature(own).parameters if name != "self"]
    stated = re.search(r"^Args:\n((?: .*\n?|\n)*)", text, re.M)
    listed = re.findall(r"^    (\w+): ", stated[1] if stated else "", re.M)
    found += [f"argument {name}" for name in takes if name not in listed]
    found += [f"{name}, which is no argument" for name in listed if name not in takes]
    raised = re.search(r"^Raises:\n((?: .*\n?|\n)*)", text, re.M)
    return found + [f"error {name}" for name in raises(own) if name not in (raised[1] if raised else "")]


def raises(function: Callable[..., Any]) -> list[str]:
    """Errors of ours that the body of a function raises itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except OSError:  # the constructor of a dataclass has no source
        return []
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = {call.func.id for call in calls if isinstance(call, ast.Call) and isinstance(call.func, ast.Name)}
    return sorted(name for name in names if name in vars(errors))


@pytest.mark.parametrize(("path", "name"), PUBLIC, ids=lambda value: value)
def test_a_public_name_says_what_it_is_takes_and_raises(path: str, name: str) -> None:
    assert missing(getattr(importlib.import_module(path), name)) == []


@pytest.mark.parametrize("name", models.__all__)
def test_a_model_gives_its_formula_an_example_and_its_paper(name: str) -> None:
    text = getattr(models, name).__doc__
    assert all(promised in text for promised in (".. math::", "Example:\n", ">>> ", "Reference:\n"))


def test_the_checker_of_docstrings_finds_what_is_missing() -> None:
    def undocumented(x: int) -> None: ...

    def wrong(x: int, y: int) -> None:
        """Something.

        Args:
            y: a number.
            z: a number.
        """
        raise errors.InvalidInput("x")

    def silent(x: int) -> None:
        """Something.

        Args:
            x: a number.
        """
        raise InvalidInput("x")

    InvalidInput = errors.InvalidInput
    assert missing(undocumented) == ["docstring"]
    assert missing(wrong) == ["argument x", "z, which is no argument"]
    assert missing(silent) == ["error InvalidInput"]
