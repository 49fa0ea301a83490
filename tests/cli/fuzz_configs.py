"""Broken configs for the fuzzing of the command line."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from pyro_dgm.experiment.class_names import class_nodes, resolve
from pyro_dgm.experiment.estimate import FUNCTIONS

Draw = Callable[[Any], Any]
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def spaced(words: str) -> list[str]:
    return words.split()


# Between a thousand and ten trillion lies what a machine can really begin to do.
INTEGERS = [0, 1, -1, 2, 3, 7, 1000, 10**13, 2**63, -(2**63), 10**30]
FLOATS = [0.5, -0.0, 1e-300, 1e300, 1e-3, float("nan"), float("inf"), float("-inf")]
ODD = [
    None, True, False, "", " ", "a", "0", "1e5", "null", "é ☃ \u202e", "\t", "a.b", "../..", "-",
    "{}", "%s",
]  # fmt: skip
ODD += ["x" * 3000, "\U0001f600", "None", "lambda: 0", "__class__", "torch", "cpu"]
SHAPES = [
    [], {}, [1], [0], [-1], [8, 8], [[]], [None], ["a"], {"a": 1}, [1, 8, 8], [10**13], [3, [3]],
    {"": {}},
]  # fmt: skip
CLASSES = spaced("""
    VAE PPCA ELBO IWAE PyroELBO Digits Moons Rings Pinwheel GaussianRing Arrays StandardNormal
    DiagonalNormal MLP ConvEncoder NormalObservation BernoulliObservation Adam SGD LBFGS SparseAdam
    StepLR LambdaLR OneCycleLR Trace_ELBO ReduceLROnPlateau TraceMeanField_ELBO torch.nn.Tanh
    torch.nn.Linear torch.zeros torch.nn torch.nn.Module pyro_dgm.program.Program
    pyro_dgm.data.Dataset pyro_dgm.errors.Fault builtins.dict no.such.Thing pyro_dgm.nope.VAE VEA
    pyro_dgm.models. .VAE a..b Program Split HasPlayers Player
""")
KEYS = [
    *spaced("""
    class_path init_args program data training evaluation published run scheduler latent_dim hidden
    prior encoder posterior observation activation num_particles kl steps epochs batch_size seed
    precision ema early_stopping init_from lr sizes data_shape num_classes labels index fused é self
    args kwargs __init__
