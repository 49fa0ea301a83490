"""Figures without matplotlib's global state, in colours that anyone can tell apart.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart; what has a colour also has a
line style, a marker or a hatch of its own, so that a picture can be read in grey. matplotlib is imported when the
first figure is made.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_dgm.atomic import replacing
from pyro_dgm.errors import InvalidInput

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "#999999", "#000000"
SKY, AMBER, GREEN, PINK = "#56B4E9", "#E69F00", "#009E73", "#CC79A7"


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, **shared: Any
) -> tuple[Figure, Any]:
    """Figure of a size in inches, and its axes: one, or an array (rows, columns) of them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for each in axes.flat:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes[0, 0] if rows == columns == 1 else axes


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure, whole or not at all; the suffix says which format."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150)


def numbers_or_nan(where: str, values: np.ndarray, *, infinite: bool = False) -> np.ndarray:
    """Numbers in double precision, at least one, of which some may be NaN.

    Raises:
        InvalidInput: none, or infinite ones where those are not allowed.
    """
    values = np.asarray(values, dtype=np.float64)
    if not len(values) or (np.isinf(values).any() and not infinite):
        raise InvalidInput(
            "no numbers" if not len(values) else "an infinite number", where=where, expected="finite numbers"
        )
    return values
