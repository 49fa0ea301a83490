"""Discrete variables with a table for each given its parents: probabilities, draws, sums and maxima."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from pyro.distributions import Categorical, TorchDistribution
from pyro.ops.einsum import contract_expression, torch_map
from pyro.ops.einsum.adjoint import require_backward
from pyro.ops.special import safe_log
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.errors import InvalidInput

_MOST_CELLS = 2**25  # that one step of an elimination goes over: three arrays of them are held
_MOST_AXES = 26  # of one step; Pyro names them by letters
_ROW = "="  # the axis of the evidence's rows, beside those of the variables


class DirectedTables(TorchDistribution):
    r"""The distribution :math:`p(x) = \prod_v p(x_v \mid x_{\mathrm{pa}(v)})` of discrete variables over a DAG.

    ``log_prob`` looks up one cell of each table, draws go from parents to children, and marginals and maxima are exact:
    variable elimination sums the tables one variable after the other, in the order that Pyro's ``contract_expression``
    finds, and never over all configurations at once. What it costs grows with the largest table on the way.

    Args:
        log_tables: log p(x_v | parents) of each variable v, (values of each parent ..., values of v).
        parents: positions of each variable's parents, in the order of its table's dimensions; without a cycle.
        validate_args: check values; Pyro's global setting if None.

    Raises:
        InvalidInput: a table whose shape is not that of its parents, a cycle, or, from sums and maxima, evidence that
            is no value of its variable, or a step too large.
        ValueError: from ``log_prob``, with validation, for values that are not 0, 1, ..., number of values - 1.

    Example:
        >>> coin, twin = torch.tensor([0.25, 0.75]).log(), torch.tensor([[0.5, 0.5], [0.0, 1.0]]).log()
        >>> p = DirectedTables([coin, twin], [(), (0,)])
        >>> p.log_prob(torch.tensor([[0, 1], [1, 0]])).exp()
        tensor([0.1250, 0.0000])
        >>> p.log_marginal([1]).exp()
        tensor([0.1250, 0.8750])

    Reference:
        Obermeyer, Bingham, Jankowiak, Chiu, Pradhan, Rush and Goodman, "Tensor variable elimination for plated factor
        graphs", 2019. Koller and Friedman, "Probabilistic graphical models", 2009, chapters 3 and 9.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012
    has_rsample = False

    def __init__(
        self,
        log_tables: Sequence[Tensor],
        parents: Sequence[Sequence[int]],
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.log_tables = tuple(log_tables)
        self.parents = tuple(tuple(own) for own in parents)
        self.cardinalities = tuple(table.shape[-1] for table in self.log_tables)
        for v, (table, own) in enumerate(zip(self.log_tables, self.parents, strict=True)):
            wanted = tuple(self.cardinalities[a] for a in (*own, v))
            if table.shape != wanted:
                where = f"table {v} of log_tables"
                raise InvalidInput("wrong shape", where=where, value=tuple(table.shape), expected=str(wanted))
        try:
            self._order = tuple(TopologicalSorter(dict(enumerate(self.parents))).static_order())
        except CycleError as problem:
            cycle = " -> ".join(map(str, problem.args[1]))
            raise InvalidInput("a cycle", where="parents", value=cycle, expected="none") from None
        super().__init__(torch.Size(), torch.Size([len(self.log_tables)]), validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Whole numbers from 0 to one less than the number of values."""
        return constraints.independent(constraints.integer_interval(0, self._highest()), 1)

    def _highest(self) -> Tensor:
        return torch.tensor(self.cardinalities, device=self.log_tables[0].device) - 1

    def expand(self, batch_shape: Any, _instance: Any = None) -> DirectedTables:
        """The same distribution with another batch shape."""
        new = self._get_checked_instance(DirectedTables, _instance)
        new.log_tables, new.parents, new.cardinalities = self.log_tables, self.parents, self.cardinalities
        new._order = self._order
        TorchDistribution.__init__(new, torch.Size(batch_shape), self.event_shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x) in nats; ``value`` (..., variables), whole numbers of any type, to (...)."""
        if self._validate_args:
            self._validate_sample(value)
        cells, highest = value.long(), self._highest()
        inside = ((cells == value) & (cells >= 0) & (cells <= highest)).all(-1)
        columns = cells.clamp(torch.zeros_like(highest), highest).unbind(-1)
        terms = [
            table.flatten()[ravelled([columns[a] for a in (*own, v)], table.shape)]
            for v, (table, own) in enumerate(zip(self.log_tables, self.parents, strict=True))
        ]
        log_p = torch.where(inside, torch.stack(terms).sum(0), -math.inf)
        return log_p.expand(torch.broadcast_shapes(log_p.shape, self.batch_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws, (*sample_shape, *batch_shape, variables), parents before children, of the tables' type."""
        shape = torch.Size(sample_shape) + self.batch_shape
        columns: dict[int, Tensor] = {}
        for v in self._order:
            table, own = self.log_tables[v], self.parents[v]
            if own:
                logits = table.flatten(0, -2)[ravelled([columns[a] for a in own], table.shape[:-1])]
            else:
                logits = table.expand(*shape, -1)
            columns[v] = Categorical(logits=logits, validate_args=False).sample()
        return torch.stack([columns[v] for v in range(len(columns))], -1).to(self.log_tables[0].dtype)

    def log_marginal(self, variables: Sequence[int], evidence: Mapping[int, Tensor] | None = None) -> Tensor:
        r""":math:`\log p(x_A, x_E = e)`, all other variables summed out; differentiable in the tables.

        Args:
            variables: positions A; none for the probability of the evidence alone.
            evidence: values e by their positions E, none of them in A, of shapes (*rows) that broadcast.

        Returns:
            Tensor in nats, (*rows, values of each of A in order).
        """
        evidence = {} if evidence is None else evidence
        kept = {*variables, *evidence}
        factors, rows = self._factors(self._with_ancestors(kept), evidence)  # the others' tables sum to one
        result = _eliminated(factors, _ROW + _axes(variables), _log_sum)
        return result.reshape([*rows, *(self.cardinalities[v] for v in variables)])

    @torch.no_grad()
    def most_probable(self, evidence: Mapping[int, Tensor] | None = None) -> Tensor:
        """The configuration of the largest probability given the evidence.

        Args:
            evidence: values by their positions, of shapes (*rows) that broadcast.

        Returns:
            Tensor of whole numbers, (*rows, variables).
        """
        evidence = {} if evidence is None else evidence
        factors, rows = self._factors(range(len(self.parents)), evidence)
        for axes, factor in factors:
            factor._pyro_dims = axes  # type: ignore[attr-defined]
            require_backward(factor)
        _eliminated(factors, _ROW, torch_map.einsum)._pyro_backward()  # type: ignore[attr-defined]
        columns = []
        for v, (_, factor) in enumerate(factors[1:]):
            if v in evidence:
                columns.append(evidence[v].long().expand(rows))
                continue
            best = factor._pyro_backward_result  # type: ignore[attr-defined]
            row = best[best._pyro_sample_dims.index(_axes([v]))]
            columns.append(row.expand(rows.numel()).reshape(rows))
        return torch.stack(columns, -1)

    def _with_ancestors(self, positions: Collection[int]) -> list[int]:
        found, waiting = set(positions), list(positions)
        while waiting:
            new = set(self.parents[waiting.pop()]) - found
            found |= new
            waiting += new
        return sorted(found)

    def _factors(
        self, positions: Collection[int], evidence: Mapping[int, Tensor]
    ) -> tuple[list[tuple[str, Tensor]], torch.Size]:
        """Tables at the evidence, each with the names of its axes, after one of zeros over its rows."""
        for v, value in evidence.items():
            most = self.cardinalities[v] - 1
            if bool(((value != value.long()) | (value < 0) | (value > most)).any()):
                where, expected = f"evidence on variable {v}", f"whole numbers from 0 to {most}"
                raise InvalidInput("no such value", where=where, value=_some(value), expected=expected)
        rows = torch.broadcast_shapes(*(value.shape for value in evidence.values()))
        known = {v: value.long().expand(rows).flatten() for v, value in evidence.items()}
        factors = [(_ROW, self.log_tables[0].new_zeros(rows.numel()))]
        for v in positions:
            axes = (*self.parents[v], v)
            given, free = [a for a in axes if a in known], [a for a in axes if a not in known]
            table = self.log_tables[v].permute([axes.index(a) for a in (*given, *free)])
            if given:
                table = table[tuple(known[a] for a in given)]  # (rows, values of each that is free)
            factors.append((_ROW * bool(given) + _axes(free), table))
        return factors, rows


def ravelled(columns: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
    """Flat positions of cells in a table, as ``numpy.ravel_multi_index``.

    Args:
        columns: whole numbers of one shape, one tensor for each dimension of the table.
        sizes: its shape.

    Example:
        >>> ravelled([torch.tensor([0, 1]), torch.tensor([2, 0])], (2, 3))
        tensor([2, 3])
    """
    index = torch.zeros_like(columns[0])
    for column, size in zip(columns, sizes, strict=True):
        index = index * size + column
    return index


def _some(value: Tensor) -> str:
    """The first few values."""
    first = ", ".join(f"{one:g}" for one in value.flatten()[:5].tolist())
    return first + ", ..." * (value.numel() > 5)


def _axes(variables: Sequence[int]) -> str:
    """Names of the variables' axes, each one letter."""
    return "".join(chr(0x4E00 + v) for v in variables)


def _eliminated(
    factors: Sequence[tuple[str, Tensor]], output: str, contract: Callable[..., Tensor]
) -> Tensor:
    """Product of the factors with all axes but the output's summed, or maximised, one pair of factors at a time."""
    names, tensors = [name for name, _ in factors], [factor for _, factor in factors]
    equation = f"{','.join(names)}->{output}"
    steps = contract_expression(
        equation, *(tuple(t.shape) for t in tensors), cache_path=False
    ).contraction_list
    sizes = {axis: size for name, t in factors for axis, size in zip(name, t.shape, strict=True)}
    for step in steps:
        axes = set(step[2]) - set(",->")
        cells = math.prod(sizes[axis] for axis in axes)
        if cells > _MOST_CELLS or len(axes) > _MOST_AXES:
            raise InvalidInput(
                "a query too large to be exact",
                where="its elimination",
                value=f"a step over {cells} cells, {len(axes)} variables",
                expected=f"at most {_MOST_CELLS} cells and {_MOST_AXES} variables",
                cure="fewer variables or rows at once, more evidence, or pyro.infer.Importance",
            )
    for positions, _, equation, *_ in steps:
        tensors.append(contract(equation, *[tensors.pop(at) for at in positions]))
    return tensors[0]


def _log_sum(equation: str, *factors: Tensor) -> Tensor:
    """Log of the sum of products of the factors' exponentials.

    In logarithms throughout: Pyro's own shifts each factor by its maximum before it multiplies, so that factors that
    disagree by more than 103 nats (745 in float64) leave nothing.
    """
    inputs, output = equation.split("->")
    summed = [axis for axis in dict.fromkeys(inputs) if axis not in output + ","]
    axes = [*output, *summed]
    total: Any = 0
    for name, factor in zip(inputs.split(","), factors, strict=True):
        own = factor.permute([name.index(axis) for axis in axes if axis in name])
        total = total + own[tuple(slice(None) if axis in name else None for axis in axes)]
    if not summed:
        return total
    dims = tuple(range(len(output), len(axes)))
    highest = total.detach().amax(dims, keepdim=True)
    # Where nothing is possible the gradient is to be zero, not NaN.
    shift = torch.where(highest.isinf(), 0, highest)
    return safe_log((total - shift).exp().sum(dims)) + shift.reshape(shift.shape[: len(output)])
