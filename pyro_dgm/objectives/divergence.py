"""Kullback-Leibler divergence of the guide from the prior, by site, datum and unit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.divergence_terms import divergence_terms
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.sites import sample_sites
from pyro_dgm.objectives.traces import Layout, run_pair

# Numbers at the latent sites of one pass; what the networks hold between them is a small multiple of it.
_ELEMENTS_PER_PASS = 2**21

COLLAPSED_SITE = 0.1  # nats per datum, below which a site says next to nothing
COLLAPSED_UNIT = 0.01
CURES = "KL annealing, free bits or a weaker decoder"


@dataclass(frozen=True)
class SiteDivergence:
    """KL(q || p) of one latent site, averaged over particles.

    Args:
        per_datum: (batch,) in nats, () of a site outside the plate of the data.
        standard_error: Monte Carlo standard error of each, by the spread over particles: zero where the closed form
            depends on no draw, NaN with a single particle.
        per_unit: (units,), averaged over the data; None where guide or prior does not factorise over units.
        is_local: whether the site lies in the plate of the data.
    """

    per_datum: Tensor
    standard_error: Tensor
    per_unit: Tensor | None
    is_local: bool

    @property
    def mean(self) -> float:
        """Mean over the data."""
        return self.per_datum.mean().item()


@torch.no_grad()
def site_divergences(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_particles: int = 10,
    layout: Layout | None = None,
) -> dict[str, SiteDivergence]:
    r"""KL(q(z | x) || p(z)) of each latent site, of each datum and of each unit.

    A site that depends on others has :math:`\mathbb{E}_q\,\mathrm{KL}(q(z_1 \mid z_2, x) \,\|\, p(z_1 \mid z_2))`,
    so that the sum over sites is the divergence of all latents. See :func:`divergence_terms` for what is in closed
    form. Draws are taken in passes of bounded memory.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_particles: number of draws from the guide.
        layout: what :func:`~pyro_dgm.objectives.inspection.inspect_pair` found, to save that run.

    Returns:
        Divergence by site.

    Raises:
        InvalidInput: no particles, or a pair that has no bound, naming the site.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae = VAE(data_shape=(1, 8, 8), latent_dim=2)
        >>> kl = site_divergences(vae.model, vae.guide, torch.zeros(5, 1, 8, 8))["z"]
        >>> kl.per_datum.shape, kl.per_unit.shape, kl.standard_error.max().item()
        (torch.Size([5]), torch.Size([2]), 0.0)

    Reference:
        Kingma and Welling, "Auto-encoding variational Bayes", 2014.
    """
    require_particles(num_particles)
    if layout is None:
        layout = inspect_pair(model, guide, batch, num_particles)
    values: dict[str, list[Tensor]] = {}
    units: dict[str, list[Tensor]] = {}
    done, per_pass = 0, 1  # the first draw shows how much a draw takes
    while done < num_particles:
        count = min(per_pass, num_particles - done)
        for traces in run_pair(model, guide, batch, count, layout):
            for name, terms in divergence_terms(*traces).items():
                values.setdefault(name, []).append(terms.per_datum.double())
                if terms.per_unit is not None:
                    per_unit = terms.per_unit.double()  # (particles, [batch,] units)
                    units.setdefault(name, []).append(per_unit.mean(1) if per_unit.dim() == 3 else per_unit)
        if not done:
            size = sum(site["value"].numel() for site in sample_sites(traces[0]).values())
            per_pass = max(1, _ELEMENTS_PER_PASS // max(1, size))
        done += count
    found = {}
    for name, pieces in values.items():
        of_draws = torch.cat(pieces)  # (particles, batch)
        # From the first draw, so that equal terms (a closed form that depends on no draw) have no rounding in them.
        spread = (of_draws - of_draws[:1]).std(0) if num_particles > 1 else of_draws[0] * math.nan
        found[name] = SiteDivergence(
            per_datum=of_draws.mean(0),
            standard_error=spread / math.sqrt(num_particles),
            per_unit=torch.cat(units[name]).mean(0) if name in units else None,
            is_local=of_draws.dim() == 2,
        )
    return found
