"""Plots of diagnostic numbers: k-hats, gaps and calibration; each function writes one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_dgm.diagnostics.figures import (
    AMBER,
    BLACK,
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    SKY,
    new_figure,
    numbers_or_nan,
    save_figure,
)
from pyro_dgm.errors import InvalidInput

_WORST = ((ORANGE, "-"), (BLACK, "--"), (GREEN, "-."))  # of the units that a calibration plot names


class GapRow(NamedTuple):
    """Row of a gap plot: parts of log p(x) - ELBO in nats per datum, with standard errors.

    Args:
        label: what the row is about, such as ``test``.
        approximation: gap that the best member of the guide's family leaves.
        approximation_error: its standard error.
        amortisation: what the guide's network adds to it.
        amortisation_error: its standard error.
    """

    label: str
    approximation: float
    approximation_error: float
    amortisation: float
    amortisation_error: float


def k_hat_plot(k_hats: np.ndarray, threshold: float, path: Path) -> None:
    """K-hat of each datum in ascending order, with the largest that can be trusted.

    Args:
        k_hats: (N,); NaN where not estimated, minus infinity where the weights are equal.
        threshold: largest k-hat that the number of draws can stand.
        path: the file to write.

    Raises:
        InvalidInput: no k-hats.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     k_hat_plot(np.array([0.1, 0.9, np.nan]), 0.7, Path(folder) / "k_hat.png")
        ...     [file.name for file in Path(folder).iterdir()]
        ['k_hat.png']
    """
    values = numbers_or_nan("k_hats", np.ravel(k_hats), infinite=True)
    ordered = np.sort(values)  # NaN comes last
    place, known = np.arange(1, len(ordered) + 1), np.isfinite(ordered)
    finite = ordered[known] if known.any() else np.array([0.0])
    low, high = min(finite.min(), 0.0) - 0.1, max(finite.max(), threshold, 1.0) + 0.15
    # What is not estimated may be the worst, so it lies at the upper edge.
    kinds = [
        (known & (ordered <= threshold), "up to the threshold", BLUE, "o"),
        (ordered == -np.inf, "minus infinity, equal weights", BLUE, "v"),
        (ordered > threshold, "above the threshold", ORANGE, "^"),
        (np.isnan(ordered), "not estimated", BLACK, "x"),
    ]
    figure, axes = new_figure(6.0, 3.8)
    for which, label, colour, marker in kinds:
        if which.any():
            # Open markers of different shapes: they can be told apart in grey, where they overlap too.
            style = {"c": colour} if marker == "x" else {"facecolors": "none", "edgecolors": colour}
            axes.scatter(
                place[which],
                np.clip(np.nan_to_num(ordered[which], nan=high), low, high),
                s=18 if len(ordered) <= 500 else 8,
                marker=marker,
                linewidths=0.9,
                label=f"{label}: {which.sum():,} of {len(ordered):,}",
                clip_on=False,
                **style,
            )
    axes.axhline(threshold, color=BLACK, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    axes.axhline(1.0, color=GREY, linestyle=":", linewidth=1.2, label="1: weights without a mean")
    axes.set_ylim(low, high)
    axes.set_xlim(0, len(ordered) + 1)
    axes.set_xlabel("data, in the order of their k-hats")
    axes.set_ylabel("Pareto k-hat (no unit)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)


def gap_bars(rows: Sequence[tuple[Any, ...]], path: Path, *, quantity: str = "log p(x)") -> None:
    """Stacked bars of the parts of the inference gap, with error bars of one standard error.

    Args:
        rows: one bar each, :class:`GapRow` or a tuple of its fields.
        path: the file to write.
        quantity: what the bound is compared with, for the label of the axis.

    Raises:
        InvalidInput: no rows, or numbers that are not finite.
    """
    named = [GapRow(*row) for row in rows]
    if not named:
        raise InvalidInput("no rows", where="gap_bars", expected="at least one")
    numbers = np.array([row[1:] for row in named], dtype=np.float64)  # (rows, 4)
    known = np.isfinite(numbers[:, ::2]).all(axis=1)
    if not known.all():
        bad = named[int(np.argmin(known))].label
        raise InvalidInput(
            "a gap that is not finite", where=f"row {bad!r}", expected="finite numbers of nats"
        )
    numbers = np.nan_to_num(numbers)  # an error that is not known has no bar
    figure, axes = new_figure(6.0, 1.5 + 0.6 * len(rows))
    place = np.arange(len(rows))
    parts = [
        ("approximation gap", numbers[:, 0], numbers[:, 1], BLUE, ""),
        ("amortisation gap", numbers[:, 2], numbers[:, 3], AMBER, "///"),
    ]
    ends = {True: np.zeros(len(rows)), False: np.zeros(len(rows))}  # of what lies right and left of zero
    for index, (label, part, error, colour, hatch) in enumerate(parts):
        start = np.where(part >= 0, ends[True], ends[False])
        axes.barh(place, part, 0.5, left=start, label=label, color=colour, hatch=hatch, edgecolor="black")
        # Beside each other, so that two error bars with one end do not cover each other.
        height = place + (0.1 if index else -0.1)
        axes.errorbar(
            start + part, height, xerr=error, fmt="none", ecolor="black", elinewidth=1.3, capsize=4, zorder=3
        )
        for sign in (True, False):
            ends[sign] = np.where((part >= 0) == sign, start + part, ends[sign])
    total = numbers[:, 0] + numbers[:, 2]
    span = max((ends[True] + numbers[:, 1::2].max(axis=1)).max(), 0) - min(ends[False].min(), 0)
    for y, (end, error, value) in enumerate(zip(ends[True], numbers[:, 3], total, strict=True)):
        axes.text(
            end + max(error, numbers[y, 1]) + 0.02 * span, y, f"{value:.2f}", va="center", fontsize="small"
        )
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(place, [row.label for row in named])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlabel(f"{quantity} - ELBO, nats per datum (bars: one standard error; number: sum)")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)


def calibration_plot(
    ecdf_x: np.ndarray,
    ecdf_difference: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    path: Path,
    *,
    labels: Sequence[str] | None = None,
) -> None:
    """Empirical distribution of the ranks minus the uniform one, with the envelope of calibrated units.

    Args:
        ecdf_x: (G,), ranks as fractions of the number of draws.
        ecdf_difference: (units, G) or (G,).
        lower: (G,), lower end of the envelope.
        upper: (G,), upper end.
        path: the file to write.
        labels: names of the units; ``unit 0`` and so on if None.

    Raises:
        InvalidInput: shapes that do not fit together.
    """
    curves = np.atleast_2d(np.asarray(ecdf_difference, dtype=np.float64))
    names = [f"unit {index}" for index in range(len(curves))] if labels is None else list(labels)
    shapes = {np.shape(array) for array in (ecdf_x, lower, upper)}
    if shapes != {curves.shape[1:]} or len(names) != len(curves) or not curves.size:
        raise InvalidInput(
            "shapes that do not fit",
            where="calibration_plot",
            value=f"{curves.shape} with {sorted(shapes)} and {len(names)} labels",
            expected="(units, G) with (G,) each, and a label for each unit",
        )
    outside = np.maximum(curves - upper, lower - curves)  # positive where outside
    excess = np.nan_to_num(outside, nan=np.inf).max(axis=1)
    exceeds = excess > 1e-12  # touching is not leaving
    worst = np.argsort(-excess, kind="stable")[: min(len(_WORST), max(exceeds.sum(), 1))]
    figure, axes = new_figure(6.0, 4.0)
    axes.fill_between(
        ecdf_x, lower, upper, color=GREY, alpha=0.35, linewidth=0, label="envelope of calibrated units"
    )
    for edge in (lower, upper):
        axes.plot(ecdf_x, edge, color=GREY, linewidth=0.8)
    rest = [index for index in range(len(curves)) if index not in worst]
    for number, index in enumerate(rest):
        axes.step(
            ecdf_x,
            curves[index],
            where="post",
            color=SKY,
            linewidth=0.8,
            label=f"other units ({len(rest)})" if number == 0 else None,
        )
    for (colour, line), index in zip(_WORST, worst, strict=False):
        verdict = "outside" if exceeds[index] else "inside"
        axes.step(
            ecdf_x,
            curves[index],
            where="post",
            color=colour,
            linestyle=line,
            linewidth=1.7,
            label=f"{names[index]} ({verdict})",
        )
    axes.axhline(0.0, color="black", linewidth=0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("rank / number of draws")
    axes.set_ylabel("share of ranks below, minus uniform")
    axes.set_title(f"{exceeds.sum()} of {len(curves)} units leave the envelope", fontsize="medium")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)
