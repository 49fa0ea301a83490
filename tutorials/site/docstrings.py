"""Extension of griffe, which reads the sources: docstrings become Markdown before their sections are read."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parent))  # griffe loads this file by its path
from markup import from_docstring


class Docstrings(griffe.Extension):
    """Formulas, references and code of each docstring in the form that the site's Markdown reads."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        errors = [member for member in pkg["errors"].members.values() if not member.is_alias]
        _convert(pkg, errors)


def _convert(item: griffe.Object, errors: list[griffe.Object]) -> None:
    if item.docstring:
        text = from_docstring(item.docstring.value, lambda target: _link(item, target))
        item.docstring.value = _starred(item, text)
    for member in list(item.members.values()):
        if not member.is_alias:
            _convert(member, errors)
    for error in errors if item.is_module else []:
        if (
            error.name not in item.members
        ):  # so that the site links what is under Raises in files without the import
            item.set_member(error.name, griffe.Alias(error.name, error.path))


def _link(item: griffe.Object, target: str) -> str:
    """A link where the site has the object, its name in code where that is private; an error where there is none."""
    path = target.removeprefix("~")
    name = path.rpartition(".")[2] if target.startswith("~") else path
    try:
        absolute = path if path.startswith("pyro_dgm.") else item.resolve(path)
        found = item.modules_collection[absolute].canonical_path
    except (griffe.NameResolutionError, KeyError) as error:
        raise ValueError(f"the docstring of {item.path} refers to {target}, which is not there") from error
    return f'<autoref optional identifier="{found}"><code>{name}</code></autoref>'


def _starred(item: griffe.Object, text: str) -> str:
    """``batch:`` in a docstring is ``*batch`` in the signature; griffe wants the stars in both."""
    parameters = item.parameters if item.is_function else []
    for name in (parameter.name for parameter in parameters if parameter.name.startswith("*")):
        text = re.sub(
            rf"^(    )({name.lstrip('*')}:)", lambda found, name=name: f"{found[1]}{name}:", text, flags=re.M
        )
    return text
