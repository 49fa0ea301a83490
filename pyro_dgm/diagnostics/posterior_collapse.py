"""Posterior collapse: whether the latents say anything about the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.diagnostics.aggregated_posterior import aggregated_posterior
from pyro_dgm.diagnostics.draw_table import as_numpy
from pyro_dgm.diagnostics.rows import require_data
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation.activity import ACTIVE_UNIT, unit_activity
from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.divergence import (
    COLLAPSED_SITE,
    COLLAPSED_UNIT,
    CURES,
    SiteDivergence,
    site_divergences,
)
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import apart, inspect_pair


@dataclass(frozen=True)
class SiteCollapse:
    r"""One latent site.

    Args:
        kl_per_datum: KL(q(z | x) || p(z)) of each datum in nats (batch,); () for a site outside the plate of the data.
        kl: its mean over the data.
        kl_standard_error: of ``kl``, as an estimate for data like these (Monte Carlo error included); of a site outside
            the plate of the data, Monte Carlo error alone.
        kl_per_unit: mean over the data of each unit (units,); None where guide or prior does not factorise over units.
        activity: variance over the data of the posterior mean of each unit (units,), in squared units of z; None
            where that has no meaning (outside the plate of the data, no mean, a batch that is no row of tensors).
        active_units: number of units u with :math:`\mathrm{Var}_x(\mathbb{E}_q z_u) > 0.01`; None where that has
            no meaning (outside the plate of the data, no mean, a batch that is no row of tensors).
        mean: of the aggregated posterior, each unit (units,); None outside the plate of the data.
        standard_deviation: the same.
    """

    kl_per_datum: np.ndarray
    kl: float
    kl_standard_error: float
    kl_per_unit: np.ndarray | None
    activity: np.ndarray | None
    active_units: int | None
    mean: np.ndarray | None
    standard_deviation: np.ndarray | None


@dataclass(frozen=True)
class Collapse:
    """What :func:`collapse` found.

    Args:
        sites: by name of the latent site.
        mutual_information: between the datum and all its latents, in nats; None where ``notes`` says why.
        mutual_information_standard_error: as an estimate for data like these.
        mutual_information_ceiling: log N of N data, which the estimate cannot exceed.
        aggregated_kl: KL(q(z) || p(z)) in nats, of the aggregated posterior; None where ``notes`` says why.
        aggregated_kl_standard_error: the same; with the bias that a finite number of data leaves.
        notes: what limits these numbers, one sentence each.
        verdict: what has collapsed and what to try, one sentence each; empty if nothing has.
    """

    sites: dict[str, SiteCollapse]
    mutual_information: float | None
    mutual_information_standard_error: float | None
    mutual_information_ceiling: float | None
    aggregated_kl: float | None
    aggregated_kl_standard_error: float | None
    notes: tuple[str, ...]
    verdict: tuple[str, ...]


@torch.no_grad()
def collapse(
    model: Callable[..., Any], guide: Callable[..., Any], *batch: Any, num_samples: int = 10
) -> Collapse:
    r"""Divergences, active units and mutual information: how much the latents of a guide know of the data.

    The KL of the ELBO has two parts,

    .. math:: \frac1N \sum_i \mathrm{KL}(q(z \mid x_i) \,\|\, p(z)) = I_q(x; z) + \mathrm{KL}(q(z) \,\|\, p(z)),
              \qquad q(z) = \frac1N \sum_j q(z \mid x_j):

    what z says about x, and how far the aggregated posterior is from the prior. They are estimated from draws
    :math:`z_i \sim q(z \mid x_i)` by the means of :math:`\log q(z_i \mid x_i) - \log q(z_i)` and
    :math:`\log q(z_i) - \log p(z_i)`. All local latents count together, so structured guides are no exception.
    With N data the mutual information is at most log N, so it is a lower bound where it comes near that;
    ``notes`` says so, and also where noise alone makes it negative. Pairs of data are taken in pieces of
    bounded memory; time grows with the square of N (above 1,800 data with fewer than ``num_samples`` draws).

    Modules run in the mode they are in: call ``eval()`` first where there is dropout or batch norm.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both; several hundred data or more.
        num_samples: number of draws from the guide.

    Raises:
        InvalidInput: no draws, a pair without latent variables, or one that has no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=500).detach()
        >>> found = collapse(ppca.model, ppca.guide, x)
        >>> found.sites["z"].active_units, found.verdict
        (2, ())
        >>> split = found.mutual_information + found.aggregated_kl
        >>> abs(split - found.sites["z"].kl) < 0.3
        True

    Reference:
        Hoffman and Johnson, "ELBO surgery: yet another way to carve up the variational evidence lower bound", 2016.
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """
    require_particles(num_samples)
    require_data(batch)
    with apart():
        guide = complete_guide(model, guide, batch)
        layout = inspect_pair(model, guide, batch, max(num_samples, 2))
        if not layout.has_latents:
            raise InvalidInput(
                "no latent variables", where="the guide", expected="at least one, or nothing can collapse"
            )
        divergences = site_divergences(model, guide, *batch, num_particles=num_samples, layout=layout)
        whole = aggregated_posterior(model, guide, batch, num_samples, layout)
        activity = _activity(guide, batch)
    sites = {
        name: _site(divergence, activity.get(name) if divergence.is_local else None, whole.moments.get(name))
        for name, divergence in divergences.items()
    }
    return Collapse(
        sites=sites,
        mutual_information=whole.mutual_information,
        mutual_information_standard_error=whole.mutual_information_standard_error,
        mutual_information_ceiling=whole.ceiling,
        aggregated_kl=whole.divergence,
        aggregated_kl_standard_error=whole.divergence_standard_error,
        notes=whole.notes,
        verdict=tuple(line for name, site in sites.items() for line in _judged(name, site)),
    )


def _site(
    divergence: SiteDivergence, activity: Tensor | None, moments: tuple[np.ndarray, np.ndarray] | None
) -> SiteCollapse:
    values = divergence.per_datum
    over_data = values.numel() > 1 and divergence.is_local
    error = values.std() / math.sqrt(len(values)) if over_data else divergence.standard_error.mean()
    mean, deviation = (None, None) if moments is None else moments
    return SiteCollapse(
        kl_per_datum=as_numpy(values),
        kl=divergence.mean,
        kl_standard_error=error.item(),
        kl_per_unit=None if divergence.per_unit is None else as_numpy(divergence.per_unit),
        activity=None if activity is None else as_numpy(activity),
        active_units=None if activity is None else int((activity > ACTIVE_UNIT).sum()),
        mean=mean,
        standard_deviation=deviation,
    )


def _activity(guide: Callable[..., Any], batch: tuple[Any, ...]) -> dict[str, Tensor]:
    """Activity of the units by site; none where the tensors of the batch are not of one length."""
    rows = [field for field in batch if isinstance(field, Tensor) and field.dim()]
    if len({len(field) for field in rows}) != 1 or len(rows[0]) < 2:
        return {}

    def of_rows(*piece: Tensor) -> Any:
        left = iter(piece)
        return guide(*(next(left) if isinstance(field, Tensor) and field.dim() else field for field in batch))

    # In one piece, since a guide may hold parameters for each datum.
    return unit_activity(of_rows, *rows, rows=len(rows[0]))


def _judged(name: str, site: SiteCollapse) -> list[str]:
    """Sentences on what has collapsed at a site, and what to try."""
    if site.kl_per_datum.ndim == 0:
        return []
    if site.kl < COLLAPSED_SITE:
        return [f"site {name!r} has collapsed to the prior: KL {site.kl:.3f} nats per datum; try {CURES}"]
    lines = []
    units = np.empty(0) if site.kl_per_unit is None else np.flatnonzero(site.kl_per_unit < COLLAPSED_UNIT)
    if site.kl_per_unit is not None and len(units):
        some = ", ".join(map(str, units[:10])) + (", ..." if len(units) > 10 else "")
        lines.append(
            f"{len(units)} of {len(site.kl_per_unit)} units of site {name!r} have collapsed to the prior ({some}); "
            f"try fewer latent dimensions if the data need no more, else {CURES}"
        )
    if site.active_units == 0:
        lines.append(
            f"site {name!r} has no active unit: its KL of {site.kl:.2f} nats is spent on one posterior for all data; "
            f"try a learned prior, or {CURES}"
        )
    return lines
