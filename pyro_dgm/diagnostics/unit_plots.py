"""Plots about latent units: their activity, and their draws beside those of NUTS; each function writes one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pyro_dgm.diagnostics.figures import BLACK, BLUE, ORANGE, SKY, new_figure, numbers_or_nan, save_figure
from pyro_dgm.errors import InvalidInput

_COLUMNS = 3


class Marginal(NamedTuple):
    """Draws of one unit from two posteriors.

    Args:
        label: the unit.
        guide: draws from the guide.
        nuts: draws by NUTS.
    """

    label: str
    guide: np.ndarray
    nuts: np.ndarray


def unit_activity_plot(
    kl_per_unit: np.ndarray, activity: np.ndarray, path: Path, *, threshold: float = 0.01
) -> None:
    """Divergence from the prior and variance of the posterior mean of each latent unit, largest divergence first.

    Args:
        kl_per_unit: (units,) in nats per datum.
        activity: (units,), variance over the data of the posterior mean, in squared units of z.
        path: the file to write.
        threshold: smallest activity of an active unit.

    Raises:
        InvalidInput: no units, or two lengths.
    """
    kl = numbers_or_nan("kl_per_unit", np.ravel(kl_per_unit))
    variance = numbers_or_nan("activity", np.ravel(activity))
    if len(kl) != len(variance):
        raise InvalidInput("two lengths", where="activity", value=len(variance), expected=f"{len(kl)} units")
    order = np.argsort(-np.nan_to_num(kl, nan=-np.inf), kind="stable")
    kl, variance = kl[order], variance[order]
    active = variance > threshold
    place = np.arange(len(kl))
    positive = np.append(variance[variance > 0], threshold)
    shown = np.maximum(variance, positive.min() / 3)  # a variance of zero lies at the lower edge
    figure, axes = new_figure(min(max(4.5, 0.28 * len(kl) + 2), 11), 4.6, rows=2, sharex=True)
    top, bottom = axes[:, 0]
    kinds = ((active, "active", BLUE, "", "o"), (~active, "inactive", "white", "////", "x"))
    for which, label, colour, hatch, marker in kinds:
        if not which.any():
            continue
        top.bar(
            place[which], kl[which], 0.8, color=colour, hatch=hatch, edgecolor="black", linewidth=0.6,
            label=f"{label}: {which.sum()} of {len(kl)}",
        )  # fmt: skip
        style = {"color": BLUE if marker == "o" else BLACK, "markersize": 5, "clip_on": False}
        bottom.plot(place[which], shown[which], marker, **style)
    bottom.axhline(threshold, color=ORANGE, linestyle="--", linewidth=1.3, label=f"threshold {threshold:g}")
    bottom.set_yscale("log")
    bottom.set_ylim(positive.min() / 3, positive.max() * 3)
    top.set_ylabel("KL(q || p)\nnats per datum")
    bottom.set_ylabel("variance of the\nposterior mean")
    bottom.set_xlabel("latent unit, largest KL first")
    if len(kl) <= 40:
        bottom.set_xticks(place, [str(unit) for unit in order], fontsize="small")
    else:
        bottom.set_xlabel("rank of the latent unit, largest KL first")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize="small")
    save_figure(figure, path)


def nuts_comparison_plot(marginals: Sequence[tuple[Any, ...]], path: Path) -> None:
    """Histograms of draws from the guide and by NUTS, one panel for each unit.

    Args:
        marginals: the units, at most a few dozen, :class:`Marginal` or a tuple of its fields.
        path: the file to write.

    Raises:
        InvalidInput: no units, or draws that are not finite.
    """
    marginals = [Marginal(*marginal) for marginal in marginals]
    if not marginals:
        raise InvalidInput("no units", where="nuts_comparison_plot", expected="at least one")
    columns = min(_COLUMNS, len(marginals))
    rows = -(-len(marginals) // columns)
    figure, axes = new_figure(max(2.4 * columns, 4.0), 1.9 * rows + 0.7, rows=rows, columns=columns)
    for panel in np.atleast_1d(axes).flat[len(marginals) :]:
        panel.set_visible(False)
    for panel, (label, guide, nuts) in zip(np.atleast_1d(axes).flat, marginals, strict=False):
        both = np.concatenate([np.ravel(guide), np.ravel(nuts)])
        if not len(np.ravel(guide)) or not len(np.ravel(nuts)) or not np.isfinite(both).all():
            raise InvalidInput(
                "draws that are not finite, or none", where=f"unit {label!r}", expected="draws"
            )
        low, high = np.quantile(both, [0.001, 0.999])
        low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
        bins = np.linspace(low, high, 31)
        panel.hist(np.ravel(guide), bins, density=True, color=SKY, edgecolor=SKY, label="guide")
        panel.hist(
            np.ravel(nuts), bins, density=True, histtype="step", color=BLACK, linewidth=1.4, label="NUTS"
        )
        panel.set_title(label, fontsize="small")
        panel.set_yticks([])
    figure.supxlabel("value of the unit", fontsize="medium")
    figure.supylabel("density", fontsize="medium")
    handles, names = np.atleast_1d(axes).flat[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=2, frameon=False, fontsize="small")
    save_figure(figure, path)
