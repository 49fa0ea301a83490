"""Unnormalised distributions: the marker, and the one made from an energy function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.util import broadcast_shape
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.errors import IncompatibleModel, InvalidInput


class Unnormalized(TorchDistribution):
    """A distribution whose ``log_prob`` lacks its normalising constant; abstract.

    It says of itself what no tool can find out: bounds and likelihoods refuse a site of this type, and
    contrastive objectives ask for one. It has no sampler; a Markov chain is needed.

    Raises:
        IncompatibleModel: when it is asked for a sample.
    """

    unnormalized = True  # what objectives read, through any distribution that wraps this one
    has_rsample = False

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> NoReturn:
        raise IncompatibleModel(
            "an unnormalised distribution has no sampler",
            where=type(self).__name__,
            expected="an observed site",
            cure="obs=x, or a Markov chain on its log_prob",
        )

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> NoReturn:
        self.sample(sample_shape)


class Energy(Unnormalized):
    """The unnormalised density exp(-E(x)): ``log_prob(x)`` is -E(x), exact up to a constant.

    Args:
        energy: the function E, for example a network: (..., *event_shape) -> (...), any leading dimensions.
        event_shape: shape of one datum.
        batch_shape: shape of the independent copies; plates expand it.
        support: the set on which E is defined, for one element of a datum; the reals if not given.
        validate_args: check values; Pyro's global setting if None.

    Raises:
        InvalidInput: an energy whose result has not one number for each datum.
        IncompatibleModel: when it is asked for a sample.
        ValueError: with validation, a value off the support or of another event shape.

    Example:
        >>> gaussian = Energy(lambda x: 0.5 * x.square().sum(-1), (2,))
        >>> gaussian.log_prob(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
        tensor([-0., -1.])

    Reference: A Tutorial on Energy-Based Learning (LeCun, Chopra, Hadsell, Ranzato, Huang, 2006).
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012

    def __init__(
        self,
        energy: Callable[[Tensor], Tensor],
        event_shape: Sequence[int],
        *,
        batch_shape: Sequence[int] = (),
        support: constraints.Constraint = constraints.real,
        validate_args: bool | None = None,
    ) -> None:
        self.energy = energy
        self._element_support = support
        super().__init__(torch.Size(batch_shape), torch.Size(event_shape), validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of one datum."""
        return constraints.independent(self._element_support, len(self.event_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(Energy, _instance)
        new.energy, new._element_support = self.energy, self._element_support
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """Minus the energy, of shape broadcast(batch_shape, leading dimensions of the value)."""
        if self._validate_args:
            self._validate_sample(value)
        leading = value.shape[: value.dim() - len(self.event_shape)]
        energy = self.energy(value)
        if energy.shape != leading:
            raise InvalidInput(
                "wrong shape of the energies",
                where="Energy.energy",
                value=tuple(energy.shape),
                expected=f"one number for each datum, {tuple(leading)}",
                cure="energy(x).squeeze(-1)" if energy.shape == (*leading, 1) else "",
            )
        return -energy.expand(broadcast_shape(self.batch_shape, leading))
