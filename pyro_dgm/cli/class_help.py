"""Help on what a config can hold: the classes that fit a section, and their arguments, from their docstrings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch
import yaml
from docstring_parser.common import Docstring
from docstring_parser.google import DEFAULT_SECTIONS, GoogleParser, Section, SectionType
from torch import nn

from pyro_dgm.cli.plain_text import first_sentence, inline, plain, wrap
from pyro_dgm.data import Dataset
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.ledger import Published
from pyro_dgm.experiment.class_names import resolve, suggest
from pyro_dgm.experiment.config import OBJECTS
from pyro_dgm.experiment.estimate import FUNCTIONS
from pyro_dgm.experiment.rehearsal import needs_closure
from pyro_dgm.objectives.player import HasPlayers
from pyro_dgm.program import Program

_DATA_ARGUMENTS = ("data_shape", "data_dim", "num_classes", "num_data")  # what ``build`` takes from the data
# What a required argument could be, by its annotation.
_EXAMPLES: dict[str, Any] = {
    "int": 8,
    "float": 0.1,
    "bool": False,
    "str": "name",
    "Sequence[int]": [8, 8],
    "list[int]": [8, 8],
    "list[float]": [0.1, 0.1],
    "Source": "data.npz",
    "type[torch.distributions.Distribution]": "pyro.distributions.Weibull",
    "pyro.infer.ELBO": {"class_path": "pyro.infer.Trace_ELBO"},
    "Bijection": {"class_path": "pyro_dgm.distributions.transforms.Planar", "init_args": {"features": 2}},
    "nn.Module": {"class_path": "pyro_dgm.distributions.StandardNormal", "init_args": {"latent_dim": 8}},
}
# The same by name, of an argument or of one of a class, where sizes alone would be no example.
_NAMED: dict[str, Any] = {
    "data_shape": [1, 8, 8],
    "out_shape": [1, 1, 8, 8],
    "kernel_size": 3,
    "BayesianNetwork.cardinalities": {"rain": 2, "sprinkler": 2, "wet": 2},
    "BayesianNetwork.parents": {"sprinkler": ["rain"], "wet": ["rain", "sprinkler"]},
    "DEBD.name": "dna",
    "HierarchicalPixelVAE.latent_shapes": [[2, 4, 4], [8]],
    "WaveNetStack.data_shape": [256],
}
_LENGTH = {"training": {"epochs": 100}}  # fit wants one of two arguments, neither of which is required


def _is_program(cls: type) -> bool:
    return issubclass(cls, Program) and cls is not Program


def _is_objective(cls: type) -> bool:
    call = inspect.getattr_static(cls, "forward" if issubclass(cls, nn.Module) else "__call__", None)
    takes = list(inspect.signature(call).parameters)[1:2] if inspect.isfunction(call) else []
    fits = takes == ["model"] or inspect.isfunction(getattr(cls, "players", None))
    # A function cannot be written in a config.
    return fits and cls is not HasPlayers and "log_density" not in inspect.signature(cls).parameters


def _is_optimizer(cls: type) -> bool:
    base = torch.optim.Optimizer
    return issubclass(cls, base) and cls is not base and not needs_closure(cls)


def _is_scheduler(cls: type) -> bool:
    # Those that take functions or other schedulers cannot be written in a config.
    base = torch.optim.lr_scheduler.LRScheduler
    takes = {"lr_lambda", "schedulers"} & inspect.signature(cls).parameters.keys()
    return issubclass(cls, base) and cls.__name__.strip("_") != base.__name__ and not takes


def _is_piece(cls: type) -> bool:
    if not issubclass(cls, nn.Module):
        return False
    arguments = inspect.signature(cls).parameters.values()
    return not any(
        a.default is a.empty and a.annotation == "Tensor" for a in arguments
    )  # no config has tensors


_FITS: dict[str, tuple[tuple[str, ...], Callable[[type], bool]]] = {
    "program": (("pyro_dgm.models",), _is_program),
    "objective": (("pyro_dgm.objectives",), _is_objective),
    "optimizer": (("torch.optim",), _is_optimizer),
    "scheduler": (("torch.optim.lr_scheduler",), _is_scheduler),
    "data": (("pyro_dgm.data",), lambda cls: issubclass(cls, Dataset)),
}
_PIECES = (("pyro_dgm.distributions", "pyro_dgm.nets"), _is_piece)
_FUNCTIONS: Mapping[str, tuple[Callable[..., Any], frozenset[str]]] = {
    **FUNCTIONS,
    "published": (Published, frozenset()),
}
# Arguments that training gives, not the config.
_GIVEN = {"optimizer": {"params"}, "scheduler": {"optimizer"}}


def class_help(key: str, class_name: str | None = None) -> str:
    """Help on a section of a config, on an argument that is a module, or on a class that can stand there.

    Args:
        key: a section, or the dotted key of an argument, as ``program.prior``.
        class_name: the class; without it, the list of those that fit.

    Raises:
        InvalidInput: no such section or class, with the nearest.

    Example:
        >>> print(class_help("program").splitlines()[0])
        Classes for program:
    """
    path = [part for part in key.split(".") if part != "init_args"]
    known = (*OBJECTS, *_FUNCTIONS)
    if path[0] not in known or (len(path) > 1 and path[0] in _FUNCTIONS):
        raise InvalidInput("unknown key", where=key, cure=suggest(path[0], known))
    if path[0] in _FUNCTIONS:
        return _help_on(path, *_FUNCTIONS[path[0]])
    if class_name is None:
        return _list(".".join(path), fitting(key))
    name, target = resolve(class_name, key=key)
    return _help_on(path, target, frozenset(_GIVEN.get(key, ())), name)


def fitting(key: str) -> dict[str, Callable[..., Any]]:
    """Classes that fit a key of a config, and functions that make one, by full name.

    Args:
        key: a section, or the dotted key of an argument: those are modules of ours.
    """
    modules, fits = _FITS.get(key, _PIECES)
    found = {}
    for name in modules:
        module = importlib.import_module(name)
        for member in getattr(module, "__all__", ()):
            target = getattr(module, member)
            cls = get_type_hints(target).get("return") if inspect.isfunction(target) else target
            if isinstance(cls, type) and not inspect.isabstract(cls) and fits(cls):
                found[f"{name}.{member}"] = target
    return found


def _list(key: str, classes: Mapping[str, Callable[..., Any]]) -> str:
    lines = [f"Classes for {key}:", ""]
    for name, cls in classes.items():
        lines += [f"  {name}", wrap(first_sentence(inspect.getdoc(cls) or ""), indent=6)]
    example = next(iter(classes)).rpartition(".")[2]
    lines += ["", f"--{key}.help={example} explains one of them and its arguments."]
    lines += ["A class of your own, in a file beside the config, goes by its full name: my_file.MyClass."]
    return "\n".join(lines)


def _help_on(path: list[str], target: Any, given: frozenset[str], name: str = "") -> str:
    text = inspect.getdoc(target) or ""
    document = _parse(text)
    described = {parameter.arg_name: parameter.description or "" for parameter in document.params}
    arguments = [
        parameter
        for parameter in inspect.signature(target).parameters.values()
        if parameter.name not in given
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    from_data = _DATA_ARGUMENTS if path == ["program"] else ()
    parts = [f"{name}\n" if name else "", plain(_description(text)), "", "Arguments:"]
    for argument in arguments:
        kind = _kind(argument.annotation, inspect.getmodule(target))
        parts.append(wrap(_declared(argument, kind, argument.name in from_data), indent=2, hang=6))
        if about := inline(described.get(argument.name, "")):
            parts.append(wrap(about, indent=6))
    if not arguments:
        parts.append("  none")
    if references := list(_references(document)):
        parts += ["", "Reference:", *references]
    shown = [argument for argument in arguments if argument.name not in from_data]
    return "\n".join([*parts, "", "In a config:", "", *_example(path, name, shown)]).strip()


def _parse(text: str) -> Docstring:
    sections = [*DEFAULT_SECTIONS, Section("Reference", "reference", SectionType.SINGULAR)]
    return GoogleParser(sections=sections).parse(text)


def _description(text: str) -> str:
    """What stands above the first section of a docstring; the parser would tear formulas apart."""
    titles = {f"{section.title}:" for section in DEFAULT_SECTIONS} | {"Reference:", "Note:", ".. note::"}
    lines = text.splitlines()
    end = next((at for at, line in enumerate(lines) if line in titles), len(lines))
    return "\n".join(lines[:end])


def _references(document: Docstring) -> Iterator[str]:
    for meta in document.meta:
        if meta.args == ["reference"] and meta.description:
            yield wrap(inline(meta.description), indent=2)


def _kind(annotation: Any, module: Any) -> str:
    """Annotation as it is written; the alias of a choice is spelled out."""
    if annotation is inspect.Parameter.empty:
        return ""
    choices = vars(module).get(annotation) if isinstance(annotation, str) else annotation
    if get_origin(choices) is Literal:
        return f": {' | '.join(map(repr, get_args(choices)))}"
    return f": {annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)}"


def _declared(argument: inspect.Parameter, kind: str, from_data: bool) -> str:
    if from_data:
        return f"{argument.name}{kind} (from the data)"
    if argument.default is argument.empty:
        return f"{argument.name}{kind} (required)"
    value = argument.default
    return f"{argument.name}{kind} = {value.__name__ if callable(value) else repr(value)}"


def _example(path: list[str], name: str, arguments: Iterable[inspect.Parameter]) -> Iterator[str]:
    """Lines of YAML: required arguments with a value that could be, the others behind a comment sign."""
    section, *nested = path
    keys = [section, *(part for key in nested for part in ("init_args", key))]
    for depth, key in enumerate(keys):
        yield f"{'  ' * depth}{key}:"
    space = "  " * len(keys)
    if name:
        yield f"{space}class_path: {name}"
        arguments = list(arguments)
        required = any(argument.default is argument.empty for argument in arguments)
        if arguments:
            yield f"{space}{'' if required else '# '}init_args:"
        space += "  "
    for argument in arguments:
        chosen = _LENGTH.get(section, {}).get(argument.name)
        if argument.default is argument.empty or chosen is not None:
            special = _NAMED.get(f"{name.rpartition('.')[2]}.{argument.name}")
            named = special or _NAMED.get(argument.name) or _possible(argument.annotation)
            value = named if chosen is None else chosen
            yield space + _yaml(argument.name, value)
        else:
            yield f"{space}# {_yaml(argument.name, _writable(argument.default))}"


def _possible(annotation: Any) -> Any:
    kinds = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return next((_EXAMPLES[kind] for kind in kinds.split(" | ") if kind in _EXAMPLES), None)


def _writable(value: Any) -> Any:
    match value:
        case None | bool() | int() | float() | str():
            return value
        case tuple() | list():
            return [_writable(part) for part in value]
    return getattr(value, "__name__", None)


def _yaml(name: str, value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, default_flow_style=True, width=10**6)
    return f"{name}: {text.removesuffix('...' + chr(10)).strip()}"
