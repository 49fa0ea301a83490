"""Several distributions of the same data, each as likely as the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.autoregressive import Autoregressive
from pyro_dgm.errors import InvalidInput


class Ensemble(TorchDistribution):
    r"""The mixture :math:`p(x) = \frac1M \sum_m p_m(x)` of distributions that need have no common family.

    Args:
        members: the distributions, of one batch and event shape.
        validate_args: check values; Pyro's global setting if None.

    Raises:
        InvalidInput: no members.

    Example:
        >>> from pyro.distributions import Laplace, Normal
        >>> p = Ensemble([Normal(torch.zeros(3), 1.0), Laplace(torch.zeros(3), 1.0)])
        >>> p.sample((5,)).shape, p.log_prob(torch.zeros(3)).shape
        (torch.Size([5, 3]), torch.Size([3]))

    Reference: A deep and tractable density estimator (Uria, Murray, Larochelle, 2014), of ensembles of orderings.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(self, members: Sequence[TorchDistribution], *, validate_args: bool | None = None) -> None:
        self.members = tuple(members)
        if not self.members:
            raise InvalidInput(
                "no members", where="members", value="none", expected="one distribution or more"
            )
        first = self.members[0]
        super().__init__(first.batch_shape, first.event_shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        """The support of the members."""
        return self.members[0].support

    def expand(self, batch_shape: Any, _instance: Any = None) -> Ensemble:
        """The same distribution with a larger batch shape."""
        new = self._get_checked_instance(Ensemble, _instance)
        # Members of no batch stay so: as many are drawn as each is chosen for.
        shape = torch.Size(batch_shape)
        new.members = tuple(m.expand(shape) if m.batch_shape else m for m in self.members)
        TorchDistribution.__init__(new, shape, self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x), ``value`` (..., *event_shape) to (...)."""
        log_p = torch.stack([member.log_prob(value) for member in self.members])
        log_p = log_p.logsumexp(0) - math.log(len(self.members))
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws, (*sample_shape, *batch_shape, *event_shape), each from a member drawn for it."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            chosen = torch.randint(len(self.members), (shape.numel(),))
            drawn: Tensor | None = None
            for which, member in enumerate(self.members):
                mine = chosen == which
                if not member.batch_shape:  # as many as are needed
                    x = member.sample(torch.Size([int(mine.sum())]))
                else:  # each member of the batch is a distribution of its own
                    lead = shape[: len(shape) - len(member.batch_shape)]
                    x = member.sample(lead).reshape(-1, *self.event_shape)[mine]
                drawn = x.new_empty(shape.numel(), *self.event_shape) if drawn is None else drawn
                drawn[mine.to(x.device)] = x
            assert drawn is not None
            return drawn.reshape(shape + self.event_shape)

    @torch.no_grad()
    def impute(self, x: Tensor, observed: Tensor) -> Tensor:
        """Data whose missing elements are drawn from their distribution given the others, exactly.

        Each member, which must be :class:`Autoregressive`, completes each datum; one completion is drawn, with the
        probability of its member given what is known.

        Args:
            x: data, (..., *event_shape); missing elements may hold any value.
            observed: boolean mask, (*event_shape), true where an element is known.

        Raises:
            InvalidInput: members of another kind, or what they raise themselves.
        """
        members = [member for member in self.members if isinstance(member, Autoregressive)]
        if len(members) < len(self.members):
            names = ", ".join(sorted({type(member).__name__ for member in self.members}))
            raise InvalidInput(
                "members that cannot be weighed", where="members", value=names, expected="Autoregressive ones"
            )
        completions = torch.stack([member.impute(x, observed) for member in members])
        log_p = [
            member.log_prob_of(done, observed) for member, done in zip(members, completions, strict=True)
        ]
        chosen = torch.distributions.Categorical(logits=torch.stack(log_p, -1)).sample()
        chosen = chosen.reshape(1, *chosen.shape, *(1,) * len(self.event_shape))
        return completions.gather(0, chosen.expand(1, *completions.shape[1:]))[0]
