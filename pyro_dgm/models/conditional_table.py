"""The conditional probabilities of one discrete variable, as parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.directed_tables import ravelled
from pyro_dgm.distributions.numerics import at_least_float32
from pyro_dgm.errors import InvalidInput
from pyro_dgm.shapes import positive_sizes


class ConditionalTable(nn.Module):
    r"""Probabilities of a discrete variable, a row for each configuration of its parents.

    .. math:: p(x = k \mid \mathrm{parents} = j) = \mathrm{softmax}(\theta_j)_k

    Called, it returns their logarithms. Rows start uniform.

    Args:
        shape: number of values of each parent, then that of the variable.

    Raises:
        InvalidInput: a number below one.

    Example:
        >>> table = ConditionalTable((3, 2))
        >>> table.fit_counts([torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])])
        >>> table().exp()
        tensor([[0.5000, 0.5000],
                [0.0000, 1.0000],
                [0.5000, 0.5000]], grad_fn=<ExpBackward0>)
        >>> table.num_parameters
        3

    Reference:
        Koller and Friedman, "Probabilistic graphical models", 2009, sections 5.1 and 17.2.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(positive_sizes(shape, "shape")))

    def forward(self) -> Tensor:
        """Log p(variable | parents) in nats, (values of each parent ..., values of the variable)."""
        return at_least_float32(self.logits).log_softmax(-1)

    @property
    def num_parameters(self) -> int:
        """Number of free parameters: the last of each row is what the others leave."""
        *parents, cardinality = self.logits.shape
        return math.prod(parents) * (cardinality - 1)

    @torch.no_grad()
    def fit_counts(self, columns: Sequence[Tensor], *, pseudocount: float = 0.0) -> None:
        r"""Sets the rows to relative frequencies, :math:`(n_{jk} + a) / \sum_l (n_{jl} + a)`, or uniform for 0/0.

        Args:
            columns: values (N,) of each parent, then of the variable; whole numbers within the table.
            pseudocount: number a >= 0 added to each count.
        """
        cells = ravelled([column.long() for column in columns], self.logits.shape)
        counts = torch.bincount(cells, minlength=self.logits.numel()).reshape(self.logits.shape).double()
        counts += pseudocount
        total = counts.sum(-1, keepdim=True)
        uniform = torch.full_like(counts, 1 / counts.shape[-1])
        self.logits.copy_(torch.where(total > 0, counts / total, uniform).log())

    @torch.no_grad()
    def set_probabilities(self, probabilities: Any, *, where: str = "probabilities") -> None:
        """Sets the rows to known probabilities.

        Args:
            probabilities: of the table's shape, nested lists or a tensor; the last dimension sums to 1.
            where: what it is called in the message.

        Raises:
            InvalidInput: another shape, or numbers that are no probabilities.
        """
        try:
            found = torch.as_tensor(probabilities, dtype=torch.double).to(self.logits.device)
        except (TypeError, ValueError) as error:  # ragged lists, words
            raise InvalidInput("no table of numbers", where=where, value=error) from None
        if found.shape != self.logits.shape:
            expected = f"{tuple(self.logits.shape)}, the values of each parent in order, then of the variable"
            raise InvalidInput("wrong shape", where=where, value=tuple(found.shape), expected=expected)
        wrong = (found.sum(-1) - 1).abs().max().item()
        if not (bool((found >= 0).all()) and wrong < 1e-5):
            value = f"the least {found.min().item():g}, sums up to {wrong:g} off"
            raise InvalidInput("no probabilities", where=where, value=value, expected="rows that sum to 1")
        self.logits.copy_(found.log())
