"""Diagnostics in words: what of an inference can be trusted, what cannot, and what to try next."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pyro_dgm.diagnostics.examination import Examination
from pyro_dgm.diagnostics.gap_parts import InferenceGap, gap_difference
from pyro_dgm.diagnostics.importance_weights import Importance
from pyro_dgm.diagnostics.nuts import NutsReference
from pyro_dgm.diagnostics.posterior_collapse import Collapse
from pyro_dgm.diagnostics.psis import k_hat_threshold
from pyro_dgm.diagnostics.simulated_calibration import Calibration

# A gap below this, in nats per datum, is not worth an effort; one below two standard errors is not shown.
_SMALL_GAP, _ERRORS = 0.1, 2.0
_LARGEST_SHIFT, _SCALES = 0.2, (0.8, 1.25)  # against Markov chains


@dataclass(frozen=True)
class Advice:
    """Sentences.

    Args:
        trustworthy: what the diagnostics found no fault with.
        doubtful: what they found a fault with.
        next_steps: what to try, most promising first.
        limits: what they cannot tell.
    """

    trustworthy: tuple[str, ...]
    doubtful: tuple[str, ...]
    next_steps: tuple[str, ...]
    limits: tuple[str, ...]


@dataclass
class _Notes:
    trustworthy: list[str] = field(default_factory=list)
    doubtful: list[str] = field(default_factory=list)
    next_steps: list[str] = field(default_factory=list)


def advise(found: Examination) -> Advice:
    """What to make of an examination.

    Args:
        found: of :func:`~pyro_dgm.diagnostics.examination.examine`.

    Example:
        >>> import torch
        >>> from pyro_dgm.diagnostics.examination import examine
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=50).detach()
        >>> advise(examine(ppca.model, ppca.guide, x, num_samples=100, num_nuts=0, num_replications=200)).doubtful
        ()
    """
    if not found.has_latents:
        exact = f"{found.quantity}: it is exact, since the model has no latent variables and so no posterior to judge."
        return Advice((exact,), (), (), ())
    notes = _Notes()
    if found.importance is not None:
        _of_weights(found.importance, found.quantity, notes)
    if found.calibration is not None:
        _of_calibration(found.calibration, notes)
    if "test" in found.gaps:
        _of_gaps(found.gaps["test"], found.gaps.get("train"), found.quantity, notes)
    if found.nuts is not None and found.nuts.mixed.any():
        _of_chains(found.nuts, notes)
    if found.collapse is not None:
        _of_collapse(found.collapse, notes)
    limits = ["A mode that no draw has visited cannot be seen in weights, gaps or bounds."]
    if found.calibration is not None:
        limits.append("Calibration is about data that the model simulates; real data may lie elsewhere.")
    if found.nuts is not None and not found.nuts.mixed.all():
        mixed = found.nuts.mixed
        which = f" at {(~mixed).sum()} of {len(mixed)} data" if mixed.any() else ""
        limits.append(
            f"The guide is not judged by Markov chains{which}, which need more steps: {'; '.join(found.nuts.reasons)}."
        )
    limits += [f"Not done: {part}, since {reason}." for part, reason in found.left_out.items()]
    return Advice(
        tuple(notes.trustworthy), tuple(notes.doubtful), tuple(dict.fromkeys(notes.next_steps)), tuple(limits)
    )


def _of_weights(found: Importance, quantity: str, notes: _Notes) -> None:
    reliable, usable = found.reweighted_reliable, found.usable_as_is
    whose = "of the whole data set" if not reliable.ndim else "of {good} of {all} data"
    threshold = k_hat_threshold(found.num_samples)
    _judge(
        reliable,
        f"{quantity} and averages with importance weights, {whose}: k-hat is at most {threshold:.2f}.",
        f"Averages with importance weights, {whose}: k-hat is above {threshold:.2f} or unknown.",
        notes,
    )
    _judge(
        usable,
        f"The guide's own draws as posterior draws, {whose}: weights move no mean by more than 0.2 standard "
        "deviations, and change none by more than a quarter.",
        f"The guide's own draws as posterior draws, {whose}: without weights their means or scales are off, or "
        "cannot be checked.",
        notes,
    )
    if (reliable & ~usable).any():
        notes.next_steps.append(
            "Use importance weights with the draws; they are reliable where the draws are not."
        )


def _judge(good: np.ndarray, praise: str, blame: str, notes: _Notes) -> None:
    """Praise for the data that pass, blame for those that do not."""
    passed, total = int(good.sum()), good.size
    if passed:
        notes.trustworthy.append(praise.format(good=passed, all=total))
    if passed < total:
        notes.doubtful.append(blame.format(good=total - passed, all=total))


def _of_calibration(found: Calibration, notes: _Notes) -> None:
    if found.calibrated:
        notes.trustworthy.append(
            f"Widths and places of the posterior on simulated data: ranks of {len(found.ranks)} replications are "
            f"uniform ({found.said_p_value})."
        )
        return
    marked = [name for name, direction in zip(found.units, found.directions, strict=True) if direction]
    worst = found.directions[found.units.index(found.worst_unit)]
    notes.doubtful.append(
        f"Widths and places of the posterior on simulated data: {len(marked)} of {len(found.units)} units are not "
        f"calibrated, the worst {found.worst_unit}, which is {worst} ({found.said_p_value})."
    )
    if worst == "too narrow":
        notes.next_steps.append(
            "The guide is too narrow, as guides trained by the ELBO are where their family is too small: a richer "
            "family, or an importance-weighted bound."
        )


def _of_gaps(test: InferenceGap, train: InferenceGap | None, quantity: str, notes: _Notes) -> None:
    summary = test.summary()
    total, error = summary["total"]["mean"], summary["total"]["standard_error"]
    parts = {name: summary[name]["mean"] for name in ("approximation", "amortisation")}
    told = (
        f"the ELBO is {total:.2f} ± {error:.2f} nats below {quantity}: {parts['approximation']:.2f} for the family, "
        f"{parts['amortisation']:.2f} for the encoder"
    )
    if total < _SMALL_GAP:
        notes.trustworthy.append(f"The ELBO as a stand-in for {quantity}: {told}.")
        return
    notes.doubtful.append(f"The ELBO as a stand-in for {quantity}: {told}.")
    cures: dict[str, str] = {
        "approximation": "A richer family for the guide: full covariance, a flow, or a hierarchy.",
        "amortisation": "A better encoder: larger, trained longer, or refined for each datum.",
    }
    if test.joint:
        cures["amortisation"] = (
            "More steps, or a smaller learning rate at the end: the guide is not at its optimum."
        )
    for name in sorted(parts, key=lambda name: -parts[name]):
        if parts[name] > max(_SMALL_GAP / 2, _ERRORS * summary[name]["standard_error"]):
            notes.next_steps.append(cures[name])
    if train is not None:
        difference = gap_difference(train, test)["amortisation"]
        if difference["mean"] > max(_SMALL_GAP / 2, _ERRORS * difference["standard_error"]):
            notes.doubtful.append(
                f"The encoder on new data: its gap is {difference['mean']:.2f} ± {difference['standard_error']:.2f} "
                "nats larger than on training data."
            )
            notes.next_steps.append(
                "Less overfitting of the encoder: more data, augmentation, weight decay or dropout."
            )


def _of_chains(found: NutsReference, notes: _Notes) -> None:
    mixed = found.mixed
    scales, shift = found.scale_ratio[mixed], float(np.nanmax(np.abs(found.mean_error[mixed])))
    low, high = float(np.nanmin(scales)), float(np.nanmax(scales))
    told = (
        f"at {mixed.sum()} of {len(mixed)} data, means are at most {shift:.2f} standard deviations off, scales "
        f"{low:.2f} to {high:.2f} times those of the chains"
    )
    if shift <= _LARGEST_SHIFT and _SCALES[0] <= low and high <= _SCALES[1]:
        notes.trustworthy.append(f"The guide against Markov chains: {told}.")
    else:
        notes.doubtful.append(f"The guide against Markov chains: {told}.")


def _of_collapse(found: Collapse, notes: _Notes) -> None:
    for line in found.verdict:
        what, _, cure = line.partition("; try ")
        notes.doubtful.append(f"{what[:1].upper()}{what[1:]}.")
        notes.next_steps.append(f"{cure[:1].upper()}{cure[1:]}.")
    local = {name: site for name, site in found.sites.items() if site.kl_per_datum.ndim}
    if local and not found.verdict:
        kl = ", ".join(f"{site.kl:.2f} in {name!r}" for name, site in local.items())
        notes.trustworthy.append(f"The latents are in use: KL of {kl}, in nats.")
