"""Pictures of vectors whose variables take few values: a row of cells for each vector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pyro_dgm.diagnostics.figures import GREY, new_figure, save_figure
from pyro_dgm.errors import InvalidInput


def value_rows(panels: Mapping[str, Tensor], path: Path, *, rows: int = 64) -> None:
    """Vectors one below the other, a column for each variable; the same shade is the same value in all panels.

    Black is 0 and white is 1, or the least and the greatest value where values lie beyond.

    Args:
        panels: vectors (N, D), by what they are.
        path: the file to write.
        rows: vectors in a panel, at most; the first ones.

    Raises:
        InvalidInput: nothing to draw, or another shape.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     value_rows({"samples": torch.rand(9, 5).round()}, Path(folder) / "rows.png")
        ...     [file.name for file in Path(folder).iterdir()]
        ['rows.png']
    """
    if not panels:
        raise InvalidInput("no vectors", where="panels", expected="at least one panel")
    for name, vectors in panels.items():
        if vectors.dim() != 2 or not vectors.numel():
            raise InvalidInput("no vectors", where=name, value=tuple(vectors.shape), expected="(N, D)")
    shown = {name: vectors[:rows].detach().cpu().double() for name, vectors in panels.items()}
    low = min(0.0, *(float(vectors.min()) for vectors in shown.values()))
    high = max(1.0, *(float(vectors.max()) for vectors in shown.values()))
    figure, axes = new_figure(3.6 * len(shown) + 0.4, 4.2, 1, len(shown))
    for panel, (name, vectors) in zip([axes] if len(shown) == 1 else axes.flat, shown.items(), strict=True):
        panel.imshow(
            vectors.numpy(), cmap="gray", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
        )
        panel.spines[:].set(visible=True, color=GREY)
        panel.locator_params(integer=True)
        panel.set_title(name, fontsize=10)
        panel.set(xlabel="variable", ylabel="row")
    save_figure(figure, path)
