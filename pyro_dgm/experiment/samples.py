"""Draws from a program: of what label, and as what picture; the same for ``train`` and for ``sample``."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.data.audio import WaveFormat
from pyro_dgm.diagnostics.pictures import image_grid, scatter
from pyro_dgm.diagnostics.value_rows import value_rows
from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment.wave_files import draw_waves
from pyro_dgm.program import Program

_IMAGE_DIMS = (3, 4)  # with channels or without
_COLUMNS, _MOST_COLUMNS = 8, 16  # images to a row; classes to a row, at most


@runtime_checkable
class HasClasses(Protocol):
    """Program of p(x | y) whose ``model`` takes labels y in 0 .. num_classes - 1; None where y is no label."""

    num_classes: int | None


@dataclass(frozen=True)
class Samples:
    """Draws of x.

    Args:
        x: (num, *data_shape), on the CPU; draws, or means of p(x | z).
        y: (num,), the labels that they were drawn given; None where there are none.
        num_classes: number of classes where the labels go through all of them in turn.
    """

    x: Tensor
    y: Tensor | None = None
    num_classes: int | None = None


@torch.no_grad()
def draw_samples(program: Program, num: int, *, y: int | None = None, mean: bool = False) -> Samples:
    """Draws of x, given a label or all labels in turn where the program takes labels.

    Args:
        program: a program whose model takes ``n``.
        num: number of draws.
        y: the label of all draws; by default 0, 1, ..., each class in turn.
        mean: whether to give the means of p(x | z) in place of draws where x are images, for a picture.

    Raises:
        InvalidInput: no draws, a model that does not take ``n``, or a label that it does not take or that is no class.
    """
    if num < 1:
        raise InvalidInput("no samples", where="num", value=num, expected="a whole number >= 1")
    if not takes_n(program):
        expected = "model(x=None, ..., n=) that draws n data when x is None"
        raise InvalidInput("a model that cannot be sampled", where="program", expected=expected)
    num_classes = _num_classes(program)
    if num_classes is None:
        if y is not None:
            expected = "none: the program was not trained with labels"
            raise InvalidInput("a label that is not taken", where="--y", value=y, expected=expected)
        return Samples(_values(poutine.trace(program.model).get_trace(n=num), mean=mean))
    if y is not None and not 0 <= y < num_classes:
        raise InvalidInput("no such class", where="--y", value=y, expected=f"0 to {num_classes - 1}")
    device = next((parameter.device for parameter in program.parameters()), torch.device("cpu"))
    labels = torch.arange(num, device=device) % num_classes if y is None else torch.full((num,), y).to(device)
    x = _values(poutine.trace(program.model).get_trace(y=labels, n=num), mean=mean)
    return Samples(x, labels.cpu(), num_classes if y is None else None)


def takes_n(program: Program) -> bool:
    """Whether ``program.model(n=...)`` draws data."""
    return "n" in inspect.signature(program.model).parameters


def means(trace: poutine.Trace) -> Tensor:
    """Means of x given its latents in a trace, or a draw where there is no formula for them, on the CPU."""
    site = trace.nodes["x"]
    try:
        return site["fn"].mean.cpu()
    except NotImplementedError:  # a draw, which an observed site must make anew
        return (site["fn"].sample() if site["is_observed"] else site["value"]).cpu()


def has_rows(x: Tensor) -> bool:
    """Whether data are vectors of more than two variables, each a whole number: rows of cells show them best."""
    return x.dim() == 2 and x.shape[1] > 2 and (not x.is_floating_point() or bool((x == x.round()).all()))


def draw_picture(
    samples: Samples, path: Path, *, data: Tensor | None = None, wave_format: WaveFormat | None = None
) -> None:
    """Draws samples by what they are: waveforms, images, rows of whole numbers or points in a plane.

    Images whose labels go through all classes stand in as many columns, up to sixteen: a column for each class.

    Args:
        samples: what is shown.
        path: the file to write.
        data: test data to stand beside them; images stand alone.
        wave_format: of audio.

    Raises:
        InvalidInput: data of which there is no picture.
    """
    shown = samples.x
    panels = {"samples": shown} if data is None else {"test data": data.cpu(), "samples": shown}
    if wave_format is not None:
        draw_waves(panels, path, wave_format=wave_format)
    elif shown.dim() in _IMAGE_DIMS:
        classes = samples.num_classes
        image_grid(shown, path, columns=classes if classes and classes <= _MOST_COLUMNS else _COLUMNS)
    elif all(map(has_rows, panels.values())):
        value_rows(panels, path)
    elif shown.dim() == 2 and shown.shape[1] > 1:
        scatter(data, shown, path)
    else:
        expected = "images, audio, or vectors of two variables or more"
        cure = "--out FILE.npy, the numbers"
        raise InvalidInput(
            "no picture of such data", where="samples", value=tuple(shown.shape), expected=expected, cure=cure
        )


def _num_classes(program: Program) -> int | None:
    takes_y = "y" in inspect.signature(program.model).parameters
    return program.num_classes if takes_y and isinstance(program, HasClasses) else None


def _values(trace: poutine.Trace, *, mean: bool) -> Tensor:
    x: Tensor = trace.nodes["_RETURN"]["value"].cpu()
    return means(trace) if mean and x.dim() in _IMAGE_DIMS else x
