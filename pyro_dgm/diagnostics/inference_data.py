"""A (model, guide) pair and its data as arviz's InferenceData."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from pyro_dgm.diagnostics.draw_table import OBSERVED, Variable
from pyro_dgm.diagnostics.draws import take_draws
from pyro_dgm.diagnostics.psis import effective_sample_size, import_arviz, pareto_k
from pyro_dgm.errors import InvalidInput

if TYPE_CHECKING:
    from arviz import InferenceData


def to_inferencedata(
    model: Callable[..., Any], guide: Callable[..., Any], *batch: Any, num_samples: int = 200
) -> InferenceData:
    r"""Draws from the guide with their weights, likelihoods and predictions, as arviz and its plots take them.

    All groups hold the same independent draws :math:`z_s \sim q(z \mid x)`, in one chain:

    - ``posterior``: the latent sites, constrained; neither auxiliary sites nor ``pyro.deterministic``. A pair without
      latents has no such group.
    - ``posterior_predictive``: the observed sites, drawn from :math:`p(x \mid z_s)`.
    - ``log_likelihood``: :math:`\log p(x \mid z_s)` in nats, of each observed site over its plates.
    - ``observed_data``: the observed sites as they are.
    - ``sample_stats``: ``log_weight``, :math:`\log p(x, z_s) - \log q(z_s \mid x)` in nats; and without chain and
      draw ``k_hat`` (:func:`~pyro_dgm.diagnostics.psis.pareto_k`) and ``ess``, the effective sample size of the raw
      weights. They are per datum. If a latent lies outside the plate of the data, they are of the whole data set.

    Dimensions are named by Pyro's plates, others ``{site}_dim_0`` and so on. k-hat needs more than 20 draws; with
    fewer it is NaN. Memory is that of the result and one pass. Modules run in the mode they are in: call ``eval()``
    first where there is dropout or batch norm.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        num_samples: number S of draws from the guide.

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
        ['posterior', 'posterior_predictive', 'log_likelihood', 'sample_stats', 'observed_data']
        >>> dict(idata.posterior.sizes)
        {'chain': 1, 'draw': 50, 'data': 5, 'z_dim_0': 2}
        >>> bool(abs(idata.sample_stats.log_weight - ppca.log_prob(x).detach().numpy()).max() < 1e-4)
        True

    Reference:
        Kumar, Carroll, Hartikainen and Martin, "ArviZ: a unified library for exploratory analysis of Bayesian models
        in Python", 2019.
    """
    if num_samples < 1:
        raise InvalidInput(
            "no draws", where="num_samples", value=num_samples, expected="an integer >= 1", cure="200"
        )
    if any(isinstance(field, Tensor) and 0 in field.shape for field in batch):
        raise InvalidInput("no data", where="batch", expected="at least one datum")
    arviz = import_arviz()
    draws = take_draws(model, guide, batch, num_samples)
    attrs = _attributes(num_samples)
    groups = {
        group: _dataset(variables, attrs, drawn=group != OBSERVED)
        for group, variables in draws.groups.items()
    }
    log_weight = draws.log_weight
    stats = _dataset({"log_weight": log_weight}, attrs, drawn=True)
    stats["k_hat"] = log_weight.dims, pareto_k(log_weight.values)
    stats["ess"] = log_weight.dims, effective_sample_size(log_weight.values)
    return arviz.InferenceData(attrs=attrs, **groups, sample_stats=stats)


def _dataset(variables: Mapping[str, Variable], attrs: Mapping[str, Any], *, drawn: bool) -> Any:
    import xarray

    found = {
        name: (("chain", "draw", *variable.dims), variable.values[None])
        if drawn
        else (variable.dims, variable.values)
        for name, variable in variables.items()
    }
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
