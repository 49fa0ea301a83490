"""The Bayesian network's own methods, what it refuses and in which words, and what Pyro makes of its sites."""

import copy
from itertools import pairwise

import pyro
import pytest
import torch
from jsonargparse import ArgumentParser
from pyro.infer import Importance, Predictive, TraceEnum_ELBO, infer_discrete

from pyro_dgm.distributions.directed_tables import DirectedTables
from pyro_dgm.errors import InvalidInput
from pyro_dgm.evaluation import log_likelihood
from pyro_dgm.models.bayesian_network import BayesianNetwork
from pyro_dgm.models.conditional_table import ConditionalTable
from pyro_dgm.objectives import ELBO, log_weights
from pyro_dgm.program import Program


def lawn():
    network = BayesianNetwork(
        {"wet": 2, "rain": 2, "sprinkler": 2}, {"wet": ["sprinkler", "rain"], "sprinkler": ["rain"]}
    ).double()
    network.set_table("rain", [0.8, 0.2])
    network.set_table("sprinkler", [[0.6, 0.4], [0.99, 0.01]])
    network.set_table("wet", [[[1.0, 0.0], [0.2, 0.8]], [[0.1, 0.9], [0.01, 0.99]]])
    return network


def mixed():
    network = BayesianNetwork({"a": 2, "b": 3, "c": 4}, {"c": ["b", "a"], "b": ["a"]}).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_()
    return network


def close(found, expected):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=1e-12)


# ---- queries


def test_the_textbooks_lawn():
    network = lawn()
    wet_and_rain = 0.2 * (0.01 * 0.99 + 0.99 * 0.8)
    wet_and_dry = 0.8 * 0.4 * 0.9
    close(network.query("rain", evidence={"wet": 1})[1], wet_and_rain / (wet_and_rain + wet_and_dry))
    close(network.log_evidence({"wet": 1}).exp(), wet_and_rain + wet_and_dry)
    assert network.most_probable(evidence={"wet": 1}).tolist() == [
        1,
        0,
        1,
    ]  # in the order of the cardinalities


