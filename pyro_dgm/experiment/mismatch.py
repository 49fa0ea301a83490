"""The parser's report of a wrong value in one line: its key, the value, and what would do, in words."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Collection, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment.class_names import resolve
from pyro_dgm.experiment.config import NODE_KEYS, Config

_LONGEST = 200  # characters of the parser's own words
_REQUIRED = re.compile(r"arguments are required: (\w[\w.]*(?:, \w[\w.]*)*)")
_UNTYPED = re.compile(r"Parameter '(\w+)' from '([\w.]+?)(?:\.__init__)?' does not specify a type")
_NO_OPTION = re.compile(r"Option '([\w.]+)' is not accepted")
_NO_SUBCLASS = re.compile(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)")
_NO_NAME = re.compile(r"has no attribute '|No module named '")
_NOT_CALLABLE = re.compile(r"Expected '([\w.]+)' to be a class that instantiates into callable")
_WANTED = re.compile(r"Expected (?:(?:an? )?<class '([^']+)'>|an? ([^\n]+?))(?:\. Got value|\n|$)")


def mismatch(text: str, config: Config) -> InvalidInput:
    r"""The fault that the parser reports over several indented lines.

    Args:
        text: what the parser says.
        config: what it was given, normalised.

    Example:
        >>> network = {"in_features": 2, "hidden": 8, "out_shape": [2]}
        >>> config = {"program": {"class_path": "pyro_dgm.nets.MLP", "init_args": network}}
        >>> print(mismatch('Parser key "program":\n  Parser key "hidden":\n    Expected a list', config))
        wrong value in program.init_args.hidden: 8; expected a list of int
    """
    path, value = _found(text, config)
    where = ".".join(path) or "the config"
    if missing := _REQUIRED.search(text):
        return InvalidInput("missing key", where=f"{where}.init_args", expected=missing[1].rstrip("."))
    if untyped := _UNTYPED.search(text):
        expected = f"one, as {untyped[1]}: int in {untyped[2]}"
        key = f"{where}.init_args.{untyped[1]}"
        return InvalidInput("argument without an annotation", where=key, expected=expected)
    if unknown := _NO_OPTION.search(text):
        return InvalidInput("unknown key", where=f"{where}.{unknown[1]}")
    if (other := _NO_SUBCLASS.search(text)) and isinstance(value, dict):
        return InvalidInput(
            "wrong value", where=f"{where}.class_path", value=other[1], expected=_article(other[2])
        )
    if (other := _NOT_CALLABLE.search(text)) and isinstance(value, dict):
        expected = "a class whose objects can be called"
        return InvalidInput("wrong value", where=f"{where}.class_path", value=other[1], expected=expected)
    annotation = _annotation(path, config)
    expected = _said(text) if annotation is inspect.Parameter.empty else in_words(annotation)
    what = "unknown class" if isinstance(value, str) and _NO_NAME.search(text) else "wrong value"
    return InvalidInput(what, where=where, value=value, expected=expected)


def _found(text: str, config: Config) -> tuple[list[str], Any]:
    """Path of the value that the parser's keys lead to, as far as they are in the config, and the value."""
    value: Any = config
    path: list[str] = []
    for name in [part for key in re.findall(r'Parser key "([^"]+)"', text) for part in key.split(".")]:
        if isinstance(value, dict) and "class_path" in value and name not in NODE_KEYS:
            value = value.get("init_args", {})
            path.append("init_args")
        if not isinstance(value, dict) or name not in value:
            break
        value = value[name]
        path.append(name)
    return path, value


def _annotation(path: list[str], config: Config) -> Any:
    """Annotation of the argument at a path; ``Parameter.empty`` if it is none of a class, or not annotated."""
    if len(path) < 3 or path[-2] != "init_args":
        return inspect.Parameter.empty
    node: Any = config
    for name in path[:-2]:
        node = node[name]
    target = resolve(node["class_path"], key=".".join(path[:-2]))[1]
    try:
        hints = get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # names that are there for type checkers alone
        return inspect.Parameter.empty
    return hints.get(path[-1], inspect.Parameter.empty)


def in_words(annotation: Any) -> str:
    """What a value of a type is called in a config.

    Args:
        annotation: a type, as ``typing.get_type_hints`` gives it.

    Example:
        >>> from torch import nn
        >>> in_words(Collection[int]), in_words(float | None), in_words(Callable[[], nn.Module] | None)
        ('a list of int', 'float or null', 'a function or class that gives a Module, or null')
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    match origin:
        case _ if origin in (Union, UnionType):
            # No config holds a tensor.
            kinds = [in_words(kind) for kind in arguments if kind is not Tensor] or ["a Tensor"]
            return (", or " if any(" that " in kind for kind in kinds[:-1]) else " or ").join(kinds)
        case _ if annotation in (None, type(None)):
            return "null"
        case _ if annotation is Any:
            return "a value"
        case _ if annotation is Callable or origin is Callable:
            made = arguments[-1] if arguments else Any
            return f"a function or class that gives {in_words(made)}"
        case _ if _is(origin, Mapping):
            return f"a mapping of {' to '.join(map(in_words, arguments))}"
        case _ if _is(origin, Collection):
            kinds = [in_words(kind) for kind in arguments if kind is not ...]
            return f"a list of {' and '.join(dict.fromkeys(kinds))}"
    if annotation in (int, float, str, bool):
        return str(annotation.__name__)
    if inspect.isclass(annotation) and origin is None:
        return _article(annotation.__name__)
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(annotation))


def _is(origin: Any, kind: Any) -> bool:
    return inspect.isclass(origin) and issubclass(origin, kind)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _said(text: str) -> str:
    """The types that the parser asks for, or else its last words, from their first word on."""
    types = [(a or b).replace("NoneType", "null").replace("typing.", "") for a, b in _WANTED.findall(text)]
    if types:
        return " or ".join(dict.fromkeys(types))
    reason = re.split(r"callable class: |Parser key \"[^\"]+\":|Problem with given class_path '[^']+':", text)
    return textwrap.shorten(reason[-1].partition(". Got value")[0], _LONGEST, placeholder=" ...")
