"""Pictures of a run: samples, reconstructions, the training curve; each function writes one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.atomic import replacing
from pyro_dgm.diagnostics.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from pyro_dgm.errors import InvalidInput

_GAP = 1  # pixels between the images of a grid


def image_grid(images: Tensor, path: Path, *, columns: int = 8) -> None:
    """Images in rows, as one picture.

    Args:
        images: (N, H, W), (N, 1, H, W) or (N, 3, H, W), black at 0 and white at 1; with any other number of
            channels the first is shown.
        path: the file to write; its suffix says which format.
        columns: images to a row.

    Raises:
        InvalidInput: no images, or not of such a shape.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image_grid(torch.rand(10, 1, 8, 8), Path(folder) / "grid.png")
        ...     [file.name for file in Path(folder).iterdir()]
        ['grid.png']
    """
    _save_pixels(tiled(as_colours(images, "images"), columns), path)


def grids_beside(left: Tensor, right: Tensor, path: Path, *, columns: int = 8) -> None:
    """Two grids of images, as data and samples, with a grey band between them.

    Args:
        left: images as in :func:`image_grid`.
        right: as many images of the same shape.
        path: the file to write.
        columns: images to a row of each grid.

    Raises:
        InvalidInput: the two shapes differ, or are not of images.
    """
    _same_shapes(left, right)
    sheets = [tiled(as_colours(images, "images"), columns) for images in (left, right)]
    band = sheets[0].new_full((len(sheets[0]), 4 * _GAP, 3), 0.5)
    _save_pixels(torch.cat([sheets[0], band, sheets[1]], dim=1), path)


def _same_shapes(left: Tensor, right: Tensor) -> None:
    if left.shape != right.shape:
        found, expected = tuple(right.shape), f"{tuple(left.shape)}"
        raise InvalidInput("different shapes", where="images at the right", value=found, expected=expected)


def reconstruction_grid(data: Tensor, reconstructions: Tensor, path: Path, *, columns: int = 4) -> None:
    """Each datum with its reconstruction at its right, pair beside pair.

    Args:
        data: images as in :func:`image_grid`.
        reconstructions: as many images of the same shape.
        path: the file to write.
        columns: pairs to a row.

    Raises:
        InvalidInput: the two shapes differ, or are not of images.
    """
    _same_shapes(data, reconstructions)
    left, right = as_colours(data, "data"), as_colours(reconstructions, "reconstructions")
    gap = left.new_ones(len(left), left.shape[1], _GAP, 3) * 0.5
    _save_pixels(tiled(torch.cat([left, gap, right], dim=2), columns), path)


def training_curve(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss on the training and the validation data against the epoch, and the bound where a loss is none.

    Args:
        rows: rows of ``History`` or of ``metrics.jsonl``: ``epoch``, ``loss`` and, where there was one, ``val_loss``;
            where both are there and a weight or a threshold of ``kl`` moves the loss from it, the bound ``elbo``.
        path: the file to write.

    Raises:
        InvalidInput: no rows.
    """
    if not rows:
        raise InvalidInput("no rows", where="training_curve", expected="at least one epoch")
    figure, axes = new_figure(6.0, 3.6)
    bounds = {row["epoch"]: -row["elbo"] for row in rows if None not in (row.get("elbo"), row.get("kl"))}
    is_moved = any(
        abs(row["loss"] - bounds[row["epoch"]]) > 1e-3
        for row in rows
        if row["epoch"] in bounds and row["loss"]
    )
    lines = {
        ("training", BLUE, "-"): {row["epoch"]: row.get("loss") for row in rows},
        ("training, untouched bound", GREY, "-"): bounds if is_moved else {},
        ("validation", ORANGE, "--"): {row["epoch"]: row.get("val_loss") for row in rows},
    }
    for (label, colour, line), values in lines.items():
        points = [(epoch, value) for epoch, value in values.items() if value is not None]
        if points:
            marker = "o" if len(points) < 3 else None
            axes.plot(*zip(*points, strict=True), label=label, color=colour, linestyle=line, marker=marker)
    # The first epochs are far off the rest: the axis is cut where they would hide it.
    losses = [row["loss"] for row in rows if row.get("loss") is not None]
    losses = sorted([*losses, *(bounds.values() if is_moved else ())])
    if len(losses) > 20:
        low, high = losses[0], losses[int(0.95 * len(losses))]
        axes.set_ylim(low - 0.1 * (high - low) - 1e-6, high + 0.3 * (high - low) + 1e-6)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, nats per datum")
    axes.legend(frameon=False)
    save_figure(figure, path)


