"""Laws of exact queries of Bayesian networks, in float64 with random graphs and tables, against sums over everything.

A law is a function of one implementation, which takes a network first; each names the mutants that it must catch.
"""

import itertools
import math

import pyro
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, infer_discrete
from pyro.ops.einsum import torch_log

from pyro_dgm.distributions import directed_tables
from pyro_dgm.distributions.directed_tables import DirectedTables
from pyro_dgm.models import BayesianNetwork
from tests.laws.listed import as_tests, planted
from tests.laws.random_networks import SEEDS, UP_TO_ROUNDING, joint, questions, random_network, summed

# ---- queries


def is_what_all_configurations_say(query):
    for seed in SEEDS:
        network = random_network(seed)
        table = joint(network)
        for variables, evidence in questions(network, seed):
            exact = summed(network, table, variables, evidence)
            found = query(network, variables, evidence)
            torch.testing.assert_close(found, exact / exact.sum(), **UP_TO_ROUNDING)


def answers_rows_as_one_by_one(query):
    for seed in SEEDS:
        network = random_network(seed)
        for variables, evidence in questions(network, seed):
            rows = {name: torch.arange(5).double() % network.cardinalities[name] for name in evidence}
            one_by_one = [
                query(network, variables, {name: int(value[row]) for name, value in rows.items()})
                for row in range(5 if rows else 1)
            ]
            expected = torch.stack(one_by_one) if rows else one_by_one[0]
            torch.testing.assert_close(query(network, variables, rows), expected, **UP_TO_ROUNDING)


def knows_that_parents_screen_off(query):
    """Given its parents, a variable does not depend on anything that does not descend from it."""
    for seed in SEEDS:
        network = random_network(seed)
        for name in network.names:
            below = descendants(network, name)
            others = [u for u in network.names if u not in below and u != name]
            for value in range(2):
                own = dict.fromkeys(network.parents[name], value)
                for far in range(2):
                    evidence = {u: own.get(u, far) for u in others}
                    expected = network.table(name)[tuple(own[u] for u in network.parents[name])]
                    torch.testing.assert_close(query(network, [name], evidence), expected, **UP_TO_ROUNDING)


def weighs_evidence_that_disagrees_by_any_factor(query):
    """Two copies of a coin with 60 witnesses each, who all say the opposite of the other 60 but one: 820 nats for each
    value from one side, against as many less one witness's; that witness decides."""
    sides = {f"{side}{i}": side for side in "ab" for i in range(60)}
    network = BayesianNetwork(
        dict.fromkeys(["a", "b", *sides], 2), {"b": ["a"], **{name: [side] for name, side in sides.items()}}
    ).double()
    same, error = torch.eye(2, dtype=torch.float64), 1e-6
    network.set_table("b", same)
    for name in sides:
        network.set_table(name, same * (1 - 2 * error) + error)
    said = {name: int(side == "b" and name != "b7") for name, side in sides.items()}
    against, rightly = math.log(error), math.log1p(-error)
    log_p = torch.tensor([59 * against + 61 * rightly, 61 * against + 59 * rightly], dtype=torch.float64)
    for name in "ab":
        found = query(network, [name], said)
        torch.testing.assert_close(found, log_p.softmax(0), rtol=1e-9, atol=0)


def descendants(network, name):
    found, waiting = set(), [name]
    while waiting:
        u = waiting.pop()
        new = {child for child, own in network.parents.items() if u in own} - found
        found |= new
        waiting += new
    return found


def query(network, variables, evidence):
    return network.query(*variables, evidence=evidence)


def by_pyro_on_the_nodes(network, variables, evidence):
    """A run of TraceEnum_ELBO over the network's sites for each cell of the answer."""

    def log_p(values):
        data = {name: torch.as_tensor(value) for name, value in values.items()}
        if set(data) == set(network.names):
            trace = pyro.poutine.trace(pyro.condition(network.nodes, data)).get_trace()
            return trace.log_prob_sum()
        bound = TraceEnum_ELBO(max_plate_nesting=0)
        return -bound.differentiable_loss(pyro.condition(network.nodes, data), lambda: None)

    sizes = [network.cardinalities[name] for name in variables]
    cells = [
        log_p({**dict(zip(variables, cell, strict=True)), **evidence})
        for cell in itertools.product(*map(range, sizes))
    ]
    return torch.stack(cells).softmax(0).reshape(sizes)


def with_the_wrong_cells(network, variables, evidence):
    return query(network, variables, {name: 0 * value for name, value in evidence.items()})


def with_rows_turned(network, variables, evidence):
    return query(
        network, variables, {n: torch.as_tensor(value).flatten().flip(0) for n, value in evidence.items()}
    )


