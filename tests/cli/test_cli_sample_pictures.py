"""sample draws the picture that train draws, of a label where the run has labels, and tells the labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from pyro_dgm import models
from pyro_dgm.cli import main
from pyro_dgm.cli.commands import _given
from pyro_dgm.diagnostics.value_rows import value_rows
from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment import load, samples
from pyro_dgm.experiment.samples import Samples, draw_picture, draw_samples

Fault = Callable[..., tuple[int, str]]

VECTORS = """
program: {class_path: PROGRAM}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Arrays, init_args: {train: FILE}}
training: {steps: 2, batch_size: 16}
evaluation: {num_particles: 2, num_data: 8}
"""
# A digit is 0.95 in the pixel of its class and 0.05 elsewhere: one draw tells most labels, and means tell all.
LABELLED = """
import torch, pyro
import pyro.distributions as dist
from pyro_dgm.program import Program

class Marked(Program):
    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.logits = torch.nn.Parameter(torch.full((num_classes, 64), -3.0).fill_diagonal_(3.0))

    def model(self, x=None, y=None, *, n=1):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", n if x is None else len(x)):
            return pyro.sample("x", dist.Bernoulli(logits=self.logits[y].view(-1, 1, 8, 8)).to_event(3), obs=x)
"""
MARKED = """
program: {class_path: marked.Marked}
objective: {class_path: pyro_dgm.objectives.ELBO}
data: {class_path: pyro_dgm.data.Digits, init_args: {binarize: dynamic, labels: true}}
training: {steps: 0}
evaluation: {num_particles: 2, num_data: 8}
"""


def train_vectors(folder: Path, x: np.ndarray, program: str) -> Path:
    np.save(folder / "x.npy", x.astype(np.float32))
    text = VECTORS.replace("FILE", str(folder / "x.npy")).replace("PROGRAM", program)
    (folder / "vectors.yaml").write_text(text)
    assert main(["train", str(folder / "vectors.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("marked")
    (folder / "marked.py").write_text(LABELLED)
    (folder / "marked.yaml").write_text(MARKED.replace("steps: 0", "steps: 1"))
    assert main(["train", str(folder / "marked.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is drawn from here on, by the function that draws it."""
    found: list[tuple[str, Any]] = []
    monkeypatch.setattr(samples, "value_rows", lambda panels, path: found.append(("rows", panels)))
    monkeypatch.setattr(samples, "scatter", lambda data, x, path: found.append(("scatter", (data, x))))
    monkeypatch.setattr(samples, "image_grid", lambda x, path, columns: found.append(("grid", (x, columns))))
    return found


