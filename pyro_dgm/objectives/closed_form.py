"""Kullback-Leibler divergence of two sites in closed form."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, kl_divergence

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.sites import Site


def closed_form(q: Site, p: Site) -> Tensor:
    """KL(q || p) of two sites in nats, of their batch shape; raises InvalidInput where no closed form is known."""
    try:
        # Pyro takes a mask of one of the two (a flat prior, masked out) for a mask of both.
        if not is_same(_mask(q["fn"]), _mask(p["fn"])):
            raise NotImplementedError
        divergence: Any = kl_divergence(q["fn"], p["fn"])
        # Where both are masked out it is a plain number.
        return divergence if isinstance(divergence, Tensor) else torch.zeros(q["fn"].batch_shape)
    except NotImplementedError:
        raise InvalidInput(
            "no closed-form divergence",
            where=f"site {q['name']!r}",
            value=f"{q['fn']} from {p['fn']}",
            expected="a pair of families that torch or Pyro knows",
            cure="kl='monte_carlo', or Trace_ELBO",
        ) from None


def _mask(fn: Any) -> Any:
    """Mask of a distribution (``fn.mask(...)``), which is not that of its site."""
    while not isinstance(fn, MaskedDistribution):
        if not isinstance(fn, Independent):
            return None
        fn = fn.base_dist
    return fn._mask


def is_same(left: Any, right: Any) -> bool:
    """Whether two masks, or two scales, are the same."""
    if left is None or right is None:
        return left is right
    return torch.equal(torch.as_tensor(left), torch.as_tensor(right))