def scatter(data: Tensor | None, samples: Tensor, path: Path) -> None:
    """Data and samples in the plane of their first two coordinates.

    Args:
        data: (N, D) with D at least 2; None for samples alone.
        samples: (M, D).
        path: the file to write.

    Raises:
        InvalidInput: another shape.
    """
    given = {"samples": samples} if data is None else {"data": data, "samples": samples}
    for name, points in given.items():
        if points.dim() != 2 or points.shape[1] < 2:
            raise InvalidInput(
                "no points in a plane", where=name, value=tuple(points.shape), expected="(N, D >= 2)"
            )
    figure, axes = new_figure(4.5, 4.5)
    for label, points in given.items():
        colour, marker = {"data": (GREY, "o"), "samples": (BLUE, "x")}[label]
        x, y = points[:, 0].tolist(), points[:, 1].tolist()
        axes.scatter(x, y, s=10, label=label, color=colour, marker=marker, linewidths=0.7, alpha=0.7)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("$x_1$")
    axes.set_ylabel("$x_2$")
    axes.legend(frameon=False)
    save_figure(figure, path)


def worst_explained(
    data: Tensor, scores: Tensor | np.ndarray, path: Path, *, num: int = 16, columns: int = 8
) -> None:
    """Images that the model explains worst, with their index and log p(x) in nats, the worst first.

    Args:
        data: images as in :func:`image_grid`.
        scores: (N,), log p(x) of each in nats; those that are NaN come first.
        path: the file to write.
        num: number of images, at most.
        columns: images to a row.

    Raises:
        InvalidInput: no images, or another number of scores.
    """
    pixels = as_colours(data, "data")
    values = torch.as_tensor(scores).detach().cpu().double()
    if values.shape != data.shape[:1]:
        found, expected = tuple(values.shape), f"({len(data)},), one for each image"
        raise InvalidInput("another number of scores", where="scores", value=found, expected=expected)
    worst = values.nan_to_num(nan=-math.inf).argsort(stable=True)[: max(num, 1)].tolist()
    columns = min(columns, len(worst))
    rows = -(-len(worst) // columns)
    figure, axes = new_figure(1.1 * columns + 0.2, 1.45 * rows + 0.2, rows=rows, columns=columns)
    panels = np.atleast_1d(axes).ravel()
    for panel in panels:
        panel.set_axis_off()
    for panel, index in zip(panels, worst, strict=False):
        panel.set_axis_on()  # its frame
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color=GREY)
        panel.imshow(pixels[index].numpy(), interpolation="nearest")
        panel.set_title(f"datum {index}\n{values[index]:.1f} nats", fontsize=7.5)
    save_figure(figure, path)


def as_colours(images: Tensor, where: str) -> Tensor:
    """Images as (N, H, W, 3) on the CPU, in [0, 1]."""
    if images.dim() not in (3, 4) or not images.numel():
        raise InvalidInput(
            "no images", where=where, value=tuple(images.shape), expected="(N, H, W) or (N, C, H, W)"
        )
    pixels = images.detach().float().cpu().clamp(0, 1)
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(1)
    if pixels.shape[1] != 3:
        pixels = pixels[:, :1].expand(-1, 3, -1, -1)
    return pixels.permute(0, 2, 3, 1)


def tiled(pixels: Tensor, columns: int, *, shade: float = 1.0) -> Tensor:
    """One picture (H', W', 3) of images (N, H, W, 3), with a gap of a pixel around each, white unless shaded."""
    count, height, width, _ = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = pixels.new_full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), shade)
    for index, image in enumerate(pixels):
        top, left = (index // columns) * (height + _GAP) + _GAP, (index % columns) * (width + _GAP) + _GAP
        sheet[top : top + height, left : left + width] = image
    return sheet


def _save_pixels(sheet: Tensor, path: Path) -> None:
    from matplotlib.image import imsave

    # Whole pixels, so that small images stay sharp.
    times = max(1, 480 // max(sheet.shape[:2]))
    enlarged = sheet.repeat_interleave(times, 0).repeat_interleave(times, 1)
    with replacing(path) as temporary:
        imsave(temporary, enlarged.numpy())