def test_vectors_of_whole_numbers_are_rows_of_cells_in_both_commands(
    tmp_path: Path, drawn: list[tuple[str, Any]]
) -> None:
    x = np.random.default_rng(0).integers(0, 2, (200, 6))
    run = train_vectors(tmp_path, x, "pyro_dgm.models.FVSBN")
    assert [kind for kind, _ in drawn] == ["rows"]
    assert {name: values.shape for name, values in drawn[0][1].items()}.keys() == {"test data", "samples"}
    assert len(drawn[0][1]["samples"]) == 64 and len(drawn[0][1]["test data"]) <= 64
    assert main(["sample", str(run), "--num", "5"]) == 0
    (kind, panels) = drawn[1]
    assert kind == "rows" and list(panels) == ["samples"] and panels["samples"].shape == (5, 6)
    assert main(["sample", str(run), "--num", "5", "--out", str(tmp_path / "draws.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "draws.npy"), panels["samples"])  # draws, not means


def test_other_vectors_are_points_in_a_plane_in_both_commands(
    tmp_path: Path, drawn: list[tuple[str, Any]]
) -> None:
    x = np.random.default_rng(0).normal(size=(200, 3))
    run = train_vectors(tmp_path, x, "pyro_dgm.models.PPCA, init_args: {latent_dim: 1}")
    assert main(["sample", str(run), "--num", "5"]) == 0
    (one, (data, points)), (other, (none, alone)) = drawn
    assert one == other == "scatter"
    assert data is not None and points.shape == (1000, 3) and none is None and alone.shape == (5, 3)


@pytest.mark.parametrize(
    ("x", "data", "kind"),
    [
        (torch.ones(4, 3), None, "rows"),
        (torch.ones(4, 3), torch.zeros(4, 3), "rows"),
        (torch.ones(4, 3, dtype=torch.int64), None, "rows"),
        (torch.ones(4, 2), None, "scatter"),
        (torch.full((4, 3), 0.5), None, "scatter"),
        (torch.ones(4, 3), torch.full((4, 3), 0.5), "scatter"),  # beside data that are no whole numbers
        (torch.ones(4, 3, 3), None, "grid"),
        (torch.ones(4, 1, 3, 3), None, "grid"),
    ],
)
def test_the_picture_is_chosen_by_the_numbers(
    x: torch.Tensor, data: torch.Tensor | None, kind: str, drawn: list[tuple[str, Any]], tmp_path: Path
) -> None:
    draw_picture(Samples(x), tmp_path / "x.png", data=data)
    assert [found for found, _ in drawn] == [kind]


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 1, 2, 3, 4)])
def test_what_has_no_picture_is_one_line(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no picture of such data in samples: .*; try --out FILE\.npy"):
        draw_picture(Samples(torch.ones(shape)), tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


def test_rows_of_cells_are_written_whole_and_bad_ones_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    dark, bright = {"a": torch.zeros(9, 5), "b": torch.zeros(3, 5)}, {"a": torch.ones(9, 5)}
    lightness = []
    for panels in (dark, bright, {"a": 2 * torch.ones(9, 5)}, {"a": -torch.ones(100, 1)}):
        value_rows(panels, path)
        picture = imread(path)[..., :3]
        middle = picture[picture.shape[0] // 2]
        lightness.append(float(middle[middle.shape[0] // 3].mean()))
    assert lightness == [0, 1, 1, 0]  # black at 0 and white at 1, or at the ends of what is there
    path.unlink()
    for bad in ({}, {"a": torch.zeros(0, 4)}, {"a": torch.zeros(4)}):
        with pytest.raises(InvalidInput, match="no vectors"):
            value_rows(bad, path)
    assert list(tmp_path.iterdir()) == []


def told(run: Path, capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["sample", str(run), "--trust", "--json", *map(str, options)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_samples_have_the_label_that_is_told(
    marked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], drawn: list[tuple[str, Any]]
) -> None:
    """A pixel of its own class is white with probability 0.95, another with 0.05."""
    path = tmp_path / "x.npy"
    for options, labels in (((), [i % 10 for i in range(200)]), (("--y", 7), [7] * 200)):
        found = told(marked, capsys, "--num", 200, "--out", path, "--overwrite", *options)
        assert found["y"] == labels and found["shape"] == [200, 1, 8, 8]
        pixels = np.load(path).reshape(200, 64)
        # 190 of 200 expected, standard deviation 3.1; 20 if a label were told that was not drawn.
        assert pixels[np.arange(200), labels].sum() > 160
    # Pictures show means, and those of all classes stand in a column each.
    for options, columns in (((), 10), (("--y", 7), 8)):
        found = told(marked, capsys, "--num", 20, "--out", tmp_path / f"{columns}.png", *options)
        kind, (x, shown_in) = drawn[-1]
        assert kind == "grid" and shown_in == columns and x.reshape(20, 64).argmax(1).tolist() == found["y"]


def test_a_label_that_is_no_class_or_not_taken_is_one_line(
    marked: Path, trained: Path, tmp_path: Path, fault: Fault
) -> None:
    out = ("--out", tmp_path / "x.npy")
    for label in (-1, 10):
        code, line = fault("sample", marked, "--trust", "--y", label, *out)
        assert code == 2 and f"no such class in --y: {label}; expected 0 to 9" in line
    code, line = fault("sample", trained, "--y", 7, *out)
    assert code == 2 and "a label that is not taken in --y: 7; expected none" in line
    assert fault("sample", marked, "--y", "seven", *out)[0] == 2
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_labels_tells_none(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "y" not in told(trained, capsys, "--num", 2, "--out", tmp_path / "x.npy")
    assert main(["sample", str(trained), "--num", "2", "--out", str(tmp_path / "y.npy")]) == 0
    assert capsys.readouterr().out == f"2 samples: {tmp_path / 'y.npy'}\n"


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, ""),
        ([7], " of y = 7"),
        ([7, 7, 7], " of y = 7"),
        ([0, 1, 2], " of y = 0, 1, 2"),
        ([0, 1, 0, 1], " of y = 0, 1 in turn"),
        ([0, 1, 2, 3, 0], " of y = 0, 1, 2, 3 in turn"),
        ([i % 10 for i in range(64)], " of y = 0, 1, ..., 9 in turn"),
    ],
)
def test_labels_in_words(y: list[int] | None, words: str) -> None:
    assert _given(y) == words


@pytest.mark.parametrize("name", ["CVAE", "MADE", "WaveNet"])
def test_programs_with_labels_are_drawn_given_each(name: str) -> None:
    """Labels go through all classes, or are the one that was asked for, and x follows them in shape."""
    made: Any = {
        "CVAE": lambda: models.CVAE((4,), 3, 2, hidden=(8,)),
        "MADE": lambda: models.MADE((4,), hidden=(8,), num_classes=3),
        "WaveNet": lambda: models.WaveNet((4,), channels=4, num_layers=1, num_classes=3),
    }[name]
    found = draw_samples(made(), 7)
    assert found.y is not None and found.y.tolist() == [0, 1, 2, 0, 1, 2, 0] and found.x.shape == (7, 4)
    given = draw_samples(made(), 2, y=2)
    assert given.y is not None and given.y.tolist() == [2, 2] and given.num_classes is None


def test_a_loaded_program_is_drawn_as_the_command_draws_it(marked: Path) -> None:
    program = load(marked, trust=True)
    assert draw_samples(program, 12).num_classes == 10
