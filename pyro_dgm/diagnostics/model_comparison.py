"""Models compared by what they say of data: leave-one-out for global latents, log p(x) per datum for local ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_dgm.diagnostics.inference_data import NO_LOO
from pyro_dgm.diagnostics.psis import import_arviz
from pyro_dgm.errors import InvalidInput

if TYPE_CHECKING:
    from arviz import ELPDData, InferenceData
    from pandas import DataFrame


def loo(idata: InferenceData, *, pointwise: bool = True, **options: Any) -> ELPDData:
    """arviz's leave-one-out cross-validation, which is refused where it is wrong.

    Where each latent belongs to one datum, a datum that is left out leaves its latents with nothing but the prior.
    Importance sampling from the posterior cannot reach it: even under the exact posterior every k-hat is high and the
    estimate many nats off.

    Args:
        idata: from :func:`~pyro_dgm.diagnostics.inference_data.to_inferencedata`.
        pointwise: keep the value of each datum.
        options: passed on to ``arviz.loo``.

    Raises:
        InvalidInput: a model all of whose latents are local.

    Example:
        >>> import torch
        >>> from pyro_dgm.diagnostics.inference_data import to_inferencedata
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> loo(to_inferencedata(ppca.model, ppca.guide, torch.randn(5, 4)))
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: no leave-one-out for local latents: each latent belongs to one datum, ...

    Reference:
        Vehtari, Gelman and Gabry, "Practical Bayesian model evaluation using leave-one-out cross-validation and
        WAIC", 2017.
    """
    if NO_LOO in idata.attrs:
        raise InvalidInput(f"no leave-one-out for local latents: {idata.attrs[NO_LOO]}")
    result: ELPDData = import_arviz().loo(idata, pointwise=pointwise, **options)
    return result


def compare_log_p(runs: Mapping[str, InferenceData]) -> DataFrame:
    r"""Models of the same data by their log p(x) per datum, best first.

    Differences are paired: the standard error is that of :math:`\log p_a(x_i) - \log p_b(x_i)` over the data.

    Args:
        runs: InferenceData by name, of :func:`~pyro_dgm.diagnostics.inference_data.to_inferencedata` on the same data
            (held out, for a fair comparison), with a ``log_p`` for each datum.

    Returns:
        Table by name with ``rank``, ``log_p`` (mean over the data, nats), ``se``, ``difference`` (to the best),
        ``difference_se`` and ``unreliable``, the number of data whose weights cannot be averaged.

    Raises:
        InvalidInput: fewer than two models, other data, or no ``log_p`` per datum.

    Example:
        >>> import torch
        >>> from pyro_dgm.diagnostics.inference_data import to_inferencedata
        >>> from pyro_dgm.models import PPCA
        >>> x = torch.randn(50, 4)
        >>> two, one = PPCA(4, 2), PPCA(4, 1)
        >>> runs = {"two": two, "one": one}
        >>> table = compare_log_p({k: to_inferencedata(m.model, m.guide, x) for k, m in runs.items()})
        >>> table["difference"].iloc[0], table["unreliable"].sum()
        (np.float64(0.0), np.int64(0))
    """
    import pandas

    if len(runs) < 2:
        raise InvalidInput(
            "nothing to compare", where="runs", value=len(runs), expected="at least two models"
        )
    values = {name: _log_p(name, idata) for name, idata in runs.items()}
    first = next(iter(runs))
    for name, idata in runs.items():
        if not _is_same_data(idata, runs[first]):
            raise InvalidInput(
                "other data", where=f"{name!r} and {first!r}", expected="models of the same observed data"
            )
    order = sorted(values, key=lambda name: -values[name].mean())
    best = values[order[0]]
    rows = {}
    for rank, name in enumerate(order):
        difference = values[name] - best
        rows[name] = {
            "rank": rank,
            "log_p": values[name].mean(),
            "se": _standard_error(values[name]),
            "difference": difference.mean(),
            "difference_se": _standard_error(difference),
            "unreliable": int((~runs[name]["sample_stats"]["reweighted_reliable"].values.astype(bool)).sum()),
        }
    return pandas.DataFrame.from_dict(rows, orient="index")


def _log_p(name: str, idata: InferenceData) -> np.ndarray:
    stats = idata.get("sample_stats")
    if stats is None or "log_p" not in stats or not stats["log_p"].ndim:
        raise InvalidInput(
            "no log p(x) of each datum",
            where=repr(name),
            expected="to_inferencedata of a guide whose latents are local",
            cure="arviz.compare, for global latents",
        )
    return np.asarray(stats["log_p"].values, dtype=np.float64)


def _is_same_data(left: InferenceData, right: InferenceData) -> bool:
    a, b = left["observed_data"], right["observed_data"]
    return set(a) == set(b) and all(_is_equal(a[name].values, b[name].values) for name in a)


def _is_equal(left: np.ndarray, right: np.ndarray) -> bool:
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f")


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
