"""log p(x) of a trained model, by importance sampling in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.enumerated import complete_guide
from pyro_dgm.objectives.inspection import inspect_pair
from pyro_dgm.objectives.weights import log_weights

# Elements of the data that one pass holds for all its particles: the arrays of a pass then stay in the caches.
_ELEMENTS_PER_PASS = 2**20


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-weighted estimate of log p(x), in nats.

    Args:
        per_datum: log of the mean weight of each datum (N,).
        per_datum_standard_error: its Monte Carlo standard error, to first order (N,).
        elbo_per_datum: mean log-weight of each datum (N,), an unbiased estimate of its ELBO.
        num_particles: particles per datum.
        is_exact: whether these are log p(x) itself, as of a model without latent variables.
    """

    per_datum: Tensor
    per_datum_standard_error: Tensor
    elbo_per_datum: Tensor
    num_particles: int
    is_exact: bool = False

    @property
    def mean(self) -> float:
        """Mean over the data."""
        return self.per_datum.mean().item()

    @property
    def standard_error(self) -> float:
        """Standard error of :attr:`mean` as an estimate for data like these (NaN for one datum)."""
        return _standard_error(self.per_datum)

    @property
    def elbo(self) -> float:
        """Mean ELBO over the data."""
        return self.elbo_per_datum.mean().item()

    @property
    def elbo_standard_error(self) -> float:
        """Standard error of :attr:`elbo`."""
        return _standard_error(self.elbo_per_datum)


def _standard_error(values: Tensor) -> float:
    return (values.std() / math.sqrt(len(values))).item()


@torch.no_grad()
def log_likelihood(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Tensor,
    num_particles: int = 5000,
    rows: int | None = None,
    progress: bool = False,
) -> LogLikelihood:
    r"""log p(x) of each datum, estimated by :math:`\log \frac1K \sum_k p(x, z_k) / q(z_k \mid x)`.

    In expectation this is a lower bound on log p(x), which rises to it with the number of particles; with an empty
    guide it is log p(x) itself. Data and particles are passed in pieces, so memory depends on neither number.

    Args:
        model: Pyro model, called with a piece of the batch.
        guide: Pyro guide, called with a piece of the batch.
        batch: tensors whose first dimension is the datum.
        num_particles: number K of draws per datum.
        rows: data per pass; by default 20 with all their particles, or 50 where there are no latents.
        progress: show a progress bar.

    Raises:
        InvalidInput: no data, no particles, fields of different lengths, or a pair without weights per datum.
        IncompatibleModel: the model is implicit or unnormalised.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=4, latent_dim=2)
        >>> x = ppca.model(n=50).detach()
        >>> estimate = log_likelihood(ppca.model, ppca.guide, x, num_particles=10)
        >>> bool((estimate.per_datum - ppca.log_prob(x)).abs().max() < 1e-4)
        True

    Reference:
        Burda, Grosse and Salakhutdinov, "Importance weighted autoencoders", 2016.
    """
    require_particles(num_particles)
    if not batch or not len(batch[0]):
        raise InvalidInput("no data", where="batch", expected="at least one datum")
    num_data = len(batch[0])
    if any(not isinstance(field, Tensor) or field.shape[:1] != (num_data,) for field in batch):
        raise InvalidInput(
            "fields that cannot be cut into pieces",
            where="batch",
            value=", ".join(
                str(tuple(t.shape)) if isinstance(t, Tensor) else type(t).__name__ for t in batch
            ),
            expected="tensors whose first dimension is the datum",
        )
    if rows is not None and rows < 1:
        raise InvalidInput("no data in a pass", where="rows", value=rows, expected="an integer >= 1")
    some = tuple(t[:2] for t in batch)
    guide = complete_guide(model, guide, some)
    layout = inspect_pair(model, guide, some, num_particles)
    if not layout.has_latents:
        num_particles = 1  # each weight is log p(x)
    if rows is None:
        rows = 20 if layout.has_latents else 50
    per_pass = max(1, _ELEMENTS_PER_PASS // (min(rows, num_data) * max(1, batch[0][0].numel())))
    per_pass = min(per_pass, num_particles)
    moments = []
    with tqdm(total=num_data, desc="log p(x)", unit="datum", disable=None if progress else True) as bar:
        for start in range(0, num_data, rows):
            piece = tuple(t[start : start + rows] for t in batch)
            passes = []
            for done in range(0, num_particles, per_pass):
                count = min(per_pass, num_particles - done)
                log_w = log_weights(model, guide, *piece, num_particles=count, layout=layout).double()
                if log_w.shape[1] != len(piece[0]):
                    raise InvalidInput(
                        "no weight for each datum",
                        where="the plate of the data",
                        value=f"{log_w.shape[1]} weights for {len(piece[0])} data",
                        expected="a plate that is as long as the batch it is called with, without subsampling",
                    )
                passes.append(torch.stack([log_w.logsumexp(0), (2 * log_w).logsumexp(0), log_w.sum(0)]))
            sums = torch.stack(passes)  # (passes, 3, rows)
            moments.append(torch.stack([sums[:, 0].logsumexp(0), sums[:, 1].logsumexp(0), sums[:, 2].sum(0)]))
            bar.update(len(piece[0]))
    first, second, total = torch.cat(moments, dim=1)
    # Var(mean w) / (mean w)^2, from the first two moments of the weights.
    relative = (second - 2 * first).exp() - 1 / num_particles
    return LogLikelihood(
        per_datum=first - math.log(num_particles),
        per_datum_standard_error=relative.clamp(min=0).sqrt(),
        elbo_per_datum=total / num_particles,
        num_particles=num_particles,
        is_exact=not layout.has_latents,
    )
