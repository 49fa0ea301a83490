"""Pictures of audio."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pyro_dgm.diagnostics.figures import BLUE, GREY, new_figure, save_figure
from pyro_dgm.errors import InvalidInput


def waveforms(columns: Mapping[str, Tensor], path: Path, *, sample_rate: int, rows: int = 8) -> None:
    """Amplitudes against time, a waveform below the other, a column for each kind.

    Args:
        columns: amplitudes in [-1, 1], (N, T), by what they are; the last in blue, others in grey.
        path: the file to write.
        sample_rate: samples in a second.
        rows: waveforms in a column, at most.

    Raises:
        InvalidInput: nothing to draw, or another shape.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     waveforms({"noise": torch.rand(2, 50)}, Path(folder) / "noise.png", sample_rate=8000)
        ...     [file.name for file in Path(folder).iterdir()]
        ['noise.png']
    """
    for name, waves in columns.items():
        if waves.dim() != 2 or not waves.numel():
            raise InvalidInput("no waveforms", where=name, value=tuple(waves.shape), expected="(N, T)")
    count = min(rows, max((len(waves) for waves in columns.values()), default=0))
    if count == 0:
        raise InvalidInput("no waveforms", where="columns", expected="at least one")
    figure, axes = new_figure(
        4.5 * len(columns), 0.9 * count + 0.6, count, len(columns), sharex=True, sharey=True
    )
    panels = [axes] if count == len(columns) == 1 else axes.T.ravel()
    for panel in panels:
        panel.set_axis_off()
    for place, (name, waves) in enumerate(columns.items()):
        colour = BLUE if place == len(columns) - 1 else GREY
        column = panels[place * count : (place + 1) * count][: len(waves)]
        milliseconds = [1000 * t / sample_rate for t in range(waves.shape[1])]
        for panel, wave in zip(column, waves.tolist(), strict=False):
            panel.set_axis_on()
            panel.plot(milliseconds, wave, color=colour, linewidth=0.7)
            panel.set(ylim=(-1, 1), xlim=(0, milliseconds[-1]), yticks=[-1, 0, 1])
        column[0].set_title(name, fontsize=10)
        column[-1].set_xlabel("time, ms")
    save_figure(figure, path)
