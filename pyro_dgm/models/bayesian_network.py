"""The Bayesian network: discrete variables over a directed acyclic graph, with a table for each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from pyro_dgm.distributions.directed_tables import DirectedTables
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.conditional_table import ConditionalTable
from pyro_dgm.models.directed_graph import check_name, check_values, checked_parents
from pyro_dgm.models.tractable import TractableModel

Evidence = Mapping[str, int | Tensor]
"""Values of variables that are known, by name."""


class BayesianNetwork(TractableModel):
    r"""Bayesian network of discrete variables with conditional tables.

    .. math:: p(x) = \prod_v p(x_v \mid x_{\mathrm{pa}(v)}), \qquad
              p(x_v = k \mid x_{\mathrm{pa}(v)} = j) = \mathrm{softmax}(\theta_v[j])_k

    With K_v values a variable has :math:`(K_v - 1) \prod_{u \in \mathrm{pa}(v)} K_u` free parameters: exponential in
    the number of its parents, where the table of the joint distribution is exponential in the number of variables.
    The likelihood has its maximum at the relative frequencies, which :meth:`fit_counts` takes in one pass, and
    ``pyro_dgm.fit`` comes to by gradients.

    Data are (batch, variables), whole numbers 0, 1, ..., K_v - 1 of any type, in the order of ``cardinalities``. All
    tables start uniform. :meth:`query` is exact. :meth:`nodes` is the network with one Pyro site for each variable,
    for ``pyro.condition``, ``infer_discrete`` and whatever else in Pyro works on discrete sites.

    Args:
        cardinalities: number of values K_v of each variable by its name, at least 2.
        parents: names of the parents of each variable that has any.

    Raises:
        InvalidInput: no variables, a variable of one value, a parent that is none of the variables or is named
            twice, a cycle, or tables of more than 2^27 cells; and, where Pyro's validation is on, data of another
            shape or with a value that its variable does not have.

    Example:
        >>> lawn = BayesianNetwork(
        ...     {"rain": 2, "sprinkler": 2, "wet": 2}, {"sprinkler": ["rain"], "wet": ["sprinkler", "rain"]})
        >>> lawn.set_table("rain", [0.8, 0.2])
        >>> lawn.set_table("sprinkler", [[0.6, 0.4], [0.99, 0.01]])  # rows: no rain, rain
        >>> lawn.set_table("wet", [[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [0.01, 0.99]]])
        >>> lawn.query("rain", evidence={"wet": 1})  # p(rain | wet grass)
        tensor([0.6423, 0.3577], grad_fn=...)
        >>> lawn.parameter_counts, lawn.num_parameters, lawn.num_joint_parameters
        ({'rain': 1, 'sprinkler': 2, 'wet': 4}, 7, 7)

    Reference:
        Pearl, "Probabilistic reasoning in intelligent systems", 1988. Koller and Friedman, "Probabilistic graphical
        models", 2009, chapters 3, 9 and 17.
    """

    tables: Sequence[ConditionalTable]

    def __init__(self, cardinalities: Mapping[str, int], parents: Mapping[str, Sequence[str]]) -> None:
        own = checked_parents(cardinalities, parents)
        super().__init__((len(own),))
        self.names, self.parents = tuple(own), own
        self.cardinalities = {name: int(cardinalities[name]) for name in own}
        shapes = [[self.cardinalities[u] for u in (*own[name], name)] for name in own]
        self.tables = nn.ModuleList(map(ConditionalTable, shapes))  # type: ignore[assignment]

    def forward(self, c: Tensor | None = None) -> DirectedTables:
        """The distribution p(x), of event shape (variables,)."""
        place = {name: v for v, name in enumerate(self.names)}
        parents = [[place[u] for u in self.parents[name]] for name in self.names]
        return DirectedTables([table() for table in self.tables], parents)

    def nodes(self) -> dict[str, Tensor]:
        """The network as a Pyro model with one site for each variable, marked for enumeration.

        It has no plate: inside a user's own each site has as many values. Pyro enumerates up to 64 variables, each in
        a dimension of its own; :meth:`query` has no such limit.

        Returns:
            The values by name, parents before children.
        """
        pyro.module(self.pyro_name, self)
        values: dict[str, Tensor] = {}
        for name in TopologicalSorter(self.parents).static_order():
            table = self.tables[self._position(name)]()
            if self.parents[name]:
                table = Vindex(table)[tuple(values[u].long() for u in self.parents[name])]
            site = dist.Categorical(logits=table)
            values[name] = pyro.sample(name, site, infer={"enumerate": "parallel"})
        return values

    def fit_counts(self, x: Tensor, *, pseudocount: float = 0.0) -> None:
        r"""Sets every table to relative frequencies, :math:`(n_{jk} + a) / \sum_l (n_{jl} + a)`.

        Without a pseudocount that is the maximum of the likelihood; what was never seen then has probability zero,
        and so have all data with it. Rows of parents' values that were never seen are uniform.

        Args:
            x: data (N, variables).
            pseudocount: number a >= 0 added to each count; 1 is Laplace's rule of succession.

        Raises:
            InvalidInput: no data, data that the network cannot have, or a pseudocount below zero.
        """
        if not 0 <= pseudocount < math.inf:
            raise InvalidInput("bad number", where="pseudocount", value=pseudocount, expected="a number >= 0")
        self._check(x, None, values=True)
        if not len(x):
            raise InvalidInput("no data", where="x", expected="at least one datum")
        columns = dict(zip(self.names, x.unbind(-1), strict=True))
        for name, table in zip(self.names, self.tables, strict=True):
            table.fit_counts([columns[u] for u in (*self.parents[name], name)], pseudocount=pseudocount)

    def table(self, name: str) -> Tensor:
        """p(variable | parents), (values of each parent ..., values of the variable).

        Args:
            name: a variable.

        Raises:
            InvalidInput: no such variable.
        """
        return self.tables[self._position(name)]().exp()

    def set_table(self, name: str, probabilities: Any) -> None:
        """Gives a variable known conditional probabilities.

        Args:
            name: a variable.
            probabilities: (values of each parent ..., values of the variable), nested lists or a tensor; the last
                dimension sums to 1.

        Raises:
            InvalidInput: no such variable, another shape, or numbers that are no probabilities.
        """
        table = self.tables[self._position(name)]
        table.set_probabilities(probabilities, where=f"the table of {name!r}")

    def query(self, *variables: str, evidence: Evidence | None = None) -> Tensor:
        """Exact p(variables | evidence), by variable elimination; differentiable in the tables.

        Args:
            variables: names.
            evidence: values of variables that are known, by name; tensors (*rows) for many queries at once.

        Returns:
            Joint probabilities, (*rows, values of each variable in order).

        Raises:
            InvalidInput: an unknown name or value, a variable asked for twice or known, evidence of probability zero,
                or an elimination that takes too large a table.
        """
        known, wanted = self._known(evidence), [self._position(name) for name in variables]
        for place, v in enumerate(wanted):
            if v in known or v in wanted[:place]:
                what = f"a variable {'that is evidence' if v in known else 'asked for twice'}"
                raise InvalidInput(what, where="query", value=self.names[v], expected="each once")
        log_joint = self().log_marginal(wanted, known)
        rows = log_joint.shape[: log_joint.dim() - len(wanted)]
        log_p = log_joint.reshape(*rows, -1).logsumexp(-1)
        self._refuse_impossible(log_p, known)
        return (log_joint - log_p.reshape([*rows, *(1,) * len(wanted)])).exp()

    def log_evidence(self, evidence: Evidence) -> Tensor:
        """Exact log p(evidence) in nats, all other variables summed out: (*rows), differentiable in the tables.

        Args:
            evidence: values of variables that are known, by name; tensors (*rows) for many at once.

        Raises:
            InvalidInput: an unknown name or value, or an elimination that takes too large a table.
        """
        return self().log_marginal([], self._known(evidence))

    def most_probable(self, *, evidence: Evidence | None = None) -> Tensor:
        """The most probable configuration of all variables given the evidence, (*rows, variables).

        Args:
            evidence: values of variables that are known, by name; tensors (*rows) for many at once.

        Raises:
            InvalidInput: an unknown name or value, evidence of probability zero, or an elimination that takes too large
                a table.
        """
        known = self._known(evidence)
        found = self().most_probable(known)
        self._refuse_impossible(self().log_prob(found), known)
        return found

    def _refuse_impossible(self, log_p: Tensor, known: Mapping[int, Tensor]) -> None:
        """Raises where evidence has no probability, ``log_p`` (*rows)."""
        impossible = (log_p == -math.inf).flatten()
        if not bool(impossible.any()):
            return
        row = int(impossible.nonzero()[0])
        values = (
            f"{self.names[v]} = {value.expand(log_p.shape).flatten()[row]:g}" for v, value in known.items()
        )
        where = f"evidence, row {row}" if log_p.dim() else "evidence"
        expected = "values that can occur together"
        raise InvalidInput("of probability zero", where=where, value=", ".join(values), expected=expected)

    @property
    def parameter_counts(self) -> dict[str, int]:
        """Number of free parameters of each table by its variable: (values - 1) x the parents' numbers of values."""
        return {name: table.num_parameters for name, table in zip(self.names, self.tables, strict=True)}

    @property
    def num_parameters(self) -> int:
        """Number of free parameters of all tables."""
        return sum(self.parameter_counts.values())

    @property
    def num_joint_parameters(self) -> int:
        """Number of free parameters of one table of the joint distribution: all configurations less one."""
        return math.prod(self.cardinalities.values()) - 1

    def _position(self, name: str) -> int:
        check_name(name, self.names, "the network")
        return self.names.index(name)

    def _known(self, evidence: Evidence | None) -> dict[int, Tensor]:
        """Values by position, checked."""
        known = {}
        for name, value in (evidence or {}).items():
            v = self._position(name)
            known[v] = torch.as_tensor(value, device=self.tables[v].logits.device)
            check_values(known[v].reshape(-1, 1), {name: self.cardinalities[name]}, "evidence")
        try:
            torch.broadcast_shapes(*(value.shape for value in known.values()))
        except RuntimeError:
            shapes = ", ".join(f"{self.names[v]} {tuple(value.shape)}" for v, value in known.items())
            expected = "one value for all, or one for each row"
            raise InvalidInput(
                "rows of different numbers", where="evidence", value=shapes, expected=expected
            ) from None
        return known

    def _check(self, x: Tensor | None, y: Tensor | None, *, values: bool | None = None) -> None:
        if x is None:
            return
        if x.dim() != 2 or x.shape[1] != len(self.names):
            expected = (
                f"(batch, {len(self.names)}): {', '.join(self.names[:6])}{' ...' * (len(self.names) > 6)}"
            )
            raise InvalidInput("wrong shape", where="x", value=tuple(x.shape), expected=expected)
        if dist.is_validation_enabled() if values is None else values:
            check_values(x, self.cardinalities, "x")
