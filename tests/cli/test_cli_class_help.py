"""Help that teaches: every class has a sentence, every argument its text, and every example is a config."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
import torch

from pyro_dgm.cli.class_help import class_help, fitting
from pyro_dgm.cli.plain_text import WIDTH, first_sentence, formula, plain
from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment.build import build
from pyro_dgm.experiment.class_names import check_config
from pyro_dgm.experiment.config import OBJECTS, parse_yaml
from pyro_dgm.experiment.estimate import FUNCTIONS

SECTIONS = {key: fitting(key) for key in OBJECTS}
PIECES = fitting("program.prior")
CLASSES = [(key, name) for key, classes in SECTIONS.items() for name in classes]
OURS = [(key, name) for key, name in CLASSES if name.startswith("pyro_dgm.")]
BASE = """
program: {class_path: pyro_dgm.models.VAE, init_args: {latent_dim: 2, hidden: [8]}}
objective: pyro_dgm.objectives.ELBO
data: pyro_dgm.data.Digits
training: {epochs: 1}
"""
# Nothing is downloaded here, and there is no file data.npz.
UNBUILT = {
    "pyro_dgm.data.MNIST",
    "pyro_dgm.data.FashionMNIST",
    "pyro_dgm.data.BinarizedMNIST",
    "pyro_dgm.data.Arrays",
    "pyro_dgm.data.BSDS300",
    "pyro_dgm.data.DEBD",
    "pyro_dgm.data.MiniBooNE",
    "pyro_dgm.data.ImageFolder",
    "pyro_dgm.data.SpokenDigits",
}
# They take pieces of a program, and a class, which a config makes of names.
MADE_BY_CONFIGS = {f"pyro_dgm.distributions.{name}" for name in ("VampPrior", "Amortized", "FlowPosterior")}


def example(text: str) -> str:
    return text.partition("In a config:\n")[2]


def with_base(section: str, values: dict[str, Any]) -> dict[str, Any]:
    base = parse_yaml(BASE, where="a test")
    base = {key: {"class_path": value} if isinstance(value, str) else value for key, value in base.items()}
    return {**base, section: values[section]}


@pytest.mark.parametrize("key", SECTIONS)
def test_every_class_of_a_section_is_listed_with_a_sentence(key: str) -> None:
    text = class_help(key)
    assert SECTIONS[key]
    for name, cls in SECTIONS[key].items():
        sentence = first_sentence(inspect.getdoc(cls) or "")
        assert sentence.endswith("."), name
        assert name in text and sentence in " ".join(text.split())
    assert f"--{key}.help=" in text


def test_the_lists_hold_what_fits_and_nothing_else() -> None:
    names = {key: {name.rpartition(".")[2] for name in classes} for key, classes in SECTIONS.items()}
    assert {"VAE", "PPCA", "conv_vae"} <= names["program"] and "Program" not in names["program"]
    assert {"ELBO", "IWAE", "PyroELBO"} <= names["objective"]
    assert not {"HasPlayers", "Player", "ReverseKL", "log_weights"} & names["objective"]
    assert {"Adam", "SGD"} <= names["optimizer"] and not {"Optimizer", "LBFGS"} & names["optimizer"]
    assert "CosineAnnealingLR" in names["scheduler"] and "LambdaLR" not in names["scheduler"]
    assert {"Digits", "Arrays"} <= names["data"] and not {"Dataset", "Split"} & names["data"]
    assert {"pyro_dgm.distributions.StandardNormal", "pyro_dgm.nets.MLP"} <= PIECES.keys()
    assert "pyro_dgm.nets.MaskedConv2d" not in PIECES  # it takes tensors


@pytest.mark.parametrize(("key", "name"), [*CLASSES, *(("program.prior", name) for name in PIECES)])
def test_the_help_on_a_class_fits_a_terminal_and_tells_every_argument(key: str, name: str) -> None:
    text = class_help(key, name)
    cls = {**SECTIONS.get(key, {}), **PIECES}[name]
    given = {"optimizer": ["params"], "scheduler": ["optimizer"]}.get(key, [])
    arguments = text.partition("Arguments:\n")[2].partition("\nIn a config:")[0]
    for argument in inspect.signature(cls).parameters.values():
        if argument.name not in given and argument.kind is not argument.VAR_KEYWORD:
            assert re.search(rf"^  {argument.name}\b", arguments, re.MULTILINE)
    described = arguments.partition("\nReference:")[0]
    if name.startswith("pyro_dgm."):  # torch leaves some arguments without a word
        assert not re.search(r"^  \w.*\n(?=  \w)", described, re.MULTILINE), "an argument without text"
        assert max(map(len, text.splitlines())) <= WIDTH
        assert not re.search(r":math:|:class:|\.\. math|\\[a-z]|``", text)
    assert text.startswith(f"{name}\n\n")


@pytest.mark.parametrize(("key", "name"), CLASSES)
def test_the_example_of_a_class_is_a_config(key: str, name: str) -> None:
    text = example(class_help(key, name))
    values = parse_yaml(text, where="a test")
    assert values[key]["class_path"] == name
    check_config(with_base(key, values))
    # What stands behind a comment sign is YAML too, and names arguments.
    open_text = re.sub(r"^( *)# ", r"\1", text, flags=re.MULTILINE)
    check_config(with_base(key, parse_yaml(open_text, where="a test")))


@pytest.mark.parametrize(("key", "name"), [pair for pair in OURS if pair[1] not in UNBUILT])
def test_the_example_of_a_class_of_ours_can_be_built(key: str, name: str) -> None:
    config = with_base(key, parse_yaml(example(class_help(key, name)), where="a test"))
    if name == "pyro_dgm.models.CVAE":
        config["data"]["init_args"] = {"labels": True}  # from which it takes the number of classes
    if name == "pyro_dgm.models.WaveNet":
        config["data"] = {"class_path": "pyro_dgm.data.Tones", "init_args": {"length": 16}}
    objects, _ = build(config, FUNCTIONS, sections=["program", "objective", "data"])
    assert f"{type(objects[key]).__module__}.".startswith(name.rpartition(".")[0])


@pytest.mark.parametrize("name", sorted(PIECES.keys() - MADE_BY_CONFIGS))
def test_the_example_of_a_piece_can_be_built_and_nested(name: str) -> None:
    values = parse_yaml(example(class_help("program.init_args.prior", name)), where="a test")
    piece = values["program"]["init_args"]["prior"]
    assert isinstance(PIECES[name](**piece.get("init_args", {})), torch.nn.Module)
    assert class_help("program.prior", name) == class_help("program.init_args.prior", name)


def test_the_example_of_a_piece_that_takes_a_class_can_be_built_in_a_config() -> None:
    posterior = parse_yaml(
        example(class_help("program.posterior", "Amortized")).replace("in_features: 8", "in_features: 20"),
        where="a test",
    )
    posterior["program"] |= {"class_path": "VAE"}
    posterior["program"]["init_args"] |= {"latent_dim": 8, "hidden": [20]}
    config = with_base("program", posterior)
    objects, _ = build(config, FUNCTIONS, sections=["program", "data"])
    assert type(objects.program.encode(torch.zeros(2, 1, 8, 8)).base_dist).__name__ == "Weibull"


@pytest.mark.parametrize("key", [*FUNCTIONS, "published"])
def test_a_section_of_plain_values_is_explained(key: str) -> None:
    text = class_help(key)
    values = parse_yaml(re.sub(r"^( *)# ", r"\1", example(text), flags=re.MULTILINE), where="a test")
    if key in FUNCTIONS:
        function, others = FUNCTIONS[key]
        assert values[key].keys() == inspect.signature(function).parameters.keys() - others
        assert not any(re.search(rf"^  {name}\b", text, re.MULTILINE) for name in others)
    else:
        assert values[key].keys() == {"nats", "source"}
    objects, _ = build(with_base(key, values), FUNCTIONS, sections=[key])
    assert objects[key] is not None


def test_choices_defaults_and_what_the_data_give_are_told() -> None:
    vae, training = class_help("program", "VAE"), class_help("training")
    assert "data_shape: Sequence[int] (from the data)" in vae and "data_shape" not in example(vae)
    assert "latent_dim: int (required)" in vae and "hidden: Sequence[int] = (200, 200)" in vae
    assert "'float32' | 'float64' | 'bfloat16' = 'float32'" in training
    assert "z ~ p(z), x | z ~ p(x | decoder(z))" in vae and "Kingma and Welling" in vae
    assert class_help("program", "VAE") == class_help("program", "pyro_dgm.models.VAE")


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("program", "VEA", "try pyro_dgm.models.VAE"),
        ("objectiv", None, "unknown key in objectiv; try objective"),
        ("training.epochs", None, "unknown key"),
        ("", None, "unknown key"),
        ("objective", "", "unknown class"),
    ],
)
def test_what_there_is_not_is_named_with_the_nearest(key: str, name: str | None, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        class_help(key, name)


@pytest.mark.parametrize(
    ("latex", "letters"),
    [
        (r"\frac{a_1}{b + c}", "(a_1)/(b + c)"),
        (r"\frac12", "1/2"),
        (r"\mathbb{E}_{q(z \mid x)} [\log p]", "E_{q(z | x)} [log p]"),
        (r"x \sim \mathcal N(\mu, \sigma^2)", "x ~ N(μ, σ^2)"),
        (r"\bar\theta_t = \eta_{\min}", "θ_t = η_min"),
    ],
)
def test_formulas_are_written_in_letters(latex: str, letters: str) -> None:
    assert formula(latex) == letters


def test_markup_goes_and_paragraphs_stay() -> None:
    text = (
        "A :class:`~torch.Tensor` of ``x``.\n\n.. math:: \\sum_i x_i\n\nMore\nof it.\n\n.. _link: https://x\n"
    )
    assert plain(text) == "A torch.Tensor of x.\n\n    Σ_i x_i\n\nMore of it."
