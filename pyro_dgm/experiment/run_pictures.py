"""The pictures of a run, made of nothing but its program, its data and its metrics."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.data.audio import AudioDataset, WaveFormat
from pyro_dgm.diagnostics.pictures import image_grid, reconstruction_grid, scatter, training_curve
from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.experiment.run import Run
from pyro_dgm.experiment.wave_files import draw_waves
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.program import Program
from pyro_dgm.training.random_state import forked

_NUM_IMAGES, _NUM_PAIRS, _NUM_POINTS = 64, 16, 1000
_NUM_WAVES = 8


@torch.no_grad()
def draw_samples(program: Program, num: int, *, mean: bool = False) -> Tensor:
    """Draws of x, or with ``mean`` the means of p(x | z), on the CPU.

    Args:
        program: a program whose model takes ``n``.
        num: number of draws.
        mean: whether to leave out the noise of the observation.

    Raises:
        InvalidInput: no draws, or a model that does not take ``n``.
    """
    if num < 1:
        raise InvalidInput("no samples", where="num", value=num, expected="a whole number >= 1")
    if not takes_n(program):
        expected = "model(x=None, ..., n=) that draws n data when x is None"
        raise InvalidInput("a model that cannot be sampled", where="program", expected=expected)
    trace = poutine.trace(program.model).get_trace(n=num)
    return _means(trace) if mean else trace.nodes["_RETURN"]["value"].cpu()


def takes_n(program: Program) -> bool:
    """Whether ``program.model(n=...)`` draws data."""
    return "n" in inspect.signature(program.model).parameters


def _means(trace: poutine.Trace) -> Tensor:
    site = trace.nodes["x"]
    try:
        return site["fn"].mean.cpu()
    except NotImplementedError:  # no formula for it: a draw, which an observed site must make anew
        return (site["fn"].sample() if site["is_observed"] else site["value"]).cpu()


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
    is_image = len(data.data_shape) in (2, 3)
    draw: dict[str, Callable[[Path], None]] = {"curves": partial(training_curve, run.rows)}
    if takes_n(program) and is_image:
        draw["samples"] = partial(_draw_images, program)
    elif takes_n(program) and isinstance(data, AudioDataset):
        shown = data.test[:_NUM_WAVES].x
        draw["samples"] = partial(_draw_waves, program, shown, wave_format=data.wave_format)
    elif takes_n(program) and len(data.data_shape) == 1 and data.data_shape[0] > 1:
        draw["samples"] = partial(_draw_cloud, program, data.test[:_NUM_POINTS].x)
    batch = run.batch(data.test[:_NUM_PAIRS])
    with forked(run.device):
        guide = complete_guide(program.model, program.guide, batch)
        has_latents = bool(poutine.trace(guide).get_trace(*batch).stochastic_nodes)
    if is_image and has_latents:
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


def _draw_images(program: Program, path: Path) -> None:
    image_grid(draw_samples(program, _NUM_IMAGES, mean=True), path)


def _draw_cloud(program: Program, shown: Tensor, path: Path) -> None:
    scatter(shown, draw_samples(program, _NUM_POINTS), path)


def _draw_waves(program: Program, shown: Tensor, path: Path, *, wave_format: WaveFormat) -> None:
    columns = {"test data": shown, "samples": draw_samples(program, len(shown))}
    draw_waves(columns, path, wave_format=wave_format)


def _draw_reconstructions(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Tensor, ...], path: Path
) -> None:
    guide_trace = poutine.trace(guide).get_trace(*batch)
    trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*batch)
    reconstruction_grid(batch[0].cpu(), _means(trace), path)
