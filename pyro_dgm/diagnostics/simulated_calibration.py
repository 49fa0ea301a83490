"""Simulation-based calibration of an amortised guide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine

from pyro_dgm.diagnostics.ranking import (
    Ranks,
    Units,
    buffers_as_found,
    guide_draws,
    plate_of_replications,
    require_amortised,
    values_of,
)
from pyro_dgm.diagnostics.rows import require_data
from pyro_dgm.diagnostics.simulation import Simulator
from pyro_dgm.diagnostics.uniformity import ecdf_difference, ecdf_envelope, normal_scores, score_test
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import as_found, inspect_pair
from pyro_dgm.objectives.sites import latent_sites

_FEWEST_SAMPLES, _FEWEST_REPLICATIONS = 10, 20


@dataclass(frozen=True)
class Calibration:
    """What :func:`calibration` returns; a unit is one scalar latent.

    Args:
        units: names of the units, such as ``z[3]``.
        ranks: (replications, units), number of draws from the guide below the true value, 0 to ``num_samples``;
            random among draws that equal it.
        normal_scores: (replications, units), standard normal if the guide is exact.
        mean_z: (units,), significance of the mean of the scores, a standard normal if the guide is exact; positive
            if the guide is too low.
        dispersion_z: (units,), the same of their variance; positive if the guide is too narrow.
        p_values: (units,), of mean and dispersion together, not corrected for the number of units.
        p_value: of all units, with Bonferroni's correction.
        worst_unit: the unit with the smallest p-value.
        directions: of each unit ``"too narrow"``, ``"too wide"``, ``"biased low"``, ``"biased high"`` (the guide's
            draws, against the truth), or ``""`` where its p-value, times the number of units, is above
            1 - ``confidence``.
        z_scores: (replications, units), (mean of the guide - true value) / standard deviation of the guide.
        contraction: (replications, units), 1 - variance of the guide / variance of the prior: 1 where the data say
            all about a unit, 0 where they say nothing.
        ecdf_points: (points,), where the ECDF of the ranks is compared with the uniform one.
        ecdf_differences: (points, units), the ECDF of rank / (S + 1) minus the uniform CDF.
        envelope: lower and upper limit, each (points,), within which one exact unit stays at all points with
            probability ``confidence``.
        outside_envelope: (units,), whether the difference leaves the envelope anywhere.
        num_samples: number S of draws from the guide per replication.
        confidence: probability that an exact guide passes.
    """

    units: tuple[str, ...]
    ranks: np.ndarray
    normal_scores: np.ndarray
    mean_z: np.ndarray
    dispersion_z: np.ndarray
    p_values: np.ndarray
    p_value: float
    worst_unit: str
    directions: tuple[str, ...]
    z_scores: np.ndarray
    contraction: np.ndarray
    ecdf_points: np.ndarray
    ecdf_differences: np.ndarray
    envelope: tuple[np.ndarray, np.ndarray]
    outside_envelope: np.ndarray
    num_samples: int
    confidence: float

    @property
    def calibrated(self) -> bool:
        """Whether these replications leave the guide's calibration standing: p-value at least 1 - confidence."""
        return self.p_value >= 1 - self.confidence

    @property
    def said_p_value(self) -> str:
        """The p-value as text; one that is no number any more is below 1e-300."""
        return f"p = {self.p_value:.2g}" if self.p_value > 1e-300 else "p < 1e-300"

    def __str__(self) -> str:
        number = f"{len(self.units)} unit{'s' * (len(self.units) > 1)}, {len(self.ranks)} replications"
        if self.calibrated:
            return f"no sign of miscalibration ({self.said_p_value}; {number})"
        worst = self.directions[self.units.index(self.worst_unit)]
        return f"miscalibrated, worst {self.worst_unit}: {worst} ({self.said_p_value}; {number})"


