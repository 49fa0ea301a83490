"""A pair of model and guide, or of model and Markov chains, and its data as arviz's InferenceData."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro import poutine
from pyro.infer.mcmc.api import AbstractMCMC

from pyro_dgm.diagnostics.chains import divergences, take_chains
from pyro_dgm.diagnostics.constant_data import constant_data
from pyro_dgm.diagnostics.draw_table import OBSERVED, Variable
from pyro_dgm.diagnostics.draws import Draws, take_draws
from pyro_dgm.diagnostics.importance_weights import of_draws
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.diagnostics.rows import require_data
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import as_found
from pyro_dgm.objectives.sites import is_masked_out, latent_sites
from pyro_dgm.objectives.traces import prior_of

if TYPE_CHECKING:
    from arviz import InferenceData

NO_LOO = "no_loo"  # attribute: why leave-one-out by importance sampling is refused
_LOCAL = (
    "each latent belongs to one datum, so leaving the datum out changes its latents altogether and the weights "
    "1 / p(x | z) cannot be averaged; compare log_p in sample_stats instead"
)


def to_inferencedata(
    model: Callable[..., Any],
    guide: Callable[..., Any] | AbstractMCMC,
    *batch: Any,
    num_samples: int = 200,
    predicts: bool = True,
) -> InferenceData:
    r"""Draws from a guide or of Markov chains with all that belongs to them, as arviz and its plots take them.

    A guide gives one chain of independent draws :math:`z_s \sim q(z \mid x)`; a finished run of Pyro's ``MCMC`` its
    chains. All groups but the prior's hold the same draws:

    - ``posterior``: the latent sites, constrained; neither auxiliary sites nor ``pyro.deterministic``. A pair without
      latents has no such group.
    - ``posterior_predictive``: the observed sites, drawn from :math:`p(x \mid z_s)`.
    - ``log_likelihood``: :math:`\log p(x \mid z_s)` in nats, of each observed site over its plates, for ``arviz.loo``
      and all that builds on it. Where each latent belongs to one datum, leave-one-out by importance sampling is wrong
      however good the guide is: there these numbers are in ``sample_stats`` as ``log_likelihood_{site}``, which arviz
      does not take, and :func:`~pyro_dgm.diagnostics.model_comparison.loo` says why.
    - ``prior`` and ``prior_predictive``: as many draws from the model alone.
    - ``observed_data``: the observed sites as they are; ``constant_data``: the other arguments of the model.
    - ``sample_stats`` of a guide: ``log_weight``, :math:`\log p(x, z_s) - \log q(z_s \mid x)` in nats; and without
      chain and draw what :class:`~pyro_dgm.diagnostics.importance_weights.Importance` has (``k_hat``, ``ess``,
      ``log_p``, ``log_p_standard_error``, ``elbo``, ``shift``, ``stretch``, and the flags ``reweighted_reliable`` and
      ``usable_as_is``) and ``kl_{site}``, :math:`\mathrm{KL}(q(z \mid x) \,\|\, p(z))` in nats. They are per datum,
      or, if a latent lies outside the plate of the data, of the whole data set.
    - ``sample_stats`` of chains: ``diverging``.

    Dimensions are named by Pyro's plates, others ``{site}_dim_0`` and so on. k-hat needs more than 20 draws; with
    fewer it is NaN. Memory is that of the result and one pass. Modules run in the mode they are in: call ``eval()``
    first where there is dropout or batch norm.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch; or a run of ``pyro.infer.MCMC`` on the same model and batch.
        batch: positional arguments of both.
        num_samples: number S of draws from the guide; of chains, all are taken.
        predicts: whether a guide's draws have ``posterior_predictive`` and ``kl_{site}``; without latents the rest
            needs one run of the pair alone.

    Raises:
        InvalidInput: no data, no draws, data subsampled at random, or a pair without weights.
        IncompatibleModel: a ``TypeError``; the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=5).detach()
        >>> idata = to_inferencedata(ppca.model, ppca.guide, x, num_samples=50)
        >>> idata.groups()
        ['posterior', 'posterior_predictive', 'sample_stats', 'prior', 'prior_predictive', 'observed_data']
        >>> dict(idata.posterior.sizes)
        {'chain': 1, 'draw': 50, 'data': 5, 'z_dim_0': 2}
        >>> bool(abs(idata.sample_stats.log_p - ppca.log_prob(x).detach().numpy()).max() < 1e-4)
        True

    Reference:
        Kumar, Carroll, Hartikainen and Martin, "ArviZ: a unified library for exploratory analysis of Bayesian models
        in Python", 2019.
    """
    if num_samples < 1:
        raise InvalidInput(
            "no draws", where="num_samples", value=num_samples, expected="an integer >= 1", cure="200"
        )
    require_data(batch)
    arviz = import_arviz()
    num_chains = 1
    stats: dict[str, Variable] = {}
    if isinstance(guide, AbstractMCMC):
        draws, num_chains = take_chains(model, guide, batch)
        stats["diverging"] = divergences(guide, num_chains, draws.num_samples // num_chains)
    else:
        draws = take_draws(model, complete_guide(model, guide, batch), batch, num_samples, predicts=predicts)
    groups = {name: dict(variables) for name, variables in draws.groups.items()}
    is_local = draws.is_local
    if is_local:
        stats |= {f"log_likelihood_{name}": one for name, one in groups.pop("log_likelihood").items()}
    attrs = _attributes(draws.num_samples) | ({NO_LOO: _LOCAL} if is_local else {})
    made = {
        name: _dataset(variables, attrs, num_chains) for name, variables in groups.items() if name != OBSERVED
    }
    made["sample_stats"] = _dataset(stats, attrs, num_chains)
    if not isinstance(guide, AbstractMCMC):
        made["sample_stats"] = made["sample_stats"].merge(_weights(draws, attrs), combine_attrs="override")
    if draws.without_predictions:
        warnings.warn(
            f"no predictions, since the model cannot be sampled: {draws.without_predictions}", stacklevel=2
        )
    if "posterior" in groups:
        made |= _prior(model, batch, draws, attrs)
    observed = groups.get(OBSERVED, {})
    made[OBSERVED] = _dataset(observed, attrs, 0)
    if constants := constant_data(model, batch, observed, draws.data_dims):
        made["constant_data"] = _dataset(constants, attrs, 0)
    return arviz.InferenceData(attrs=attrs, **made)


def _weights(draws: Draws, attrs: Mapping[str, Any]) -> Any:
    """Log-weights, and what they say of each datum."""
    dims = draws.log_weight.dims
    found = of_draws(draws.log_weight, draws.groups.get("posterior", {}))
    names = ("k_hat", "ess", "log_p", "log_p_standard_error", "elbo", "shift", "stretch")
    numbers = {name: Variable(getattr(found, name), dims) for name in names}
    for name in ("reweighted_reliable", "usable_as_is"):
        numbers[name] = Variable(getattr(found, name), dims)
    numbers |= {f"kl_{name}": one for name, one in draws.divergences.items()}
    return _dataset({"log_weight": draws.log_weight}, attrs, 1).merge(_dataset(numbers, attrs, 0))


def _prior(
    model: Callable[..., Any], batch: tuple[Any, ...], posterior: Draws, attrs: Mapping[str, Any]
) -> dict[str, Any]:
    predicts = not posterior.without_predictions
    try:
        with as_found(), torch.no_grad():
            sites = latent_sites(poutine.trace(model).get_trace(*batch))
        if flat := [name for name, site in sites.items() if is_masked_out(site)]:
            warnings.warn(f"no draws from the prior, which has no density at site {flat[0]!r}", stacklevel=3)
            return {}
        draws = take_draws(model, prior_of(model), batch, posterior.num_samples, predicts=predicts)
    except (
        NotImplementedError,
        ValueError,
        RuntimeError,
    ) as error:  # improper, or so wide that a scale is infinite
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(f"no draws from the prior, which cannot be sampled: {reason}", stacklevel=3)
        return {}
    names = {"posterior": "prior", "posterior_predictive": "prior_predictive"}
    found = [(name, draws.groups[group]) for group, name in names.items() if group in draws.groups]
    return {name: _dataset(variables, attrs, 1) for name, variables in found}


def _dataset(variables: Mapping[str, Variable], attrs: Mapping[str, Any], num_chains: int) -> Any:
    """Variables with coordinates; with dimensions of chain and draw before their own unless there are no chains."""
    import xarray

    found = {}
    for name, variable in variables.items():
        values = variable.values
        if num_chains:
            values = values.reshape(num_chains, -1, *values.shape[1:])
        found[name] = (("chain", "draw") * bool(num_chains) + variable.dims, values)
    dataset = xarray.Dataset(found, attrs=dict(attrs))
    return dataset.assign_coords({dim: np.arange(size) for dim, size in dataset.sizes.items()})


def _attributes(num_samples: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {"inference_library": "pyro", "creation_library": "pyro_dgm"}
    for key, package in (
        ("inference_library_version", "pyro-ppl"),
        ("creation_library_version", "pyro-dgm"),
        ("arviz_version", "arviz"),
    ):
        try:
            attributes[key] = version(package)
        except PackageNotFoundError:
            attributes[key] = "not installed"
    return {**attributes, "num_samples": num_samples}