def with_a_child_known(network, variables, evidence):
    children = [u for u, own in network.parents.items() if u not in variables and set(own) & set(variables)]
    return query(network, variables, {**dict.fromkeys(children, 0), **evidence})


def not_normalised(network, variables, evidence):
    known = {network.names.index(name): torch.as_tensor(value) for name, value in evidence.items()}
    return network().log_marginal([network.names.index(name) for name in variables], known).exp()


by_pyros_sums = planted(query, directed_tables, _log_sum=torch_log.einsum)
without_ancestors = planted(query, DirectedTables, _with_ancestors=lambda self, kept: sorted(kept))


# ---- the probability of evidence, and its gradient


def has_the_probability_and_the_score_of_all_configurations(log_evidence):
    for seed in SEEDS:
        network = random_network(seed)
        for _, evidence in questions(network, seed):
            exact = summed(network, joint(network), [], evidence).log()
            found = log_evidence(network, evidence)
            torch.testing.assert_close(found, exact, **UP_TO_ROUNDING)
            if evidence:
                ours, theirs = (
                    torch.autograd.grad(value, list(network.parameters()), materialize_grads=True)
                    if value.requires_grad
                    else None
                    for value in (found, exact)
                )
                for one, other in zip(ours, theirs, strict=True):
                    torch.testing.assert_close(one, other, **UP_TO_ROUNDING)


def log_evidence(network, evidence):
    return network.log_evidence(evidence)


def of_the_evidence_apart(network, evidence):
    """A product of marginals, as if what is known were independent."""
    terms = [network.log_evidence({name: value}) for name, value in evidence.items()]
    return sum(terms, torch.zeros((), dtype=torch.double))


def cut_off_from_the_tables(network, evidence):
    return network.log_evidence(evidence).detach() + 0 * sum(p.sum() for p in network.parameters())


# ---- the most probable configuration


def has_the_largest_probability(most_probable):
    for seed in SEEDS:
        network = random_network(seed)
        table = joint(network)
        for _, evidence in questions(network, seed):
            best = summed(network, table, [n for n in network.names if n not in evidence], evidence).max()
            found = most_probable(network, evidence)
            assert all(found[network.names.index(name)] == value for name, value in evidence.items())
            torch.testing.assert_close(table[tuple(found)], best, **UP_TO_ROUNDING)


def most_probable(network, evidence):
    return network.most_probable(evidence=evidence)


def one_of_many_rows(network, evidence):
    rows = {name: torch.tensor([[0], [value]]).expand(2, 3) for name, value in evidence.items()}
    found = network.most_probable(evidence=rows)
    return found[1, 2] if evidence else found


def by_pyros_backward_pass(network, evidence):
    data = {name: torch.tensor(value) for name, value in evidence.items()}
    conditioned = pyro.condition(network.nodes, data)
    best = infer_discrete(
        conditioned, first_available_dim=-1, temperature=0, strict_enumeration_warning=False
    )()
    return torch.stack([best[name] for name in network.names])


def each_by_itself(network, evidence):
    free = [name for name in network.names if name not in evidence]
    best = {name: query(network, [name], evidence).argmax() for name in free} | evidence
    return torch.tensor([int(best[name]) for name in network.names])


def without_evidence(network, evidence):
    best = network.most_probable()
    for name, value in evidence.items():
        best[network.names.index(name)] = value
    return best


LAWS = [
    (
        is_what_all_configurations_say,
        {"query": query, "Pyro on the nodes": by_pyro_on_the_nodes},
        {
            "wrong cells": with_the_wrong_cells,
            "a child known": with_a_child_known,
            "not normalised": not_normalised,
            "without ancestors": without_ancestors,
        },
    ),
    (answers_rows_as_one_by_one, {"query": query}, {"turned": with_rows_turned}),
    (
        knows_that_parents_screen_off,
        {"query": query},
        {"wrong cells": with_the_wrong_cells, "a child known": with_a_child_known},
    ),
    (weighs_evidence_that_disagrees_by_any_factor, {"query": query}, {"shifted alone": by_pyros_sums}),
    (
        has_the_probability_and_the_score_of_all_configurations,
        {"network": log_evidence},
        {"apart": of_the_evidence_apart, "no gradient": cut_off_from_the_tables},
    ),
    (
        has_the_largest_probability,
        {"network": most_probable, "rows": one_of_many_rows, "Pyro on the nodes": by_pyros_backward_pass},
        {"each by itself": each_by_itself, "without evidence": without_evidence},
    ),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


test_law_holds, test_law_catches_mutant = as_tests(LAWS)
