"""Whether the numbers of an InferenceData can be trusted, and why not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_dgm.diagnostics.psis import import_arviz, k_hat_threshold

if TYPE_CHECKING:
    from arviz import InferenceData

_LARGEST_R_HAT = 1.01


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """Verdict on an inference; ``dataclasses.asdict`` gives what JSON takes.

    Args:
        reliable: whether there is no reason against it.
        reasons: one line each.
        num_draws: draws of all chains.
        reweighted_reliable: whether averages with importance weights can be trusted, for each datum; None where
            there are no weights.
        usable_as_is: whether the guide's draws do without weights, for each datum.
        num_usable_as_is: number of data for which they do.
        notes: what else to know, one line each.
        k_hat_threshold: largest k-hat that so many draws can stand; None where there are no k-hats.
        num_k_hats: number of k-hats, one per datum or a single one.
        num_k_hats_above: those above the threshold.
        num_k_hats_unknown: those that could not be estimated.
        worst_k_hat: the largest; None where none is finite.
        worst_r_hat: the largest; None where there is only one chain.
        worst_r_hat_variable: the variable it belongs to.
        divergences: number of divergent transitions; None where none were counted.
        non_finite_variables: variables of which a draw is NaN or infinite.
    """

    reliable: bool
    reasons: tuple[str, ...]
    num_draws: int
    reweighted_reliable: bool | None = None
    usable_as_is: bool | None = None
    num_usable_as_is: int = 0
    notes: tuple[str, ...] = ()
    k_hat_threshold: float | None = None
    num_k_hats: int = 0
    num_k_hats_above: int = 0
    num_k_hats_unknown: int = 0
    worst_k_hat: float | None = None
    worst_r_hat: float | None = None
    worst_r_hat_variable: str | None = None
    divergences: int | None = None
    non_finite_variables: tuple[str, ...] = ()


def reliability(idata: InferenceData) -> Reliability:
    r"""Verdict on the draws of an InferenceData, of a guide or of a Markov chain.

    k-hat certifies averages that are weighted. Whether the guide's own draws will do is another question: a guide that
    is half a deviation off has a low k-hat. Hence two flags, ``reweighted_reliable`` and ``usable_as_is``; for the
    second, weights may move the mean of no latent by more than 0.2 standard deviations of the guide, and change no
    standard deviation by more than a factor of 1.25. Neither can see a mode that no draw has visited.

    Draws are unreliable if

    - a k-hat in ``sample_stats`` is above :math:`\min(1 - 1 / \log_{10} S, 0.7)` for S draws, or is not known;
    - there are several chains and a variable's R-hat is above 1.01;
    - ``sample_stats`` counts ``diverging`` transitions;
    - a variable has draws that are NaN or infinite.

    Args:
        idata: from :func:`~pyro_dgm.diagnostics.inference_data.to_inferencedata`, ``arviz.from_pyro`` or elsewhere.

    Example:
        >>> import torch
        >>> from pyro_dgm.diagnostics import to_inferencedata
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=5).detach()
        >>> reliability(to_inferencedata(ppca.model, ppca.guide, x)).reliable
        True
        >>> print(*reliability(to_inferencedata(ppca.model, ppca.guide, x, num_samples=10)).reasons)
        k-hat of 5 of 5 could not be estimated from 10 draws: more draws are needed

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, "Pareto smoothed importance sampling", 2024.
        Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization: an improved
        R-hat for assessing convergence of MCMC", 2021.
    """
    stats, posterior = idata.get("sample_stats"), idata.get("posterior")
    sizes = next((dict(group.sizes) for group in (posterior, stats) if group is not None), {})
    num_draws = sizes.get("chain", 1) * sizes.get("draw", 0)
    reasons: list[str] = []
    numbers: dict[str, Any] = {}
    if stats is not None and "k_hat" in stats:
        _judge_k_hats(stats["k_hat"], num_draws, reasons, numbers)
    if stats is not None and "usable_as_is" in stats:
        _judge_means(stats, numbers)
    if posterior is not None:
        bad = tuple(str(name) for name, draws in posterior.items() if not np.isfinite(draws.values).all())
        numbers["non_finite_variables"] = bad
        if bad:
            reasons.append(f"NaN or infinite draws of {', '.join(map(repr, bad))}")
    if posterior is not None and sizes.get("chain", 1) > 1:
        _judge_r_hats(posterior, reasons, numbers)
    if stats is not None and "diverging" in stats:
        divergences = numbers["divergences"] = int(stats["diverging"].sum())
        if divergences:
            reasons.append(f"{divergences} of {num_draws} transitions diverged")
    return Reliability(reliable=not reasons, reasons=tuple(reasons), num_draws=num_draws, **numbers)


def _judge_k_hats(k_hats: Any, num_draws: int, reasons: list[str], numbers: dict[str, Any]) -> None:
    values = np.asarray(k_hats.values, dtype=np.float64)
    threshold = k_hat_threshold(num_draws)
    unknown, above = int(np.isnan(values).sum()), int((values > threshold).sum())
    numbers |= {
        "k_hat_threshold": threshold,
        "num_k_hats": values.size,
        "num_k_hats_above": above,
        "num_k_hats_unknown": unknown,
    }
    worst = float(np.fmax.reduce(values, axis=None, initial=-math.inf))
    numbers["worst_k_hat"] = _finite(worst)
    if above:
        place = np.unravel_index(int(np.nanargmax(values)), values.shape)
        where = ", ".join(f"{dim} {index}" for dim, index in zip(k_hats.dims, place, strict=True))
        where = f" at {where}" if where else ""
        reasons.append(
            f"k-hat of {above} of {values.size} is above {threshold:.2f}, the worst {worst:.2f}{where}: "
            "the guide's tails are too light for its weights to be averaged"
        )
    if unknown:
        reasons.append(
            f"k-hat of {unknown} of {values.size} could not be estimated from {num_draws} draws: more draws are needed"
        )


def _judge_means(stats: Any, numbers: dict[str, Any]) -> None:
    reliable, usable = (stats[name].values.astype(bool) for name in ("reweighted_reliable", "usable_as_is"))
    numbers["reweighted_reliable"], numbers["usable_as_is"] = bool(reliable.all()), bool(usable.all())
    numbers["num_usable_as_is"] = int(usable.sum())
    notes = ["a mode that no draw has visited cannot be seen in weights"]
    if shifted := int((reliable & ~usable).sum()):
        notes.insert(
            0,
            f"weights move a mean by more than 0.2 standard deviations, or change one by more than a quarter, in "
            f"{shifted} of {usable.size}: use the weights, not the guide as it is",
        )
    numbers["notes"] = tuple(notes)


def _judge_r_hats(posterior: Any, reasons: list[str], numbers: dict[str, Any]) -> None:
    with np.errstate(all="ignore"):
        r_hats = {str(name): r_hat.values for name, r_hat in import_arviz().rhat(posterior).items()}
    worst = {
        name: float(np.fmax.reduce(r_hat, axis=None, initial=-math.inf)) for name, r_hat in r_hats.items()
    }
    name = max(worst, key=lambda name: worst[name])
    numbers |= {"worst_r_hat": _finite(worst[name]), "worst_r_hat_variable": name}
    above = sum(int((r_hat > _LARGEST_R_HAT).sum()) for r_hat in r_hats.values())
    if above:
        total = sum(r_hat.size for r_hat in r_hats.values())
        reasons.append(
            f"R-hat of {above} of {total} is above {_LARGEST_R_HAT}, the worst {worst[name]:.3f} in {name!r}: "
            "the chains have not mixed"
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
