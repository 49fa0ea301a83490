"""A guide compared with what the No-U-Turn sampler draws from the same posterior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.diagnostics.draw_table import plate_dim
from pyro_dgm.diagnostics.nuts_chains import frozen_parameters, is_sampled, run_chains, suitable_threads
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.diagnostics.ranking import Units, buffers_as_found, guide_draws, plate_of_replications
from pyro_dgm.diagnostics.rows import require_data
from pyro_dgm.diagnostics.sliced import sliced_wasserstein
from pyro_dgm.diagnostics.verdict import reliability
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.inspection import as_found, inspect_pair
from pyro_dgm.objectives.sites import Site, latent_sites, sample_sites

if TYPE_CHECKING:
    from arviz import InferenceData

_FEWEST_ESS, _LARGEST_R_HAT = 400, 1.05  # to compare with
_FEWEST_STEPS = 10


@dataclass(frozen=True)
class NutsReference:
    """What :func:`nuts_reference` returns; a unit is one scalar latent, and data are one row if they are one whole.

    Args:
        idata: the chains: ``posterior`` by site, and ``diverging`` in ``sample_stats``.
        units: names of the units, such as ``z[3]``.
        mean_error: (data, units), (mean of the guide - mean of NUTS) / standard deviation of NUTS.
        mean_error_standard_error: (data, units), of that error, by the effective sample sizes.
        scale_ratio: (data, units), standard deviation of the guide / that of NUTS.
        sliced_wasserstein: (data,), distance of guide and NUTS in units of the standard deviations of NUTS.
        sliced_wasserstein_floor: (data,), the same between two halves of the chains: what noise alone gives.
        r_hat: (data, units), rank-normalised.
        ess: (data, units), bulk effective sample size of all chains.
        divergences: number of divergent transitions, of all chains.
        guide_draws: (draws, data, units), from the guide.
        nuts_draws: (draws, data, units), chain after chain.
        reliable: whether NUTS can serve as a reference: no reason against it.
        reasons: one line each.
    """

    idata: InferenceData
    units: tuple[str, ...]
    mean_error: np.ndarray
    mean_error_standard_error: np.ndarray
    scale_ratio: np.ndarray
    sliced_wasserstein: np.ndarray
    sliced_wasserstein_floor: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    divergences: int
    guide_draws: np.ndarray
    nuts_draws: np.ndarray
    reliable: bool
    reasons: tuple[str, ...]

    @property
    def mixed(self) -> np.ndarray:
        """Whether the chains are good enough to judge the guide at a datum, (data,).

        None diverged, and for each unit R-hat is at most 1.05 and the effective sample size at least 400: the means of
        the chains are then known to a twentieth of a standard deviation. As a posterior of its own, ``reliable`` asks
        for an R-hat of 1.01, which one of many units misses by noise.
        """
        moving = self.nuts_draws.std(axis=0) > 0  # the others are constants
        fine = (self.r_hat <= _LARGEST_R_HAT) & (self.ess >= _FEWEST_ESS)
        return np.all(fine | ~moving, axis=1) & (self.divergences == 0)


def nuts_reference(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    num_samples: int = 500,
    warmup: int = 300,
    num_chains: int = 8,
    progress: bool = False,
) -> NutsReference:
    r"""Draws from :math:`p(z \mid x)` by Pyro's No-U-Turn sampler, and how far the guide is from them.

    Parameters stay as they are; only latents move. Discrete latents are summed out by Pyro, and neither drawn nor
    compared. If all latents are local (inside the plate that all observed sites share), their posteriors are
    independent, and one sampler moves those of all data and all chains in one trajectory, which takes a fraction of
    the time of one sampler each. Otherwise the chains run one after the other.

    Each chain starts from a point of its own, away from the guide. A mode that no chain visits cannot be seen.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both; a few data.
        num_samples: number of draws of each chain, at least 10.
        warmup: number of steps before them, which adapt step size and masses, at least 10.
        num_chains: number of chains, at least 2.
        progress: show Pyro's progress bar.

    Raises:
        InvalidInput: no continuous latent, a discrete one that cannot be summed out, a subsampled plate, too few
            draws, steps or chains, or no point of finite density to start from.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=3).detach()
        >>> reference = nuts_reference(ppca.model, ppca.guide, x, num_samples=20, warmup=20, num_chains=4)
        >>> reference.mean_error.shape, dict(reference.idata.posterior.sizes)
        ((3, 2), {'chain': 4, 'draw': 20, 'data': 3, 'z_dim_0': 2})

    Reference:
        Hoffman and Gelman, "The No-U-Turn sampler: adaptively setting path lengths in Hamiltonian Monte Carlo", 2014.
        Vehtari, Gelman, Simpson, Carpenter and Bürkner, "Rank-normalization, folding, and localization: an improved
        R-hat for assessing convergence of MCMC", 2021.
    """
    for name, value, fewest in (
        ("num_samples", num_samples, _FEWEST_STEPS),
        ("warmup", warmup, _FEWEST_STEPS),
        ("num_chains", num_chains, 2),
    ):
        if value < fewest:
            raise InvalidInput("too few", where=name, value=value, expected=f"an integer >= {fewest}")
    require_data(batch)
    with as_found(), torch.no_grad():
        trace = poutine.trace(model).get_trace(*batch)
        in_guide = latent_sites(poutine.trace(guide).get_trace(*batch))
    latents = {name: site for name, site in latent_sites(trace).items() if is_sampled(name, site)}
    summed_out = latent_sites(trace).keys() - latents.keys() - in_guide.keys()
    layout = inspect_pair(poutine.block(model, hide=list(summed_out)), guide, batch, num_samples)
    if not latents:
        raise InvalidInput("no continuous latent variable", where="model", expected="at least one to sample")
    units = Units(latents, layout, plate_of_replications(trace))
    size = num_chains * sum(site["value"].numel() for site in sample_sites(trace).values())
    with buffers_as_found(), frozen_parameters(), suitable_threads(size):
        chains, diverging = run_chains(model, batch, units, layout, num_samples, warmup, num_chains, progress)
        with torch.no_grad():
            total = num_samples * num_chains
            size = sum(math.prod(shape) for shape in units.shapes.values())
            draws = torch.cat(
                [units.rows(values) for values in guide_draws(guide, batch, total, layout, size)]
            ).cpu()
    named = {name: _named(units, name, latents[name], value) for name, value in chains.items()}
    idata = import_arviz().from_dict(
        posterior={name: values for name, (values, _) in named.items()},
        sample_stats={"diverging": diverging},
        dims={name: dims for name, (_, dims) in named.items()},
    )
    by_nuts = units.rows({name: value.flatten(0, 1) for name, value in chains.items()})
    return _compared(idata, units.names, draws, by_nuts, num_chains)


def _named(units: Units, name: str, site: Site, values: Tensor) -> tuple[np.ndarray, list[str]]:
    """Draws without plates of one, and the names of their dimensions after chain and draw."""
    frames = {frame.dim: frame for frame in site["cond_indep_stack"] if frame.vectorized}
    shape, names, sizes = units.shapes[name], [], []
    for dim, size in enumerate(shape[: units.nesting], -units.nesting):
        if dim in frames or size > 1:
            names.append(plate_dim(frames[dim]) if dim in frames else "")
            sizes.append(size)
    names += [""] * (len(shape) - units.nesting)
    unnamed = iter(range(len(names)))
    dims = [given or f"{name}_dim_{next(unnamed)}" for given in names]
    return values.reshape(*values.shape[:2], *sizes, *shape[units.nesting :]).numpy(), dims


def _compared(
    idata: InferenceData, names: tuple[str, ...], guide: Tensor, nuts: Tensor, num_chains: int
) -> NutsReference:
    """Comparison of draws from the guide and from NUTS, each (draws, data, units)."""
    arviz = import_arviz()
    by_chain = arviz.convert_to_dataset({"z": nuts.unflatten(0, (num_chains, -1)).numpy()})
    scale = nuts.std(0)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what arviz says of constant units is said in the reasons
        r_hat, ess = arviz.rhat(by_chain)["z"].values, arviz.ess(by_chain, method="bulk")["z"].values
        mean_error = ((guide.mean(0) - nuts.mean(0)) / scale).numpy()
        scale_ratio = (guide.std(0) / scale).numpy()
        standard_error = np.sqrt(1 / ess + scale_ratio**2 / len(guide))
    moving = (scale > 0).numpy()  # the others are constants, such as the zeros of a triangular matrix
    reasons = list(reliability(idata).reasons)
    low = moving & ~(ess >= _FEWEST_ESS)
    if low.any():
        datum, unit = np.argwhere(low)[np.argmin(ess[low])]
        reasons.append(
            f"effective sample size of {low.sum()} of {low.size} is below {_FEWEST_ESS}, the worst "
            f"{ess[datum, unit]:.0f} of {names[unit]} at datum {datum}: more draws are needed"
        )
    if bool(np.isnan(r_hat[moving]).any()):
        reasons.append("R-hat could not be estimated")
    scaled = [draws / scale.clamp(min=torch.finfo(scale.dtype).tiny) for draws in (guide, nuts)]
    half = len(nuts) // 2
    first, second = scaled[1][:half], scaled[1][half : 2 * half]
    # Each half against as many draws from the guide, so that the two distances have the same noise.
    distance = (
        sliced_wasserstein(scaled[0][:half], first) + sliced_wasserstein(scaled[0][:half], second)
    ) / 2
    return NutsReference(
        idata=idata,
        units=names,
        mean_error=mean_error,
        mean_error_standard_error=standard_error,
        scale_ratio=scale_ratio,
        sliced_wasserstein=distance.numpy(),
        sliced_wasserstein_floor=sliced_wasserstein(first, second).numpy(),
        r_hat=r_hat,
        ess=ess,
        divergences=int(idata["sample_stats"]["diverging"].sum()),
        guide_draws=guide.numpy(),
        nuts_draws=nuts.numpy(),
        reliable=not reasons,
        reasons=tuple(reasons),
    )
