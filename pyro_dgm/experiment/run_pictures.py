"""The pictures of a run, made of nothing but its program, its data and its metrics."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.data import Dataset
from pyro_dgm.data.audio import AudioDataset, WaveFormat
from pyro_dgm.diagnostics.pictures import reconstruction_grid, training_curve
from pyro_dgm.errors import IncompatibleModel
from pyro_dgm.experiment.run import Run
from pyro_dgm.experiment.samples import draw_picture, draw_samples, has_rows, means, takes_n
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.program import Program
from pyro_dgm.training.random_state import forked

_NUM_IMAGES, _NUM_PAIRS, _NUM_POINTS, _NUM_ROWS, _NUM_WAVES = 64, 16, 1000, 64, 8
_IMAGE_DIMS = (2, 3)  # of one datum, with channels or without


@torch.no_grad()
def draw_pictures(run: Run) -> dict[str, Path]:
    """Draws what can be drawn of a run: the training curve, samples, and images beside their reconstructions.

    A picture that is there already is left as it is. One that the program refuses (samples, where it has no prior) is
    left out with a warning that says why.

    Args:
        run: a run with its data.

    Returns:
        Path by name: ``curves``, ``samples``, ``reconstructions``.
    """
    program, data = run.program, run.data
    assert data is not None  # of callers here, not of users
    draw: dict[str, Callable[[Path], None]] = {"curves": partial(training_curve, run.rows)}
    if takes_n(program) and (samples := _samples(program, data)) is not None:
        draw["samples"] = samples
    batch = run.batch(data.test[:_NUM_PAIRS])
    with forked(run.device):
        guide = complete_guide(program.model, program.guide, batch)
        has_latents = bool(poutine.trace(guide).get_trace(*batch).stochastic_nodes)
    if len(data.data_shape) in _IMAGE_DIMS and has_latents:
        draw["reconstructions"] = partial(_draw_reconstructions, program.model, guide, batch)
    pictures = {name: run.folder / f"{name}.png" for name in draw}
    for name, path in list(pictures.items()):
        if not path.exists():
            try:
                with forked(run.device, seed=run.config["training"]["seed"]):
                    draw[name](path)
            except IncompatibleModel as fault:
                warnings.warn(f"no {path.name}: {fault}", stacklevel=2)
                del pictures[name]
    return pictures


def _samples(program: Program, data: Dataset) -> Callable[[Path], None] | None:
    """What draws samples, beside test data where they are no images; None for data of which there is no picture."""
    shape = data.data_shape
    if isinstance(data, AudioDataset):
        return partial(_draw, program, _NUM_WAVES, data.test[:_NUM_WAVES].x, wave_format=data.wave_format)
    if len(shape) in _IMAGE_DIMS:
        return partial(_draw, program, _NUM_IMAGES, None)
    if len(shape) != 1 or shape[0] < 2:
        return None
    x = data.test[:_NUM_POINTS].x
    num = _NUM_ROWS if has_rows(x) else _NUM_POINTS
    return partial(_draw, program, num, x[:num])


def _draw(
    program: Program, num: int, shown: Tensor | None, path: Path, *, wave_format: WaveFormat | None = None
) -> None:
    draw_picture(draw_samples(program, num, mean=True), path, data=shown, wave_format=wave_format)


def _draw_reconstructions(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Tensor, ...], path: Path
) -> None:
    guide_trace = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    reconstruction_grid(batch[0].cpu(), means(trace), path)
