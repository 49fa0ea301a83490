"""All diagnostics of one guide together: what each found, what could not be asked, and what to make of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tqdm import tqdm

from pyro_dgm.diagnostics.gap_parts import InferenceGap
from pyro_dgm.diagnostics.gaps import inference_gap
from pyro_dgm.diagnostics.importance_weights import Importance, importance
from pyro_dgm.diagnostics.nuts import NutsReference, nuts_reference
from pyro_dgm.diagnostics.posterior_collapse import Collapse, collapse
from pyro_dgm.diagnostics.rows import can_cut, take_rows
from pyro_dgm.diagnostics.simulated_calibration import Calibration, calibration
from pyro_dgm.errors import Fault
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import inspect_pair

_CHAINS: dict[str, Any] = {"num_samples": 150, "warmup": 120, "num_chains": 8}  # what half a minute allows
_OF_EXACT = 25  # draws of a model without latents
_PARTICLES = 2000  # for the bounds of the gap


@dataclass(frozen=True)
class Examination:
    """What :func:`examine` found; a part that could not be had is None, and ``left_out`` says why.

    Args:
        importance: weights of all data.
        gaps: inference gap by part of the data: ``"test"`` and, where training data were given, ``"train"``.
        calibration: on data that the model simulates.
        collapse: of all data.
        nuts: Markov chains for a few data.
        left_out: reason by name of the part.
        seconds: time that each part took.
        quantity: what the weights and the gap are about, in words.
        has_latents: whether there is a posterior to examine; without latent variables the likelihood is exact.
    """

    importance: Importance | None
    gaps: Mapping[str, InferenceGap]
    calibration: Calibration | None
    collapse: Collapse | None
    nuts: NutsReference | None
    left_out: Mapping[str, str]
    seconds: Mapping[str, float]
    quantity: str = "log p(x)"
    has_latents: bool = True


def examine(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    train: tuple[Any, ...] | None = None,
    num_samples: int = 1000,
    num_gap: int = 200,
    num_replications: int = 1000,
    num_nuts: int = 5,
    quantity: str = "log p(x)",
    progress: bool = False,
) -> Examination:
    """Runs every diagnostic that fits the pair.

    What cannot be asked of a pair (the calibration of a guide that does not look at the data, the weights of an
    implicit model) is left out with the reason; it is no error.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both; data that the guide was not trained on, best.
        train: the same of data that it was trained on, to see whether the encoder overfits.
        num_samples: draws from the guide per datum for the importance weights.
        num_gap: data for the inference gap and as shapes for the calibration; the first ones.
        num_replications: simulated data for the calibration; 0 for none.
        num_nuts: data that are compared with Markov chains; 0 for none.
        quantity: what the report calls the likelihood, such as ``log p(x | y)`` of a conditional model.
        progress: show a progress bar on standard error.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> found = examine(ppca.model, ppca.guide, ppca.model(n=50).detach(), num_samples=100, num_nuts=0)
        >>> bool(found.importance.usable_as_is.all()), found.collapse.verdict, dict(found.left_out)
        (True, (), {})
    """
    left_out: dict[str, str] = {}
    seconds: dict[str, float] = {}
    pair = model, guide
    cut, has_latents = _layout(model, guide, batch)
    some = cut(batch, num_gap)
    parts: dict[str, Callable[[], Any]] = {
        "importance": partial(importance, *pair, *batch, num_samples=num_samples),
        "gap, test": partial(inference_gap, *pair, *some, num_particles=_PARTICLES),
        "collapse": partial(collapse, *pair, *batch),
    }
    if not has_latents:
        left_out = dict.fromkeys(
            ("gap, test", "collapse", "calibration", "nuts"), "there are no latent variables"
        )
        # Of weights that are all log p(x) a few say as much as many.
        parts = {"importance": partial(importance, *pair, *batch, num_samples=min(num_samples, _OF_EXACT))}
    if train is not None and has_latents:
        # Of training data the amortisation gap matters, which needs no log p(x).
        parts["gap, train"] = partial(
            inference_gap, *pair, *cut(train, num_gap), num_particles=_PARTICLES, estimator="iwae"
        )
    if num_replications and has_latents:
        parts["calibration"] = partial(calibration, *pair, *some, num_replications=num_replications)
    if num_nuts and has_latents:
        parts["nuts"] = partial(nuts_reference, *pair, *cut(batch, num_nuts), **_CHAINS)
    found: dict[str, Any] = {}
    with tqdm(parts.items(), desc="diagnosis", unit="part", disable=None if progress else True) as bar:
        for name, ask in bar:
            bar.set_postfix_str(name)
            start = time.perf_counter()
            try:
                found[name] = ask()
            except Fault as fault:
                left_out[name] = str(fault)
            except (
                Exception
            ) as error:  # the user's own functions may raise anything; the other parts are kept
                left_out[name] = f"{type(error).__name__}: {error}".splitlines()[0]
            seconds[name] = time.perf_counter() - start
    return Examination(
        importance=found.get("importance"),
        gaps={part: found[f"gap, {part}"] for part in ("test", "train") if f"gap, {part}" in found},
        calibration=found.get("calibration"),
        collapse=found.get("collapse"),
        nuts=found.get("nuts"),
        left_out=left_out,
        seconds=seconds,
        quantity=quantity,
        has_latents=has_latents,
    )


def _layout(
    model: Callable[..., Any], guide: Callable[..., Any], batch: tuple[Any, ...]
) -> tuple[Callable[[tuple[Any, ...], int], tuple[Any, ...]], bool]:
    """Function that gives the first data, or all where they cannot be taken apart; whether there are latents."""
    is_cuttable, has_latents = False, True
    try:
        guide = complete_guide(model, guide, batch)
        layout = inspect_pair(model, guide, batch)
        has_latents = layout.has_latents
        is_cuttable = can_cut(model, guide, batch, layout)
    except Exception:  # each part says why it cannot be done
        pass
    return lambda fields, count: take_rows(fields, slice(count)) if is_cuttable else fields, has_latents
