"""Pictures: every pixel where it belongs, colours that anyone can tell apart, no half-written file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from pyro_dgm.diagnostics import image_grid, pictures, reconstruction_grid, scatter, training_curve
from pyro_dgm.errors import InvalidInput


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 1, 4, 6), (5, 3, 4, 6), (5, 2, 4, 6)])
def test_a_grid_holds_each_image_where_it_belongs(tmp_path: Path, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    image_grid(images, tmp_path / "grid.png", columns=3)
    sheet = torch.as_tensor(imread(tmp_path / "grid.png"))[..., :3]
    times = sheet.shape[0] // 11  # 2 rows of 4 pixels and 3 gaps
    sheet = sheet[::times, ::times]
    assert sheet.shape[:2] == (2 * 5 + 1, 3 * 7 + 1)
    for index, image in enumerate(images):
        top, left = 1 + 5 * (index // 3), 1 + 7 * (index % 3)
        shown = sheet[top : top + 4, left : left + 6]
        expected = image if image.dim() == 2 else image.permute(1, 2, 0) if shape[1] == 3 else image[0]
        expected = expected if expected.dim() == 3 else expected.unsqueeze(-1).expand(-1, -1, 3)
        assert (shown - expected).abs().max() < 1.5 / 255  # a PNG has 8 bits
    assert bool((sheet[6:, 15:] == 1).all())  # the place of a sixth image is white


def test_a_reconstruction_is_at_the_right_of_its_datum(tmp_path: Path) -> None:
    reconstruction_grid(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3), tmp_path / "pair.png")
    sheet = torch.as_tensor(imread(tmp_path / "pair.png"))[..., 0]
    times = sheet.shape[0] // 5
    assert sheet[2 * times, 2 * times] == 0 and sheet[2 * times, 6 * times] == 1


def test_bad_shapes_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for call in (
        lambda: image_grid(torch.zeros(3, 4), path),
        lambda: image_grid(torch.zeros(0, 4, 4), path),
        lambda: reconstruction_grid(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5), path),
        lambda: scatter(torch.zeros(3, 1), torch.zeros(3, 1), path),
        lambda: training_curve([], path),
    ):
        with pytest.raises(InvalidInput):
            call()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ({"loss": 2.0, "elbo": -2.0, "kl": 1.0}, ["training", "validation"]),
        ({"loss": 1.5, "elbo": -2.0, "kl": 1.0}, ["training", "training, untouched bound", "validation"]),
        ({"loss": 1.5, "elbo": -2.0}, ["training", "validation"]),  # importance-weighted: a bound of its own
        ({"loss": None, "elbo": None, "kl": None}, ["validation"]),
    ],
)
def test_the_bound_is_drawn_beside_a_loss_that_is_none(
    row: dict[str, Any], labels: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    training_curve([{"epoch": i, "val_loss": 2.1, **row} for i in range(30)], tmp_path / "curve.png")
    lines = {line.get_label(): line.get_ydata() for line in figures[0].axes[0].lines}
    assert list(lines) == labels
    assert all(value == 2.0 for value in lines.get("training, untouched bound", ()))


def test_curves_and_clouds_are_written_whole(tmp_path: Path) -> None:
    rows = [
        {"epoch": i, "loss": 1e6 if i == 0 else 1 / i, "val_loss": None if i % 2 else 1.0} for i in range(50)
    ]
    training_curve(rows, tmp_path / "curve.png")
    training_curve(rows[:1], tmp_path / "one.png")
    training_curve([{"epoch": i, "loss": 1.0} for i in range(30)], tmp_path / "flat.png")
    scatter(torch.randn(10, 2), torch.randn(20, 2), tmp_path / "cloud.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "cloud.png",
        "curve.png",
        "flat.png",
        "one.png",
    ]
    for path in tmp_path.iterdir():
        assert imread(path).std() > 0.01


def test_the_colours_differ_in_lightness_and_so_without_colour_vision() -> None:
    luminance = [
        0.2126 * red + 0.7152 * green + 0.0722 * blue
        for red, green, blue in map(to_rgb, (pictures.BLUE, pictures.ORANGE, pictures.GREY))
    ]
    gaps = [abs(a - b) for i, a in enumerate(luminance) for b in luminance[:i]]
    assert min(gaps) > 0.05


def test_no_picture_touches_the_global_state_of_pyplot(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    scatter(torch.randn(10, 2), torch.randn(20, 2), tmp_path / "cloud.png")
    assert plt.get_fignums() == before