def test_a_common_effect_makes_its_causes_depend_on_one_another():
    network = BayesianNetwork({"a": 2, "b": 2, "both": 2}, {"both": ["a", "b"]}).double()
    network.set_table("both", [[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    for value in range(2):
        close(network.query("a", evidence={"b": value}), [0.5, 0.5])
    close(network.query("a", evidence={"both": 0}), [2 / 3, 1 / 3])
    close(network.query("a", evidence={"both": 0, "b": 1}), [1.0, 0.0])
    close(network.query("a", "b", evidence={"both": 1}), [[0.0, 0.0], [0.0, 1.0]])


def test_shapes_of_answers():
    network = mixed()
    rows = torch.tensor([[0.0, 1.0, 0.0]]).double()
    assert network.query("c", "a").shape == (4, 2)
    assert network.query("c", "a", evidence={"b": rows}).shape == (1, 3, 4, 2)
    assert network.query(evidence={"b": rows}).shape == (1, 3)
    assert network.query("c", evidence={"b": rows, "a": 1}).shape == (1, 3, 4)
    assert network.log_evidence({"b": rows, "a": torch.zeros(2, 1)}).shape == (2, 3)
    assert network.most_probable(evidence={"b": rows}).shape == (1, 3, 3)
    assert network.log_evidence({}) == 0
    torch.testing.assert_close(network.query("c", "a"), network.query("a", "c").T)


def test_a_chain_longer_than_pyro_has_dimensions():
    names = [f"v{i}" for i in range(200)]
    network = BayesianNetwork(dict.fromkeys(names, 3), {b: [a] for a, b in pairwise(names)}).double()
    torch.manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.normal_()
    message = network.table("v0")
    for name in names[1:]:
        message = message @ network.table(name)
    close(network.query("v199"), message)
    backward = network.table("v199")[:, 1]
    for name in reversed(names[1:-1]):
        backward = network.table(name) @ backward
    posterior = network.table("v0") * backward
    close(network.query("v0", evidence={"v199": 1}), posterior / posterior.sum())
    close(network.log_evidence({"v199": 1}), posterior.sum().log())
    assert network.most_probable(evidence={"v199": 1}).shape == (200,)
    assert network.sample(3).shape == (3, 200)


def test_what_is_not_asked_for_costs_nothing():
    """30 children of one parent: their joint table is out of reach, and no query needs it."""
    names = [f"v{i}" for i in range(30)]
    network = BayesianNetwork({"root": 2, **dict.fromkeys(names, 2)}, {name: ["root"] for name in names})
    assert network.query("root", "v3", evidence={"v7": 1}).shape == (2, 2)
    assert network.num_joint_parameters == 2**31 - 1
    assert network.num_parameters == 61
    with pytest.raises(InvalidInput, match="a query too large to be exact in its elimination"):
        network.query(*names)


def test_queries_follow_a_replaced_table():
    network = lawn()
    before = network.query("rain", evidence={"wet": 1})
    clone = copy.deepcopy(network)
    clone.set_table("rain", [0.5, 0.5])
    assert not torch.allclose(clone.query("rain", evidence={"wet": 1}), before)
    assert torch.equal(network.query("rain", evidence={"wet": 1}), before)


# ---- data


def test_whole_numbers_of_any_type_and_any_leading_dimensions():
    p = mixed()()
    x = p.sample((5, 7))
    assert x.dtype == torch.float64
    assert p.log_prob(x).shape == (5, 7)
    assert torch.equal(p.log_prob(x), p.log_prob(x.long()))
    assert torch.equal(p.log_prob(x), p.log_prob(x.to(torch.uint8)))
    assert p.expand([4]).log_prob(x[0, 0]).shape == (4,)
    assert p.expand([4]).sample((3,)).shape == (3, 4, 3)
    assert mixed().sample(0).shape == (0, 3)


def test_values_that_no_variable_has_are_refused_or_have_probability_zero():
    outside = torch.tensor([[0.0, 3.0, 0.0], [0.0, -1.0, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, torch.nan]])
    p = mixed()()
    with pytest.raises(ValueError, match="support"):
        p.log_prob(outside)
    with pytest.raises(ValueError, match="support"):
        p.expand([4]).log_prob(outside)
    unchecked = DirectedTables(p.log_tables, p.parents, validate_args=False)
    assert (unchecked.log_prob(outside) == -torch.inf).all()
    assert (unchecked.expand([4]).log_prob(outside) == -torch.inf).all()


def test_every_tool_reads_the_same_density():
    network = mixed()
    x = network.sample(6)
    exact = network().log_prob(x)
    close(log_weights(network.model, network.guide, x)[0], exact)
    close(log_likelihood(network.model, network.guide, x).per_datum, exact.detach())
    close(ELBO()(network.model, network.guide, x), -exact.sum())
    draws = Predictive(network.model, num_samples=4, parallel=True)(None)["x"]
    assert draws.shape == (4, 1, 3)


def test_counting():
    x = torch.tensor([[0, 0, 3], [0, 2, 1], [0, 2, 1], [0, 2, 3]])
    network = mixed()
    network.fit_counts(x)
    close(network.table("a"), [1.0, 0.0])
    close(network.table("b"), [[0.25, 0.0, 0.75], [1 / 3, 1 / 3, 1 / 3]])  # a = 1 was never seen
    close(network.table("c")[2, 0], [0.0, 2 / 3, 0.0, 1 / 3])
    close(network.table("c")[1, 0], [0.25] * 4)
    network.fit_counts(x.float(), pseudocount=1)
    close(network.table("a"), [5 / 6, 1 / 6])
    close(network.table("b")[0], [2 / 7, 1 / 7, 4 / 7])
    assert network().log_prob(x).isfinite().all()


def test_what_counting_never_saw_does_not_stop_training():
    network = mixed()
    network.fit_counts(torch.tensor([[0, 0, 3], [0, 2, 1]]))
    x = torch.tensor([[0.0, 2.0, 1.0]])
    loss = ELBO()(network.model, network.guide, x)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    assert network.query("c", evidence={"a": 0}).isfinite().all()
    with pytest.raises(InvalidInput, match=r"of probability zero in evidence: a = 1; expected values"):
        network.query("c", evidence={"a": 1})
    with pytest.raises(InvalidInput, match=r"of probability zero in evidence, row 1: a = 0, b = 1;"):
        network.query("c", evidence={"a": 0, "b": torch.tensor([0, 1])})


def test_numbers_of_parameters():
    network = mixed()
    assert network.parameter_counts == {"a": 1, "b": 2 * 2, "c": 3 * 2 * 3}
    assert (
        network.num_parameters == 23 == network.num_joint_parameters
    )  # every arrow is there: the chain rule
    assert ConditionalTable((5,)).num_parameters == 4


# ---- Pyro's own tools on the sites


def test_pyro_enumerates_the_nodes():
    network = mixed()
    known = pyro.condition(network.nodes, {"c": torch.tensor(2.0)})
    bound = TraceEnum_ELBO(max_plate_nesting=0)
    close(network.log_evidence({"c": 2}), -bound.loss(known, lambda: None))
    marginals = bound.compute_marginals(known, lambda: None)
    for name in ("a", "b"):
        close(marginals[name].probs, network.query(name, evidence={"c": 2}))
    best = infer_discrete(known, first_available_dim=-1, temperature=0)()
    assert [int(best[name]) for name in network.names] == network.most_probable(evidence={"c": 2}).tolist()


def test_pyro_draws_from_the_posterior_of_the_nodes():
    """p(b | c = 2) by backward sampling and by importance sampling, within 4.9 standard errors (1e-6)."""
    network = mixed().eval().requires_grad_(False)
    exact = network.query("b", evidence={"c": 2})
    known = pyro.condition(network.nodes, {"c": torch.tensor(2)})

    def many():
        with pyro.plate("many", 4000):
            return known()

    found = infer_discrete(many, first_available_dim=-2)()["b"]
    error = (exact * (1 - exact) / 4000).sqrt()
    assert ((torch.bincount(found.flatten(), minlength=3) / 4000 - exact).abs() < 4.9 * error).all()
    log_p = Importance(known, num_samples=300).run().get_log_normalizer()
    assert abs(log_p - network.log_evidence({"c": 2})) < 0.5


def test_it_can_be_made_from_plain_data():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--program", type=Program)
    config = {
        "class_path": "pyro_dgm.models.bayesian_network.BayesianNetwork",
        "init_args": {"cardinalities": {"wet": 2, "rain": 3}, "parents": {"wet": ["rain"]}},
    }
    made = parser.instantiate(parser.parse_object({"program": config})).program
    assert made.names == ("wet", "rain")
    assert made.table("wet").shape == (3, 2)


# ---- what is refused


@pytest.mark.parametrize(
    ("cardinalities", "parents", "message"),
    [
        ({}, {}, "no variables in cardinalities; expected a name and a number for each"),
        ({"a": 1}, {}, "bad number of values in cardinalities, variable 'a': 1; expected an integer >= 2"),
        ({"a": 2.5}, {}, "bad number of values in cardinalities, variable 'a': 2.5"),
        (
            {"a": 2, "rain": 2},
            {"a": ["rane"]},
            "no such variable in parents of 'a': 'rane'; expected one of a, rain; try rain",
        ),
        ({"a": 2}, {"b": []}, "no such variable in parents: 'b'; expected one of a"),
        ({"a": 2, "b": 2}, {"a": "b"}, r"one name in parents of 'a': b; expected a list; try \[b\]"),
        ({"a": 2, "b": 2}, {"a": ["b", "b"]}, "a parent named twice in parents of 'a': b"),
        ({"a": 2}, {"a": ["a"]}, "a cycle in parents: a -> a; expected arrows that never lead back"),
        (
            {"z": 2, "a": 2, "b": 2, "c": 2},
            {"a": ["c", "z"], "b": ["a"], "c": ["b"]},
            "a cycle in parents: a -> b -> c -> a;",
        ),
        (
            {f"v{i}": 2 for i in range(40)},
            {"v39": [f"v{i}" for i in range(39)]},
            "tables too large in parents, the largest that of 'v39': 1099511627854 cells; .*134217728",
        ),
    ],
)
def test_no_network(cardinalities, parents, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        BayesianNetwork(cardinalities, parents)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: p.query("aa"), "no such variable in the network: 'aa'; expected one of a, b, c; try a$"),
        (lambda p: p.query("a", evidence={"q": 1}), "no such variable in the network: 'q'"),
        (
            lambda p: p.query("a", evidence={"b": 3}),
            "a value that 'b' does not have in evidence: 3; expected a whole number from 0 to 2$",
        ),
        (
            lambda p: p.log_evidence({"b": torch.tensor([0.0, 0.5])}),
            "a value that 'b' does not have in evidence, row 1: 0.5",
        ),
        (lambda p: p.query("a", "b", "a"), "a variable asked for twice in query: a"),
        (lambda p: p.query("a", evidence={"a": 0}), "a variable that is evidence in query: a"),
        (
            lambda p: p.query("a", evidence={"b": torch.zeros(3), "c": torch.zeros(4)}),
            r"rows of different numbers in evidence: b \(3,\), c \(4,\); expected one value for all",
        ),
        (
            lambda p: p.fit_counts(torch.tensor([[0, 0, 0], [1, 1, 4]])),
            "a value that 'c' does not have in x, row 1: 4; expected a whole number from 0 to 3$",
        ),
        (
            lambda p: p.initialize(torch.tensor([[0.0, 0.25, 0.0], [1.0, 1.0, 1.0]])),
            "a value that 'b' does not have in x, row 0: 0.25",
        ),
        (
            lambda p: p.model(torch.tensor([[0.0, torch.nan, 0.0], [1.0, 1.0, 1.0]])),
            "a value that 'b' does not have in x, row 0: nan",
        ),
        (
            lambda p: p.model(torch.zeros(5, 2)),
            r"wrong shape in x: \(5, 2\); expected \(batch, 3\): a, b, c$",
        ),
        (lambda p: p.fit_counts(torch.zeros(3)), r"wrong shape in x: \(3,\)"),
        (lambda p: p.fit_counts(torch.zeros(0, 3)), "no data in x; expected at least one datum"),
        (lambda p: p.fit_counts(torch.zeros(2, 3), pseudocount=-1), "bad number in pseudocount: -1"),
        (lambda p: p.set_table("a", [0.5, 0.6]), "no probabilities in the table of 'a'.*rows that sum to 1"),
        (lambda p: p.set_table("a", [1.5, -0.5]), "no probabilities in the table of 'a': the least -0.5"),
        (lambda p: p.set_table("a", [0.5, torch.nan]), "no probabilities in the table of 'a'"),
        (lambda p: p.set_table("b", [[0.5, 0.5]] * 3), r"wrong shape in the table of 'b': \(3, 2\)"),
        (lambda p: p.set_table("a", [[0.5], [0.5, 0.5]]), "no table of numbers in the table of 'a'"),
        (lambda p: p.table("d"), "no such variable in the network: 'd'"),
        (
            lambda p: DirectedTables([torch.zeros(2), torch.zeros(2, 3)], [(), (1,)]),
            r"wrong shape in table 1 of log_tables: \(2, 3\); expected \(3, 3\)",
        ),
    ],
)
def test_no_answer(ask, message):
    with pytest.raises(InvalidInput, match=f"^{message}"):
        ask(mixed())


def test_tables_of_a_users_own_are_checked_too():
    half = torch.tensor([0.5, 0.5]).log()
    with pytest.raises(InvalidInput, match="a cycle in parents: 0 -> 1 -> 0"):
        DirectedTables([half.expand(2, 2), half.expand(2, 2)], [(1,), (0,)])
    p = DirectedTables([half, half.expand(2, 2)], [(), (0,)])
    for value in (-1, 0.7, 2):
        with pytest.raises(InvalidInput, match=rf"no such value in evidence on variable 0: {value}"):
            p.log_marginal([1], {0: torch.tensor(value)})


def test_no_configuration_is_the_most_probable_given_what_cannot_be():
    network = BayesianNetwork({"a": 2, "b": 2}, {"b": ["a"]})
    network.set_table("a", [1.0, 0.0])
    assert network.most_probable(evidence={"a": 0})[0] == 0
    with pytest.raises(InvalidInput, match="of probability zero in evidence, row 1: a = 1"):
        network.most_probable(evidence={"a": torch.tensor([0, 1])})
