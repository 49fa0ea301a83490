"""A config made into objects, with every error named by its key."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import Tensor

from pyro_dgm.data import Dataset
from pyro_dgm.errors import Fault, InvalidInput
from pyro_dgm.evaluation.ledger import Published
from pyro_dgm.experiment.class_names import check_config, check_keys, class_nodes, resolve
from pyro_dgm.experiment.config import Config, normalize, parse_yaml
from pyro_dgm.experiment.mismatch import mismatch
from pyro_dgm.program import Program

# A section that is a function's keyword arguments: the function, and its arguments that are no plain values.
Functions = Mapping[str, tuple[Callable[..., Any], frozenset[str]]]

_TYPES = {
    "program": Program,
    "objective": Callable,
    "optimizer": Callable[[Iterable[Tensor]], torch.optim.Optimizer] | None,
    "scheduler": Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None,
    "data": Dataset,
    "published": Published | None,
}


def build(
    config: Config, functions: Functions, *, sections: Iterable[str] | None = None
) -> tuple[Namespace, Config]:
    """Objects of a config, and the config with every value filled in.

    The data come first. Their shape, number of classes and size go to those arguments of the program that are
    called ``data_shape``, ``data_dim``, ``num_classes`` and ``num_data``; the config that is returned holds them,
    so that the program can be made again without the data. (The parser's own links are not in what it writes.)

    Args:
        config: plain data, as of ``config.read_config``.
        functions: for ``training`` and ``evaluation``, the function whose arguments the section holds.
        sections: the sections to make; all by default.

    Raises:
        InvalidInput: an unknown key or class, a wrong value, or whatever a constructor refuses.
    """
    config = normalize(config)
    check_config(config)
    for section, (function, others) in functions.items():
        check_keys(config.get(section) or {}, _plain_arguments(function, others), key=section)
    wanted = [name for name in (*_TYPES, *functions) if sections is None or name in sections]
    objects, resolved = Namespace(), dict(config)
    if "data" in wanted:
        objects, resolved["data"] = _make(config, ["data"], functions)
        if "program" in wanted:
            config["program"] = _linked(config["program"], objects.data)
    rest = [name for name in wanted if name != "data"]
    made, values = _make(config, rest, functions)
    objects.update(made)
    return objects, {**resolved, **(values if rest else {})}


def _plain_arguments(function: Callable[..., Any], others: frozenset[str]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in others]


def _make(config: Config, sections: list[str], functions: Functions) -> tuple[Namespace, Any]:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, default_env=False)
    for section in sections:
        if section in functions:
            function, others = functions[section]
            parser.add_function_arguments(function, section, skip=set(others))
        else:
            parser.add_argument(f"--{section}", type=_TYPES[section])
    given = {section: config[section] for section in sections if config.get(section) is not None}
    with naming(config):
        namespace = parser.parse_object(given)
        text = parser.dump(namespace, skip_unset=False)
        objects = parser.instantiate(namespace, instantiators=[(_construct, object, True)])
    values = parse_yaml(text, where="the resolved config")
    return objects, values if len(sections) > 1 else values[sections[0]]


def _linked(program: Config, data: Dataset) -> Config:
    shape = list(data.data_shape)
    facts = {
        "data_shape": shape,
        "data_dim": math.prod(shape),
        "num_classes": data.num_classes,
        "num_data": len(data.train),
    }
    takes = inspect.signature(resolve(program["class_path"], key="program.class_path")[1]).parameters
    linked = {name: value for name, value in facts.items() if name in takes and value is not None}
    given = program.get("init_args") or {}
    for name in ("data_shape", "data_dim"):
        if name in given and name in linked and given[name] != linked[name]:
            key = f"program.init_args.{name}"
            raise InvalidInput(
                "not what the data have",
                where=key,
                value=given[name],
                expected=str(linked[name]),
                cure="no value, for that",
            )
    return {"class_path": program["class_path"], "init_args": {**linked, **given}}


class _ConstructorError(BaseException):
    """What a class or a factory raised; the parser would take any Exception for a mismatch of types."""

    def __init__(self, cls: type, arguments: dict[str, Any]) -> None:
        super().__init__(cls, arguments)
        self.cls, self.arguments = cls, arguments


def _construct(cls: type, *args: Any, **kwargs: Any) -> Any:
    try:
        return cls(*args, **kwargs)
    except (_ConstructorError, OSError, MemoryError):
        raise
    except Exception as error:
        raise _ConstructorError(cls, kwargs) from error


@contextmanager
def naming(config: Config) -> Iterator[None]:
    """Names the key of a config that an error of a constructor or of the parser is about."""
    try:
        yield
    except _ConstructorError as error:
        key = f"{_key_of(error, config)}.init_args"
        raise _named(error.__cause__, key) from error.__cause__
    except Fault as fault:  # of a function, which the parser calls itself: instantiators are for classes
        maker = _key_of_maker(fault, config)
        raise (_named(fault, f"{maker}.init_args") if maker else fault) from fault.__cause__
    except (ArgumentError, TypeError, ValueError) as error:
        raise mismatch(str(error), config) from error


def _key_of(error: _ConstructorError, config: Config) -> str:
    """Key of the node that was being made: one of its class, with its plain values."""
    nodes = [
        (key, node)
        for key, node in class_nodes(config)
        if resolve(node["class_path"], key=key)[1] is error.cls
    ]
    for key, node in nodes:
        given = node.get("init_args") or {}
        if all(
            error.arguments.get(name) == value for name, value in given.items() if not isinstance(value, dict)
        ):
            return key
    return nodes[0][0] if nodes else error.cls.__name__


def _key_of_maker(fault: Fault, config: Config) -> str | None:
    """Key of the function's node that takes the argument which is at fault."""
    for key, node in class_nodes(config):
        target = resolve(node["class_path"], key=key)[1]
        if inspect.isfunction(target) and fault.where in inspect.signature(target).parameters:
            return key
    return None


def _named(error: BaseException | None, key: str) -> Fault:
    try:
        raise error or RuntimeError("no cause")
    except Fault as fault:
        where = f"{key}.{fault.where}" if fault.where.isidentifier() else f"{key} ({fault.where})"
        where = where if fault.where else key
        return type(fault)(
            fault.what, where=where, value=fault.value, expected=fault.expected, cure=fault.cure
        )
    except Exception as other:
        return InvalidInput("refused", where=key, value=f"{type(other).__name__}: {other}")
