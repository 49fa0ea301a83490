"""A config as plain data: read within bounds of time and memory, and overridden.

``class_names.py`` checks the names in it and ``build.py`` makes it into objects.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any

import yaml

from pyro_dgm.errors import InvalidInput

Config = dict[str, Any]

OBJECTS = ("program", "objective", "optimizer", "scheduler", "data")
SECTIONS = (*OBJECTS, "training", "evaluation", "published", "run")
REQUIRED = ("program", "objective", "data")
MAX_BYTES = 1 << 16  # the parser takes about 10 us a byte
MAX_DEPTH = 30
NODE_KEYS = ("class_path", "init_args")


def _problem(text: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=at.start_mark)


class _Loader(yaml.SafeLoader):
    """Plain data only: no aliases (a few lines of them can stand for gigabytes), no key twice."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _problem("an alias, which configs do not have", self.peek_event())
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _problem(f"nesting deeper than {MAX_DEPTH}", self.peek_event())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not (key.tag == "tag:yaml.org,2002:str" and isinstance(key, yaml.ScalarNode)):
                raise _problem("a key that is no string", key)
            if key.value in seen:
                raise _problem(f"key {key.value!r} twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


def _refuse(loader: _Loader, node: yaml.Node) -> Any:
    raise _problem(f"the tag {node.tag}, which is no plain data", node)


# YAML 1.1 reads 1e-3 as a string and 2024-01-01 as a date; a config means the number and the string.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":merge", ":value"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
_Loader.yaml_constructors = {
    tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is not None and tag.rsplit(":")[-1] in ("null", "bool", "int", "float", "str", "seq", "map")
}  # fmt: skip
_Loader.add_constructor(None, _refuse)


def parse_yaml(text: str, *, where: str) -> Any:
    """Plain data that a YAML text stands for.

    Args:
        text: at most 64 KiB of YAML without aliases, tags and repeated keys.
        where: what to call the text in an error.

    Raises:
        InvalidInput: the text is longer, or no such YAML; with its line.

    Example:
        >>> parse_yaml("lr: 1e-3", where="a doctest")
        {'lr': 0.001}
    """
    if len(text) > MAX_BYTES:
        value = f"{len(text)} characters"
        raise InvalidInput("too long a config", where=where, value=value, expected=f"at most {MAX_BYTES}")
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader with less
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "it"
        value = f"{line} has {error.problem}"
        raise InvalidInput("bad YAML", where=where, value=value, expected="plain data") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInput("bad YAML", where=where, value=str(error)[:200], expected="plain data") from None


def read_config(path: Path) -> Config:
    """Config file as plain data.

    Raises:
        InvalidInput: no such file, or no mapping in it.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        cure = "a path to a YAML file, as configs/vae_digits.yaml"
        reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InvalidInput("cannot read the config", where=str(path), value=reason, cure=cure) from None
    config = parse_yaml(text, where=str(path))
    if not isinstance(config, dict):
        raise InvalidInput("no mapping", where=str(path), expected=f"the keys {', '.join(REQUIRED)}, ...")
    return config


def override(config: Config, changes: Iterable[tuple[str, str]]) -> Config:
    """Config with values replaced, each given as a dotted key and a YAML text.

    ``init_args`` may be left out of a key. A new ``class_path`` drops the arguments of the old class.

    Example:
        >>> config = {"program": {"class_path": "VAE", "init_args": {"latent_dim": 2}}}
        >>> override(config, [("program.latent_dim", "3")])["program"]["init_args"]
        {'latent_dim': 3}
    """
    config = normalize(config)
    for key, text in changes:
        *path, last = key.split(".")
        node = config
        for depth, part in enumerate([*path, last]):
            if "class_path" in node and part not in NODE_KEYS:
                node = node.setdefault("init_args", {})
            if depth < len(path):
                node = node.setdefault(part, {})
            if not isinstance(node, dict):
                expected = "a mapping, whose key can be set"
                raise InvalidInput(
                    "no mapping", where=".".join(path[: depth + 1]), value=node, expected=expected
                )
        if last == "class_path":
            node.clear()
        node[last] = parse_yaml(text, where=f"--{key}")
        config = normalize(config)
    return config


def normalize(config: Config) -> Config:
    """Copy of a config in which a section given by its class name alone is a mapping."""
    config = copy.deepcopy(config)
    for section in OBJECTS:
        if isinstance(config.get(section), str):
            config[section] = {"class_path": config[section]}
    return config


def config_hash(config: Config) -> str:
    """sha256 of a config as it was written and overridden: neither defaults nor the order of keys count."""
    return hashlib.sha256(json.dumps(normalize(config), sort_keys=True).encode()).hexdigest()