"""),
    "",
    "a b",
]
PIECES = {
    "StandardNormal": {"latent_dim": 2},
    "DiagonalNormal": {"in_features": 8, "latent_dim": 2},
    "MLP": {"in_features": 2, "hidden": [8], "out_shape": [2, 2]},
    "FlattenEvent": {"event_shape": [2]},
    "NormalObservation": {"data_shape": [2]},
    "BetaBinomialObservation": {"data_shape": [1, 8, 8], "levels": 2},
    "torch.nn.Identity": {},
    "torch.nn.Tanh": {},
    "torch.nn.Linear": {"in_features": 2, "out_features": 8},
    "torch.nn.LazyLinear": {"out_features": 8},
    "torch.nn.BatchNorm1d": {"num_features": 2},
    "Trace_ELBO": {},
    "TraceMeanField_ELBO": {},
    "TraceGraph_ELBO": {"num_particles": 2},
    "RenyiELBO": {"num_particles": 1},
}


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = {"class_path": value} if level % 3 == 0 else [value] if level % 3 == 1 else {"a": value}
    return value


def node(name: Any, **arguments: Any) -> dict[str, Any]:
    return {"class_path": name, "init_args": arguments} if arguments else {"class_path": name}


letters = st.characters(codec="utf-8")
integers = st.one_of(st.sampled_from(INTEGERS), st.integers(-3, 300))
floats = st.one_of(
    st.sampled_from(FLOATS), st.floats(-2, 100, allow_subnormal=False)
)  # fit flushes them to zero
pieces = st.builds(lambda item: node(item[0], **item[1]), st.sampled_from(list(PIECES.items())))
scalars = st.one_of(
    st.sampled_from([*INTEGERS, *FLOATS, *ODD]), st.integers(-1000, 1000), st.text(letters, max_size=8)
)
values = st.one_of(
    scalars,
    st.sampled_from(SHAPES),
    st.sampled_from(CLASSES),
    st.builds(node, st.sampled_from(CLASSES)),
    st.builds(
        lambda name, key, value: node(name, **{key: value}), *map(st.sampled_from, (CLASSES, KEYS, SHAPES))
    ),
    st.builds(nested, st.sampled_from([1, 2, 3, 5, 60])),
    st.lists(scalars, max_size=3),
)
keys = st.one_of(st.sampled_from(KEYS), st.text(letters, max_size=5))
# Values of about the right type, by a word of the annotation: these get past the parser.
TYPED: dict[str, Any] = {
    "Sequence": st.lists(integers, max_size=3),
    "Sizes": st.lists(integers, min_size=3, max_size=3),
    "Module": pieces,
    "ELBO": pieces,
    "int": integers,
    "float": floats,
    "bool": st.booleans(),
    "Literal": st.sampled_from(["analytic", "monte_carlo", "val", "test"]),
    "Precision": st.sampled_from(["float32", "float64", "bfloat16"]),
    "Binarize": st.sampled_from(["none", "static", "dynamic"]),
    "Source": st.sampled_from(["no.npz", "fuzz.yaml", ".", "", [[1, 2], [3, 4]]]),
    "str": st.sampled_from(["", "x", ".", "é", "auto", "cpu"]),
}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to everything inside a tree."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*at, key)
        yield from places(part, (*at, key))


def part_at(tree: Any, path: Any) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def set_argument(draw: Draw, tree: dict[str, Any]) -> None:
    """A value for an argument that is there: of a class, or of the training or the evaluation."""
    known: list[tuple[Any, inspect.Parameter]] = []
    for _, found in class_nodes(tree):
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            function = resolve(found["class_path"], key="")[1]
            arguments = found.setdefault("init_args", {})
            known += [(arguments, parameter) for parameter in inspect.signature(function).parameters.values()]
    for section, (function, others) in FUNCTIONS.items():
        parameters = inspect.signature(function).parameters.values()
        known += [(tree.get(section), parameter) for parameter in parameters if parameter.name not in others]
    known = [(arguments, parameter) for arguments, parameter in known if isinstance(arguments, dict)]
    if known:
        arguments, parameter = draw(st.sampled_from(known))
        typed = [strategy for word, strategy in TYPED.items() if word in str(parameter.annotation)]
        arguments[parameter.name] = copy.deepcopy(
            draw(draw(st.sampled_from([*typed, *typed, *typed, values])))
        )


def mutate(draw: Draw, tree: dict[str, Any]) -> None:
    """One change somewhere in a tree: a value, a key, a key more, one less, or a part of it elsewhere."""
    kinds = ["argument"] * 15 + ["replace"] * 3 + ["drop", "rename", "add", "graft", "near"]
    kind, paths = draw(st.sampled_from(kinds)), list(places(tree))
    if not paths or kind == "argument":
        set_argument(draw, tree)
        return
    *above, last = draw(st.sampled_from(paths))
    target = part_at(tree, above)
    if kind == "drop":
        del target[last]
    elif kind == "graft":
        target[last] = copy.deepcopy(part_at(tree, draw(st.sampled_from(paths))))
    elif isinstance(target, dict) and kind == "rename":
        target[draw(keys)] = target.pop(last)
    elif isinstance(target, dict) and kind == "near" and last:
        at = draw(st.integers(0, len(last) - 1))
        target[last[:at] + last[at + 1 :]] = target.pop(last)
    elif isinstance(target, dict) and kind == "add":
        target[draw(keys)] = copy.deepcopy(draw(values))
    else:
        target[last] = copy.deepcopy(draw(values))


def shorten(tree: dict[str, Any]) -> None:
    """Few particles, steps or layers for whoever runs them one after the other: asked for, they take their time."""
    draws_in_steps = False
    for _, found in class_nodes(tree.get("program")):
        arguments = found.get("init_args")
        most = {"num_steps": 20, "num_blocks": 20, "num_layers": 20}
        if "DRAW" in str(found["class_path"]):  # twenty take two seconds on a core whose neighbours are busy
            draws_in_steps, most["num_steps"] = True, 10
        if "PixelRNN" in str(found["class_path"]):  # row after row in each layer
            most |= {"num_layers": 2, "hidden": 32}
        for name, limit in most.items():
            number = arguments.get(name) if isinstance(arguments, dict) else None
            # More are refused, which must not take long.
            if isinstance(number, int) and limit < number <= 1000:
                arguments[name] = limit
    several = draws_in_steps or len(list(class_nodes(tree.get("program")))) > 1
    for _, found in class_nodes(tree.get("objective")):
        arguments = found.get("init_args")
        is_pyro = "_ELBO" in str(found["class_path"]) or "Renyi" in str(found["class_path"])
        if (
            isinstance(arguments, dict)
            and isinstance(arguments.get("num_particles"), int)
            and (several or is_pyro)
        ):
            arguments["num_particles"] = min(arguments["num_particles"], 20)


SCRIBBLES = "&a |*a|!!set |!!python/name:os.system |<<: |\x00|\ufeff|\r|\t|\u2028|[|{|}|:|- |? |>|%|@|`|'|\"|#|---\n|é"


def scribble(draw: Draw, text: str) -> str:
    """One change of the letters: cut, put in, or a line twice."""
    at = draw(st.integers(0, len(text)))
    lines = text.splitlines(keepends=True) or [""]
    row = draw(st.integers(0, len(lines) - 1))
    changed = {
        "cut": text[:at],
        "delete": text[:at] + text[at + draw(st.integers(1, 5)) :],
        "insert": text[:at] + draw(st.sampled_from(SCRIBBLES.split("|"))) + text[at:],
        "line": "".join([*lines[:row], lines[row], *lines[row:]]),
        "indent": "".join([*lines[:row], draw(st.sampled_from([" ", "  ", "\t"])), *lines[row:]]),
    }
    return changed[draw(st.sampled_from(list(changed)))]


def seeds() -> list[dict[str, Any]]:
    """Shipped configs, on data that need no download, and small ones with more in them."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(CONFIGS.glob("*.yaml"))}
    for name, config in found.items():
        if "mnist" in name or "debd" in name:
            config["data"] = node("pyro_dgm.data.Digits", binarize="static")
        if "fsdd" in name:
            config["data"] = node("pyro_dgm.data.Tones", length=256)
        if "sizes" in inspect.signature(resolve(config["data"]["class_path"], key="")[1]).parameters:
            config["data"].setdefault("init_args", {})["sizes"] = [100, 10, 10]
    posterior = node("DiagonalNormal", in_features=8, latent_dim=2)
    observation = node("NormalObservation", data_shape=[2], heteroscedastic=True)
    small = {
        "program": node("VAE", latent_dim=2, hidden=[8], posterior=posterior, observation=observation),
        "objective": node("PyroELBO", elbo=node("Trace_ELBO")),
        "data": node("Moons", sizes=[40, 10, 10], noise=0.1, labels=False),
        "optimizer": "SGD",
        "training": {"steps": 2, "batch_size": 8, "precision": "float64", "clip_norm": 1.0, "seed": 3},
        "evaluation": {"num_particles": 3, "split": "val", "num_data": 5},
    }
    return [*found.values(), small, {**small, "objective": node("IWAE", num_particles=3)}]


SEEDS = seeds()


@st.composite
def configs(draw: Draw) -> bytes:
    """A config file with a few mutations of its tree, of its letters, or both."""
    tree = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 2, 3, 4, 0]))):
        mutate(draw, tree)
    shorten(tree)
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    for _ in range(draw(st.sampled_from([0] * 12 + [1, 2]))):
        text = scribble(draw, text)
    raw = text.encode()
    return draw(st.sampled_from([raw] * 60 + [raw + b"\xff"]))
