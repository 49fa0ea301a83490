"""The names in a config: sections, classes and their arguments, checked before any object is made."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment.config import NODE_KEYS, OBJECTS, REQUIRED, SECTIONS, Config

TRUSTED = ("pyro_dgm", "pyro", "torch")
# Where a class name without dots is looked up.
NAMESPACES = (
    "pyro_dgm",
    "pyro_dgm.models",
    "pyro_dgm.objectives",
    "pyro_dgm.data",
    "pyro_dgm.nets",
    "pyro_dgm.distributions",
    "pyro.infer",
    "torch.optim",
    "torch.optim.lr_scheduler",
    "torch.nn",
)
_DOTTED = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)+")


def class_nodes(value: Any, key: str = "") -> Iterator[tuple[str, Config]]:
    """Every mapping with a ``class_path``, outermost first, with its dotted key."""
    match value:
        case dict():
            if "class_path" in value:
                yield key, value
            for name, part in value.items():
                yield from class_nodes(part, f"{key}.{name}" if key else name)
        case list():
            for index, part in enumerate(value):
                yield from class_nodes(part, f"{key}.{index}")


def suggest(name: str, known: Iterable[str]) -> str:
    """What to try instead of a name that is not known: the nearest, or the list."""
    known = sorted(known)
    return next(iter(difflib.get_close_matches(name, known, 1, 0.6)), f"one of {', '.join(known)}")


def check_keys(found: Iterable[str], known: Sequence[str], *, key: str) -> None:
    """Raises InvalidInput for the first key that is not known, with the nearest that is."""
    for name in found:
        if name not in known:
            prefix = f"{key}." if key else ""
            raise InvalidInput("unknown key", where=f"{prefix}{name}", cure=suggest(name, known))


def check_config(config: Config) -> None:
    """Checks that sections, class names and arguments exist.

    Raises:
        InvalidInput: an unknown key or class, with the nearest that is known.
    """
    check_keys(config, SECTIONS, key="")
    for section in SECTIONS:
        value = config.get(section)
        if value is None and section not in REQUIRED:
            continue
        if not isinstance(value, dict) or (section in OBJECTS and "class_path" not in value):
            expected = "a mapping with class_path and init_args" if section in OBJECTS else "a mapping"
            raise InvalidInput("no such mapping", where=section, value=value, expected=expected)
    for key, node in class_nodes(config):
        check_keys(node, NODE_KEYS, key=key)
        if not isinstance(node["class_path"], str) or not isinstance(node.get("init_args", {}), dict):
            raise InvalidInput(
                "bad class", where=key, value=node, expected="class_path: a name, init_args: a mapping"
            )
        node["class_path"], target = resolve(node["class_path"], key=f"{key}.class_path")
        try:
            known = inspect.signature(target).parameters.values()
        except ValueError:  # of functions that are written in C
            raise InvalidInput(
                "a class that does not tell its arguments",
                where=f"{key}.class_path",
                value=node["class_path"],
                expected="a class or function written in Python",
            ) from None
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known):
            names = [parameter.name for parameter in known]
            check_keys(node.get("init_args", {}), names, key=f"{key}.init_args")


def resolve(name: str, *, key: str) -> tuple[str, Any]:
    """Full name and object that a class name stands for.

    Raises:
        InvalidInput: no such class, with the nearest; or its module does not import.
    """
    module_name, _, last = name.rpartition(".")
    for space in [module_name] if module_name else NAMESPACES:
        try:
            found = getattr(importlib.import_module(space), last, None)
        except ModuleNotFoundError as error:
            if not f"{space}.".startswith(f"{error.name}."):
                raise InvalidInput(f"cannot import {space}", where=key, value=error) from error
            continue
        except Exception as error:  # whatever a user's own file raises
            reason = f"{type(error).__name__}: {error}"
            raise InvalidInput(f"cannot import {space}", where=key, value=reason) from error
        if callable(found):
            return f"{space}.{last}", found
    raise InvalidInput("unknown class", where=key, value=name, cure=_nearest_class(module_name, last))


def _nearest_class(module_name: str, last: str) -> str:
    for spaces in ([module_name], NAMESPACES):
        known = {member: f"{space}.{member}" for space in spaces for member in _classes(space)}
        near = difflib.get_close_matches(last, known, 1, 0.5)
        if near:
            return known[near[0]]
    return "a full name, as pyro_dgm.models.VAE"


def _classes(module_name: str) -> list[str]:
    try:
        members = vars(importlib.import_module(module_name))
    except (ImportError, ValueError):
        return []
    return [name for name, value in members.items() if isinstance(value, type) or inspect.isfunction(value)]


def dotted_names(value: Any) -> list[str]:
    """Everything in a config, keys and values, that could be the full name of a class or function."""
    match value:
        case str():
            return _DOTTED.findall(value)
        case dict():
            return [name for part in (*value, *value.values()) for name in dotted_names(part)]
        case list():
            return [name for part in value for name in dotted_names(part)]
    return []


def foreign_names(value: Any) -> list[str]:
    """Importable names in a config that belong neither to this package nor to pyro or torch.

    They are found without importing them. What a trusted package imports (``torch.os``) is foreign too.
    """
    return [name for name in dotted_names(value) if not _is_trusted(name)]


def _is_trusted(name: str) -> bool:
    root = name.partition(".")[0]
    try:
        if root not in TRUSTED:
            return importlib.util.find_spec(root) is None  # as in a file's name: no module, so no code
        target = resolve(name, key=name)[1]
    except (ImportError, ValueError):  # InvalidInput is a ValueError
        return False
    return (getattr(target, "__module__", None) or root).partition(".")[0] in TRUSTED
