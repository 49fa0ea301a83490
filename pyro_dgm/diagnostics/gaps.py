"""What a guide loses against log p(x): by its family, and by one network for all data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.diagnostics.gap_estimates import Piece, annealed_log_p, bounds, error_by_tail, failed
from pyro_dgm.diagnostics.gap_parts import InferenceGap
from pyro_dgm.diagnostics.rows import can_cut, is_joint, num_rows, take_rows
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import apart, inspect_pair, new_seed
from pyro_dgm.samplers.ais import AnnealedSamples, annealed_importance_sampling

Estimator = Literal["auto", "iwae", "ais"]

_ROWS = 500  # data that are optimised together


def inference_gap(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_particles: int = 5000,
    steps: int = 1000,
    estimator: Estimator = "auto",
    ais: Callable[..., AnnealedSamples] = annealed_importance_sampling,
    start: Literal["prior", "guide"] = "prior",
) -> InferenceGap:
    r"""log p(x) - ELBO of each datum, split into the approximation gap and the amortisation gap.

    The best member of the family is found by Adam, from the guide's own, with an offset for each parameter of each
    datum; see :class:`~pyro_dgm.diagnostics.local_guide.LocalGuide` for what that reaches of a structured guide or a
    flow. Draws of their own then decide, for each datum, whether it is better than the guide, and further draws, the
    same for both, give the two bounds, so that nothing is selected by the numbers that are reported.

    log p(x) is estimated by importance weights from the guide or from its local optimum, whichever has the more
    effective draws among those that decide, if its k-hat alone does not speak against it; or by annealed importance
    sampling. ``"auto"`` asks the latter of data whose k-hat k says that the weights of S draws failed (fewer than 100
    effective draws where there is no k-hat), if their latents are continuous, and takes it where its standard error is
    the smaller one; that of the weights is first enlarged by :math:`S^{k - 1/2}`, since the mean of such weights
    settles more slowly. Either estimate is low rather than high, and a mode that no draw or chain has visited is
    missing from it.

    Scales do not count and masks do, as in :func:`~pyro_dgm.objectives.weights.log_weights`.

    Args:
        model: Pyro model, called with a piece of the batch.
        guide: Pyro guide, called with a piece of the batch.
        batch: positional arguments of both; tensors whose first dimension is the datum are cut into pieces.
        num_particles: draws per datum for the bounds and the importance weights.
        steps: largest number of steps of the optimisation.
        estimator: ``"auto"``, ``"iwae"`` or ``"ais"``.
        ais: sampler ``ais(densities, start)``; ``functools.partial(annealed_importance_sampling, ...)`` for other
            temperatures or chains.
        start: where annealing begins: ``"prior"``, or ``"guide"``, which is nearer and has less noise where it covers
            the posterior, but leaves a mode that it misses, or a place that it is too narrow for, less easily.

    Raises:
        InvalidInput: no data, no particles, no steps, NaN in the data, an unknown option, a pair without weights,
            discrete latents with ``"ais"``, or a family whose parameters cannot be moved, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> gap = inference_gap(ppca.model, ppca.guide, ppca.model(n=5).detach(), num_particles=100, steps=10)
        >>> bool(abs(gap.total).max() < 1e-4)  # the guide is the exact posterior
        True

    Reference:
        Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders", 2018.
        Wu, Burda, Salakhutdinov and Grosse, "On the quantitative analysis of decoder-based generative models", 2017.
    """
    _check(batch, num_particles=num_particles, steps=steps, estimator=estimator, start=start)
    with apart(), torch.no_grad():
        guide = complete_guide(model, guide, batch)
        layout = inspect_pair(model, guide, batch, max(num_particles, 2))
        joint = is_joint(model, guide, batch, layout)
        pieces, is_cuttable = [batch], not joint and can_cut(model, guide, batch, layout)
        if is_cuttable:
            starts = range(0, num_rows(batch) or 0, _ROWS)
            pieces = [take_rows(batch, slice(start, start + _ROWS)) for start in starts]
        found = []
        for rows in pieces:
            piece = Piece(model, guide, rows, layout, joint=joint, is_cuttable=is_cuttable)
            if not layout.has_latents:
                found.append(_exact(piece))
                continue
            if estimator == "ais":
                piece.annealed(start)  # whatever it refuses, it refuses before the long search
            gap = bounds(piece, num_particles=num_particles, steps=steps)
            chosen = failed(gap["log_p_standard_error"], gap["k_hat"], num_particles)
            if estimator == "ais":
                chosen[:] = True
            if estimator != "iwae" and chosen.any():
                required = estimator == "ais"
                _anneal_chosen(piece, gap, chosen, num_particles, start=start, ais=ais, required=required)
            found.append(gap)
    joined = {name: np.concatenate([gap[name] for gap in found]) for name in found[0]}
    return InferenceGap(**joined, num_particles=num_particles, joint=joint)


def _check(batch: tuple[Any, ...], *, num_particles: int, steps: int, estimator: str, start: str) -> None:
    for name, value in (("num_particles", num_particles), ("steps", steps)):
        if value < 1:
            raise InvalidInput("too few", where=name, value=value, expected="an integer >= 1")
    options = {"estimator": (estimator, ("auto", "iwae", "ais")), "start": (start, ("prior", "guide"))}
    for name, (option, known) in options.items():
        if option not in known:
            expected = " or ".join(map(repr, known))
            raise InvalidInput("unknown option", where=name, value=repr(option), expected=expected)
    for index, field in enumerate(batch):
        if not isinstance(field, Tensor):
            continue
        where = f"argument {index} of the batch"
        if not field.numel():
            raise InvalidInput(
                "no data", where=where, value=tuple(field.shape), expected="at least one datum"
            )
        if field.is_floating_point() and bool(field.isnan().any()):
            bad = (
                field.reshape(len(field), -1).isnan().any(1).nonzero() if field.dim() else field.new_zeros(1)
            )
            raise InvalidInput(
                "NaN in the data",
                where=where,
                value=f"rows {', '.join(str(int(row)) for row in bad[:5])}",
                expected="numbers; a mask for what is missing",
            )


def _anneal_chosen(
    piece: Piece,
    gap: dict[str, np.ndarray],
    chosen: np.ndarray,
    num_particles: int,
    *,
    start: str,
    ais: Callable[..., AnnealedSamples],
    required: bool,
) -> None:
    """Puts annealed estimates in the place of the chosen data's where they are the better ones, or are required."""
    try:
        log_p, error = annealed_log_p(piece, chosen, start=start, ais=ais)
    except InvalidInput:
        if required:
            raise
        return
    known = ~np.isnan(log_p)
    if required and not known.all():
        raise InvalidInput(
            "a log-weight that is not a number",
            where="annealed importance sampling",
            value=f"{(~known).sum()} of {len(known)} data",
            expected="finite densities wherever the start draws",
            cure="estimator='iwae'",
        )
    if not required:
        known &= error < error_by_tail(gap["log_p_standard_error"], gap["k_hat"], num_particles)[chosen]
    places = np.flatnonzero(chosen)[known]
    gap["log_p"][places], gap["log_p_standard_error"][places] = log_p[known], error[known]
    gap["estimator"][places] = "ais"


def _exact(piece: Piece) -> dict[str, np.ndarray]:
    """Without latents each weight is log p(x), and there is no gap."""
    log_p = piece.log_weights(1, new_seed())[0]
    values = dict.fromkeys(("log_p", "elbo", "best_elbo"), log_p)
    nothing = ("log_p", "elbo", "best_elbo", "amortisation")
    errors = {f"{name}_standard_error": np.zeros_like(log_p) for name in nothing}
    unknown = {"k_hat": np.full_like(log_p, -math.inf), "estimator": np.full(len(log_p), "exact")}
    return values | errors | unknown