@torch.no_grad()
def calibration(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_replications: int = 1000,
    num_samples: int = 199,
    confidence: float = 0.99,
) -> Calibration:
    r"""Simulation-based calibration of an amortised guide, without fitting it again.

    .. math:: z \sim p(z), \quad x \sim p(x \mid z), \quad
              r = \#\{s : z_s < z\}, \quad z_1, \dots, z_S \sim q(\cdot \mid x)

    If the guide is the exact posterior, each rank r is uniform on 0..S. A guide that is too narrow has ranks at both
    ends, one that is too wide in the middle, a biased one at one end. Local latents (inside the plate that all
    observed sites share) give a replication per datum; if any latent lies outside it, a replication is a whole data
    set. As many batches are simulated as are needed.

    The data come from the **model**: this says whether the guide is right about data that the model would generate.
    Real data may lie elsewhere, and the guide may be wrong there. It also says nothing of how much the guide learns
    from the data: the prior itself as guide has uniform ranks, with contraction zero.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch; it must depend on the data.
        batch: positional arguments of both. They give the shapes; of their values only those remain which the model
            reads and does not observe (labels).
        num_replications: number of ranks per unit, at least 20.
        num_samples: number S of draws from the guide per replication, at least 10.
        confidence: probability that an exact guide passes the test, and that a unit of it stays in the envelope.

    Raises:
        InvalidInput: a guide that does not look at the data (an autoguide), a pair without latents, a model that
            cannot be simulated (see :func:`~pyro_dgm.diagnostics.simulation.simulate`), draws that are not finite,
            too few replications or draws, or a confidence outside (0, 1).
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch, pyro, pyro.distributions as dist
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> def narrow(x):
        ...     q = ppca.exact_posterior(x)
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("z", dist.MultivariateNormal(q.mean, scale_tril=0.7 * q.scale_tril))
        >>> calibration(ppca.model, ppca.guide, torch.zeros(500, 4)).p_value > 1e-6
        True
        >>> print(calibration(ppca.model, narrow, torch.zeros(500, 4)).directions)
        ('too narrow', 'too narrow')

    Reference:
        Talts, Betancourt, Simpson, Vehtari and Gelman, "Validating Bayesian inference algorithms with
        simulation-based calibration", 2018.
        Yao, Vehtari, Simpson and Gelman, "Yes, but did it work?: Evaluating variational inference", 2018.
        Cook, Gelman and Rubin, "Validation of software for Bayesian models using posterior quantiles", 2006.
    """
    for name, value, fewest in (
        ("num_replications", num_replications, _FEWEST_REPLICATIONS),
        ("num_samples", num_samples, _FEWEST_SAMPLES),
    ):
        if value < fewest:
            raise InvalidInput("too few", where=name, value=value, expected=f"an integer >= {fewest}")
    if not 0 < confidence < 1:
        raise InvalidInput("no probability", where="confidence", value=confidence, expected="0 < number < 1")
    require_data(batch)
    guide = complete_guide(model, guide, batch)
    layout = inspect_pair(model, guide, batch, num_samples)
    if not layout.has_latents:
        raise InvalidInput("no latent variables", where="guide", expected="at least one latent site")
    simulator = Simulator(model, batch)
    require_amortised(simulator, guide)
    with as_found():
        trace = poutine.trace(model).get_trace(*batch)
    units = Units(latent_sites(trace), layout, plate_of_replications(trace))
    pieces: list[np.ndarray] = []
    done = 0
    with buffers_as_found():
        while done < num_replications:
            simulation = simulator.draw()
            ranks = Ranks(units, values_of(simulation.latents))
            for draws in guide_draws(guide, simulation.batch, num_samples, layout, ranks.size):
                ranks.add(draws)
            pieces.append(ranks.result()[:, : num_replications - done])
            done += pieces[-1].shape[1]
    return _judged(units.names, np.concatenate(pieces, axis=1), num_samples, confidence)


def _judged(units: tuple[str, ...], found: np.ndarray, num_samples: int, confidence: float) -> Calibration:
    truth, means, variances = found[:3]  # each (replications, units)
    ranks = found[3].astype(np.int64)
    test = score_test(ranks, num_samples)
    points, differences = ecdf_difference(ranks, num_samples)
    lower, upper = ecdf_envelope(len(ranks), num_samples, confidence)
    corrected = np.minimum(test.p_values * len(units), 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a discrete latent may have no variance
        z_scores = (means - truth) / np.sqrt(variances)
        contraction = 1 - variances / truth.var(0, ddof=1)
    directions = tuple(
        "" if p >= 1 - confidence else _direction(mean, dispersion)
        for p, mean, dispersion in zip(corrected, test.mean, test.dispersion, strict=True)
    )
    significance = np.maximum(abs(test.mean), abs(test.dispersion))  # p-values may all be zero
    return Calibration(
        units=units,
        ranks=ranks,
        normal_scores=normal_scores(ranks, num_samples),
        mean_z=test.mean,
        dispersion_z=test.dispersion,
        p_values=test.p_values,
        p_value=float(corrected.min()),
        worst_unit=units[int(significance.argmax())],
        directions=directions,
        z_scores=z_scores,
        contraction=contraction,
        ecdf_points=points,
        ecdf_differences=differences,
        envelope=(lower, upper),
        outside_envelope=np.any((differences < lower[:, None]) | (differences > upper[:, None]), axis=0),
        num_samples=num_samples,
        confidence=confidence,
    )


def _direction(mean: float, dispersion: float) -> str:
    if abs(mean) > abs(dispersion):
        return "biased low" if mean > 0 else "biased high"
    return "too narrow" if dispersion > 0 else "too wide"
