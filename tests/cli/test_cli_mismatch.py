"""A wrong value in a config is one readable line: its key, the value, and what is expected, in words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import nn

from pyro_dgm.experiment.mismatch import in_words, mismatch

Fault = Callable[..., tuple[int, str]]
MODULE = "expected a function or class that gives a Module"
RNN = "--program={class_path: pyro_dgm.models.PixelRNN, init_args: {hidden: 4, num_layers: 1, layer: LAYER}}"
MLP = "--program.encoder={class_path: pyro_dgm.nets.MLP, init_args: {in_features: 2, hidden: [8], ARGUMENT}}"
LINES = {
    "no such activation": (
        "--program.activation=torch.nn.Foo",
        f"unknown class in program.init_args.activation: torch.nn.Foo; {MODULE}",
    ),
    "no such activation, in a piece": (
        MLP.replace("ARGUMENT", "out_shape: [2], activation: torch.nn.Foo"),
        f"unknown class in program.init_args.encoder.init_args.activation: torch.nn.Foo; {MODULE}",
    ),
    "a number": (
        "--program.activation=3",
        f"wrong value in program.init_args.activation: 3; {MODULE}",
    ),
    "a class of another kind": (
        RNN.replace("LAYER", "torch.nn.LSTM"),
        "wrong value in program.init_args.layer: torch.nn.LSTM; "
        "expected a function or class that gives an ImageLSTM",
    ),
    "a number for a list": (
        "--program.hidden=8",
        "wrong value in program.init_args.hidden: 8; expected a list of int",
    ),
    "a word in a list": (
        "--program.hidden=[8, a]",
        "wrong value in program.init_args.hidden: [8, 'a']; expected a list of int",
    ),
    "a number for a piece": (
        "--program.encoder=3",
        "wrong value in program.init_args.encoder: 3; expected a Module or null",
    ),
    "a word for a number": (
        "--optimizer.lr=a",
        "wrong value in optimizer.init_args.lr: a; expected float",
    ),
    "a word for a number of a function": (
        "--evaluation.num_data=a",
        "wrong value in evaluation.num_data: a; expected int or null",
    ),
    "a class for another section": (
        "--program.class_path=pyro_dgm.data.Digits",
        "wrong value in program.class_path: pyro_dgm.data.Digits; expected a Program",
    ),
    "an objective that cannot be called": (
        "--objective.class_path=pyro_dgm.data.Digits",
        "wrong value in objective.class_path: pyro_dgm.data.Digits; "
        "expected a class whose objects can be called",
    ),
    "a missing argument": (
        "--objective.class_path=IWAE",
        "missing key in objective.init_args; expected num_particles",
    ),
    "missing arguments of an activation": (
        "--program.activation=torch.nn.Linear",
        "missing key in program.init_args.activation.init_args; expected in_features, out_features",
    ),
    "a key of no published number": (
        "--published={log_likelihood: -80}",
        "unknown key in published.log_likelihood",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_the_whole_line(name: str, tiny: Path, fault: Fault) -> None:
    change, said = LINES[name]
    assert fault("train", tiny, "--dry-run", change) == (2, f"error: {said}")


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (None, "null"),
        (int | None, "int or null"),
        (float | torch.Tensor, "float"),
        (torch.Tensor, "a Tensor"),
        (nn.Module | None, "a Module or null"),
        (list[int], "a list of int"),
        (Sequence[Sequence[int]], "a list of a list of int"),
        (tuple[float, float], "a list of float"),
        (tuple[int, ...] | int, "a list of int or int"),
        (Mapping[str, int], "a mapping of str to int"),
        (Callable, "a function or class that gives a value"),
        (Callable[..., Any], "a function or class that gives a value"),
        (Callable[[], nn.Module] | None, "a function or class that gives a Module, or null"),
        (Literal["a", "b"], "Literal['a', 'b']"),
        (Any, "a value"),
        (type[nn.Module], "type[Module]"),
        (Iterable[int], "Iterable[int]"),
        (Sequence, "a Sequence"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert in_words(annotation) == words


def test_words_of_the_parser_that_are_not_known_begin_at_a_word_and_end_at_one() -> None:
    text = 'Parser key "training.epochs":\n  ' + " ".join(f"word{i}" for i in range(100))
    line = str(mismatch(text, {"training": {"epochs": 2}}))
    assert line.startswith("wrong value in training.epochs: 2; expected word0 word1 ")
    said = line.removesuffix(" ...").rpartition(" ")[2]
    assert line.endswith(" ...") and said.startswith("word") and len(line) < 280
