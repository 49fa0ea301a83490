"""The flat prior: no distribution at all, and it says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.energy import Unnormalized
from pyro_dgm.errors import IncompatibleModel


class Flat(Unnormalized):
    """The flat, improper prior: ``log_prob`` is 0 everywhere, and its integral is infinite.

    A model with it has no p(x): bounds and likelihoods refuse it, and it cannot be sampled. Unlike a proper prior
    that is masked out (``fn.mask(False)``), it gives no draws of the distribution that happens to be behind the mask.

    Args:
        event_shape: shape of one value.
        batch_shape: shape of the independent copies; plates expand it.
        validate_args: check values; Pyro's global setting if None.

    Raises:
        IncompatibleModel: when it is asked for a sample.
        ValueError: with validation, a value that is not a number, or of another event shape.

    Example:
        >>> Flat((2,)).log_prob(torch.randn(5, 2))
        tensor([0., 0., 0., 0., 0.])

    Reference: The Theory of Probability (Jeffreys, 1939).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    cure = (
        "a model with a prior, as VAE, in place of an autoencoder; to train this one, "
        "PyroELBO(Trace_ELBO()), whose loss is the reconstruction error"
    )

    def __init__(
        self,
        event_shape: Sequence[int] = (),
        *,
        batch_shape: Sequence[int] = (),
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """All real numbers."""
        return constraints.independent(constraints.real, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same with a larger batch shape."""
        new = self._get_checked_instance(Flat, _instance)
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Zero, of shape broadcast(batch_shape, leading dimensions of the value)."""
        if self._validate_args:
            self._validate_sample(value)
        leading = value.shape[: value.dim() - len(self.event_shape)]
        return value.new_zeros(torch.broadcast_shapes(self.batch_shape, leading))

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> NoReturn:
        raise IncompatibleModel(
            "no p(z) to draw from",
            where="a model with a flat prior",
            expected="a prior that integrates to one",
            cure="a model with one, as VAE; or reconstruct(x) and decode(z), which need no draws",
        )
