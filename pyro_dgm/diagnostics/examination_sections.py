"""The sections of a report on an examination: what each diagnostic found, as words, tables and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pyro_dgm.diagnostics.examination import Examination
from pyro_dgm.diagnostics.gap_parts import InferenceGap, gap_difference
from pyro_dgm.diagnostics.importance_weights import Importance
from pyro_dgm.diagnostics.nuts import NutsReference
from pyro_dgm.diagnostics.plots import calibration_plot, gap_bars, k_hat_plot
from pyro_dgm.diagnostics.posterior_collapse import Collapse
from pyro_dgm.diagnostics.psis import k_hat_threshold
from pyro_dgm.diagnostics.report import Picture, Section, Table
from pyro_dgm.diagnostics.simulated_calibration import Calibration
from pyro_dgm.diagnostics.unit_plots import Marginal, nuts_comparison_plot, unit_activity_plot

_MOST_ROWS = 12  # of a table of units
_MOST_MARGINALS = 12


def examination_sections(found: Examination, folder: Path) -> list[Section]:
    """A section for each diagnostic that was done, with its pictures.

    Args:
        found: of :func:`~pyro_dgm.diagnostics.examination.examine`.
        folder: an existing folder for the pictures.
    """
    sections = []
    if found.importance is not None and found.has_latents:
        sections.append(_weights(found.importance, found.quantity, folder))
    elif found.importance is not None:
        sections.append(_exact(found.importance, found.quantity))
    if "test" in found.gaps:
        sections.append(_gaps(found.gaps["test"], found.gaps.get("train"), found.quantity, folder))
    if found.calibration is not None:
        sections.append(_calibration(found.calibration, folder))
    if found.collapse is not None:
        sections.append(_collapse(found.collapse, folder))
    if found.nuts is not None:
        sections.append(_chains(found.nuts, folder))
    rows = [(part, f"{time:.1f}") for part, time in found.seconds.items()]
    left_out = "\n".join(f"- {part}: {reason}" for part, reason in found.left_out.items())
    text = f"Left out:\n\n{left_out}" if left_out else ""
    sections.append(Section("How long it took", text, tables=[Table(("part", "seconds"), rows)]))
    return sections


def _exact(found: Importance, quantity: str) -> Section:
    rows = [(f"{quantity}, nats", *_spread(np.atleast_1d(found.log_p)))]
    text = "There are no latent variables: log p(x) of each datum is exact."
    return Section("Likelihood", text, tables=[Table(("over the data", "least", "median", "largest"), rows)])


def _weights(found: Importance, quantity: str, folder: Path) -> Section:
    threshold = k_hat_threshold(found.num_samples)
    values = {
        "Pareto k-hat": found.k_hat,
        "effective sample size": found.ess,
        f"{quantity}, nats": found.log_p,
        "its Monte Carlo error": found.log_p_standard_error,
        "ELBO, nats": found.elbo,
        "shift of the means, s.d.": found.shift,
        "stretch of the scales": found.stretch,
    }
    rows = [(name, *_spread(np.atleast_1d(numbers))) for name, numbers in values.items()]
    counts = [
        (name, int(flag.sum()), flag.size)
        for name, flag in (
            ("averages with weights are reliable", found.reweighted_reliable),
            ("draws are usable as they are", found.usable_as_is),
        )
    ]
    path = folder / "k_hat.png"
    k_hat_plot(np.atleast_1d(found.k_hat), threshold, path)
    text = (
        f"{found.num_samples:,} draws from the guide per datum, weighted by p(x, z) / q(z | x). k-hat is the shape of "
        f"the largest weights: above {threshold:.2f} so many draws cannot stand it, above 1 the weights have no mean. "
        "It certifies averages with weights. Draws are usable as they are where, besides, weights move no mean by more "
        "than 0.2 standard deviations of the guide, and stretch none by more than 1.25."
    )
    return Section(
        "Importance weights",
        text,
        [Picture(path, "k-hat of each datum, in ascending order")],
        [
            Table(("", "data", "of"), counts),
            Table(("over the data", "least", "median", "largest"), rows),
        ],
    )


def _gaps(test: InferenceGap, train: InferenceGap | None, quantity: str, folder: Path) -> Section:
    gaps = {"test": test} | ({"train": train} if train is not None else {})
    columns = ("log_p", "elbo", "total", "approximation", "amortisation")
    rows: list[tuple[Any, ...]] = []
    bars = []
    for name, gap in gaps.items():
        summary = gap.summary()
        rows.append((f"{name} ({len(gap.log_p)})", *(_with_error(summary[column]) for column in columns)))
        parts = [summary[part] for part in ("approximation", "amortisation")]
        bars.append((name, *(number for part in parts for number in (part["mean"], part["standard_error"]))))
    if train is not None:
        difference = gap_difference(train, test)
        rows.append(("test - train", *(_with_error(difference[column]) for column in columns)))
    path = folder / "gap.png"
    gap_bars(bars, path, quantity=quantity)
    kinds, counts = np.unique(test.estimator, return_counts=True)
    how = ", ".join(f"{kind} for {count}" for kind, count in zip(kinds, counts, strict=True))
    text = (
        f"{quantity} - ELBO, in nats per datum. The approximation gap is left by the best member of the guide's "
        "family, found for each datum; the amortisation gap is what one network for all data adds to it. A larger "
        f"amortisation gap on test data is overfitting of the encoder. {quantity} of the test data by {how}, "
        f"{test.num_particles:,} draws each; all errors are standard errors over the data."
    )
    return Section(
        "Inference gap",
        text,
        [Picture(path, "The two parts of the gap, with standard errors")],
        [Table(("data", quantity, "ELBO", "gap", "approximation", "amortisation"), rows)],
    )


def _calibration(found: Calibration, folder: Path) -> Section:
    order = np.argsort(-np.maximum(abs(found.mean_z), abs(found.dispersion_z)))[:_MOST_ROWS]
    rows = [
        (
            found.units[unit],
            f"{found.p_values[unit]:.2g}",
            found.directions[unit] or "no sign of a fault",
            f"{found.dispersion_z[unit]:.1f}",
            f"{found.mean_z[unit]:.1f}",
            f"{np.nanmean(found.contraction[:, unit]):.2f}",
        )
        for unit in order
    ]
    path = folder / "calibration.png"
    calibration_plot(found.ecdf_points, found.ecdf_differences.T, *found.envelope, path, labels=found.units)
    text = (
        f"{len(found.ranks):,} pairs (z, x) from the model; each z is ranked among {found.num_samples} draws of the "
        "same guide at its x. Of a right guide the ranks are uniform. Contraction is 1 for a unit of which the data "
        f"say all, 0 for one of which they say nothing. Found: {found}."
    )
    header = ("unit, worst first", "p-value", "the guide is", "dispersion, z", "mean, z", "contraction")
    return Section(
        "Calibration on simulated data",
        text,
        [
            Picture(
                path,
                f"ECDF of the ranks minus the uniform one; one exact unit stays inside at {found.confidence:.0%}",
            )
        ],
        [Table(header, rows)],
    )


def _collapse(found: Collapse, folder: Path) -> Section:
    rows = [
        (
            name,
            f"{site.kl:.3f} ± {site.kl_standard_error:.3f}",
            site.active_units,
            _num_units(site.kl_per_unit),
        )
        for name, site in found.sites.items()
    ]
    tables = [Table(("site", "KL, nats per datum", "active units", "of"), rows)]
    if found.mutual_information is not None:
        numbers = [
            (
                "mutual information of x and z",
                found.mutual_information,
                found.mutual_information_standard_error,
            ),
            (
                "KL of the aggregated posterior to the prior",
                found.aggregated_kl,
                found.aggregated_kl_standard_error,
            ),
        ]
        tables.append(Table(("nats", "estimate", "standard error"), numbers))
    pictures: list[Picture] = []
    for name, site in found.sites.items():
        if site.kl_per_unit is not None and site.activity is not None:
            path = folder / f"units_{len(pictures)}.png"
            unit_activity_plot(site.kl_per_unit, site.activity, path)
            pictures.append(Picture(path, f"Units of {name}: divergence from the prior, and activity"))
    text = (
        "How much the latents say about the data. A unit is active if the mean of its posterior has a variance of more "
        "than 0.01 over the data."
    )
    notes = "\n\n".join(f"{note[:1].upper()}{note[1:]}." for note in found.notes)
    return Section("Latents in use", f"{text}\n\n{notes}" if notes else text, pictures, tables)


def _chains(found: NutsReference, folder: Path) -> Section:
    data, units = found.mean_error.shape
    rows = [_chain_row(found, datum) for datum in range(data)]
    # The units that differ most, over all data.
    off = np.abs(found.mean_error) + np.abs(np.log(np.maximum(found.scale_ratio, 1e-12)))
    worst = np.argsort(-off, axis=None)[: min(_MOST_MARGINALS, data * units)]
    marginals = []
    for place in worst:
        datum, unit = divmod(int(place), units)
        label = f"{found.units[unit]}, datum {datum}"
        marginals.append(Marginal(label, found.guide_draws[:, datum, unit], found.nuts_draws[:, datum, unit]))
    path = folder / "nuts.png"
    nuts_comparison_plot(marginals, path)
    fit = int(found.mixed.sum())
    verdict = (
        f"The chains are fit to judge the guide by at {fit} of {data} data." if fit else "They judge nothing."
    )
    if found.reasons:
        verdict += f" As a posterior of their own: {'; '.join(found.reasons)}."
    text = (
        "Draws from p(z | x) by the No-U-Turn sampler, for the first data. Errors of means are in standard deviations "
        "of the chains; the distance is the sliced Wasserstein distance in the same units, and its floor is that of "
        f"two halves of the chains. {found.divergences} transitions diverged. {verdict}"
    )
    header = (
        "datum",
        "largest error of a mean",
        "least ratio of scales",
        "largest",
        "distance",
        "its floor",
        "R-hat",
        "least ESS",
    )
    return Section(
        "Against Markov chains",
        text,
        [Picture(path, "The marginals that differ most: the guide and the chains")],
        [Table(header, rows)],
    )


def _spread(values: np.ndarray) -> tuple[str, str, str]:
    known = values[~np.isnan(values)]
    if not known.size:
        return ("unknown",) * 3
    return (f"{known.min():.4g}", f"{np.median(known):.4g}", f"{known.max():.4g}")


def _with_error(numbers: dict[str, float]) -> str:
    return f"{numbers['mean']:.3f} ± {numbers['standard_error']:.3f}"


def _num_units(per_unit: np.ndarray | None) -> int | None:
    return None if per_unit is None else len(per_unit)


def _chain_row(found: NutsReference, datum: int) -> tuple[Any, ...]:
    """Row of the table on chains, over the units that move: of a constant there are no ratios."""
    moving = found.nuts_draws[:, datum].std(axis=0) > 0
    distances = (f"{found.sliced_wasserstein[datum]:.3f}", f"{found.sliced_wasserstein_floor[datum]:.3f}")
    if not moving.any():
        return (datum, "-", "-", "-", *distances, "-", "-")
    scales = found.scale_ratio[datum][moving]
    return (
        datum,
        f"{np.abs(found.mean_error[datum][moving]).max():.2f}",
        f"{scales.min():.2f}",
        f"{scales.max():.2f}",
        *distances,
        f"{found.r_hat[datum][moving].max():.3f}",
        f"{found.ess[datum][moving].min():.0f}",
    )
