"""Laws of Bayesian networks, in float64 with random graphs and tables: density, draws, fits, numbers of parameters.

A law is a function of one implementation, which takes a network first; each names the mutants that it must catch. The
law of draws has a false-alarm rate of 1e-6; all others are exact.
"""

import pyro
import pytest
import torch
from scipy.stats import chi2

from pyro_dgm import fit
from pyro_dgm.data import Arrays
from pyro_dgm.distributions.directed_tables import DirectedTables
from pyro_dgm.models.bayesian_network import BayesianNetwork
from pyro_dgm.objectives import ELBO
from tests.laws.listed import as_tests
from tests.laws.random_networks import SEEDS, UP_TO_ROUNDING, configurations, joint, random_network

# ---- the density


def sums_to_one(log_prob):
    for seed in SEEDS:
        network = random_network(seed)
        total = log_prob(network, configurations(network)).exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total), **UP_TO_ROUNDING)


def is_the_product_of_its_tables(log_prob):
    for seed in SEEDS:
        network = random_network(seed)
        x = configurations(network)
        torch.testing.assert_close(log_prob(network, x), joint(network).log().flatten(), **UP_TO_ROUNDING)


def log_prob(network, x):
    return network().log_prob(x.double())


def of_logits(network, x):
    """Logits taken for logarithms of probabilities."""
    p = network()
    return DirectedTables([t.logits for t in network.tables], p.parents).log_prob(x)


def of_rows_that_are_columns(network, x):
    """Tables normalised over their first dimension."""
    p = network()
    return DirectedTables([t.logits.log_softmax(0) for t in network.tables], p.parents).log_prob(x)


def with_parents_in_another_order(network, x):
    tables, parents = [], []
    for table, own in zip(network().log_tables, network().parents, strict=True):
        shifted = (*own[1:], *own[:1])
        alike = [table.shape[own.index(u)] for u in shifted] == list(table.shape[:-1])
        parents.append(shifted if alike else own)
        tables.append(table)
    return DirectedTables(tables, parents).log_prob(x)


# ---- counting


def is_where_the_score_vanishes(counted):
    """Gradient zero at the tables that counting gives, and less likelihood wherever else one goes."""
    for seed in SEEDS:
        torch.manual_seed(seed)
        truth = random_network(seed, variables=5, most=3)
        x = truth.sample(400)
        network = random_network(seed, variables=5, most=3)
        counted(network, x)
        best = network().log_prob(x).sum()
        for score in torch.autograd.grad(best, list(network.parameters())):
            assert score.abs().max() < 1e-10 * len(x)
        fitted = [p.detach().clone() for p in network.parameters()]
        for size in (1e-3, 0.1, 1.0):
            with torch.no_grad():
                for p, value in zip(network.parameters(), fitted, strict=True):
                    p.copy_(value + size * torch.randn_like(p))
            assert network().log_prob(x).sum() < best


def has_the_penalised_score_zero(counted):
    """With a pseudocount a, the maximum of log-likelihood plus a times the sum of all log-probabilities."""
    for seed, a in zip(SEEDS, (0.5, 1.0, 10.0), strict=True):
        torch.manual_seed(seed)
        network = random_network(seed, variables=5, most=3)
        x = network.sample(60)
        counted(network, x, a)
        p = network()
        total = p.log_prob(x).sum() + a * sum(table.sum() for table in p.log_tables)
        for score in torch.autograd.grad(total, list(network.parameters())):
            assert score.abs().max() < 1e-9


def counted(network, x, a=0.0):
    network.fit_counts(x, pseudocount=a)


def counted_with_one_more(network, x, a=0.0):
    network.fit_counts(x, pseudocount=a + 1)


def counted_and_tilted(network, x, a=0.0):
    """Later values a little more probable than they were frequent."""
    network.fit_counts(x, pseudocount=a)
    with torch.no_grad():
        for name, table in zip(network.names, network.tables, strict=True):
            if network.parents[name]:
                table.logits.copy_(table.logits + torch.linspace(0, 1, table.logits.shape[-1]))


def counted_once_each(network, x, a=0.0):
    """Data that occur twice counted once."""
    network.fit_counts(x.unique(dim=0), pseudocount=a)


# ---- draws


def follow_the_joint_table(draws, number=20_000):
    """Chi-square over all configurations, the rare ones together: a false-alarm rate of 1e-6 for each network."""
    for seed in SEEDS:
        torch.manual_seed(seed)
        network = random_network(seed, variables=4, most=3)
        sizes = list(network.cardinalities.values())
        cells = torch.zeros(sizes, dtype=torch.double)
        x = draws(network, number).long()
        assert x.shape == (number, len(sizes))
        cells.index_put_(x.unbind(-1), torch.ones(number, dtype=torch.double), accumulate=True)
        found, expected = cells.flatten(), number * joint(network).detach().flatten()
        often = expected >= 20
        found = torch.cat([found[often], found[~often].sum().reshape(1)])
        expected = torch.cat([expected[often], expected[~often].sum().reshape(1)])
        found, expected = found[expected > 0], expected[expected > 0]
        statistic = ((found - expected).square() / expected).sum().item()
        assert chi2.sf(statistic, len(found) - 1) > 1e-6


def draws(network, number):
    return network.sample(number)


def draws_of_the_nodes(network, number):
    with pyro.plate("many", number):
        values = network.nodes()
    return torch.stack([values[name] for name in network.names], -1)


def draws_in_a_batch(network, number):
    return network().expand([number // 4]).sample((4,)).flatten(0, 1)


def draws_of_each_alone(network, number):
    x = network.sample(number)
    return torch.stack([column[torch.randperm(number)] for column in x.unbind(-1)], -1)


def draws_with_first_rows(network, number):
    """Children that do not look at their parents."""
    p = network()
    firsts = [
        table.flatten(0, -2)[0].expand_as(table) if table.dim() > 1 else table for table in p.log_tables
    ]
    return DirectedTables(firsts, p.parents).sample((number,))


# ---- gradients


def comes_to_the_counts(trained):
    torch.manual_seed(0)
    truth = random_network(2, variables=4, most=3)
    x = truth.sample(400)
    best = BayesianNetwork(truth.cardinalities, truth.parents).double()
    best.fit_counts(x)
    network = BayesianNetwork(truth.cardinalities, truth.parents)
    trained(network, x.float())
    network.double()
    gap = (best().log_prob(x) - network().log_prob(x)).mean()
    assert -1e-12 < gap < 1e-5


def trained(network, x, steps=150):
    def adam(parameters):
        return torch.optim.Adam(parameters, lr=0.2)

    data = Arrays(x, val=x[:1], test=x[:1])
    fit(network, ELBO(), data, steps=steps, batch_size=len(x), optimizer=adam, progress=False)


def trained_for_too_short(network, x):
    trained(network, x, steps=20)


def trained_without_arrows(network, x):
    apart = BayesianNetwork(network.cardinalities, {})
    trained(apart, x)
    with torch.no_grad():
        for mine, other in zip(network.tables, apart.tables, strict=True):
            mine.logits.copy_(other.logits.expand_as(mine.logits))


# ---- numbers of parameters


def is_the_rank_of_the_joint(num_parameters):
    """As many numbers as the joint table can be moved in: the rank of its Jacobian in the logits."""
    for seed in SEEDS:
        network = random_network(seed, variables=5, most=3)
        parameters = [p.detach() for p in network.parameters()]
        x, parents = configurations(network), network().parents

        def log_joint(*logits, x=x, parents=parents):
            return DirectedTables([p.log_softmax(-1) for p in logits], parents).log_prob(x)

        places = tuple(range(len(parameters)))
        jacobians = torch.func.jacrev(log_joint, argnums=places)(*parameters)
        jacobian = torch.cat([j.flatten(1) for j in jacobians], -1)
        assert num_parameters(network) == torch.linalg.matrix_rank(jacobian)


def is_what_the_lecture_counts(num_parameters):
    """Binary variables: n if independent, 2n - 1 in a chain, 2^n - 1 for the chain rule in full."""
    for n in range(1, 8):
        names = [f"v{i}" for i in range(n)]
        for parents, number in (
            (lambda i: [], n),
            (lambda i: names[max(0, i - 1) : i], 2 * n - 1),  # noqa: B023
            (lambda i: names[:i], 2**n - 1),  # noqa: B023
        ):
            network = BayesianNetwork(dict.fromkeys(names, 2), {names[i]: parents(i) for i in range(n)})
            assert num_parameters(network) == number
            assert network.num_joint_parameters == 2**n - 1


def num_parameters(network):
    return network.num_parameters


def number_of_logits(network):
    return sum(p.numel() for p in network.parameters())


def number_with_parents_added(network):
    cards = network.cardinalities
    return sum((cards[v] - 1) * max(1, sum(cards[u] for u in network.parents[v])) for v in network.names)


LAWS = [
    (sums_to_one, {"network": log_prob}, {"logits": of_logits, "columns": of_rows_that_are_columns}),
    (
        is_the_product_of_its_tables,
        {"network": log_prob},
        {"columns": of_rows_that_are_columns, "parents in another order": with_parents_in_another_order},
    ),
    (
        is_where_the_score_vanishes,
        {"network": counted},
        {
            "one more": counted_with_one_more,
            "tilted": counted_and_tilted,
            "each datum once": counted_once_each,
        },
    ),
    (
        has_the_penalised_score_zero,
        {"network": counted},
        {"one more": counted_with_one_more, "each datum once": counted_once_each},
    ),
    (
        follow_the_joint_table,
        {"network": draws, "nodes": draws_of_the_nodes, "batch": draws_in_a_batch},
        {"each alone": draws_of_each_alone, "first rows": draws_with_first_rows},
    ),
    (
        comes_to_the_counts,
        {"ELBO": trained},
        {"too short": trained_for_too_short, "without arrows": trained_without_arrows},
    ),
    (
        is_the_rank_of_the_joint,
        {"network": num_parameters},
        {"logits": number_of_logits, "parents added": number_with_parents_added},
    ),
    (
        is_what_the_lecture_counts,
        {"network": num_parameters},
        {"logits": number_of_logits, "parents added": number_with_parents_added},
    ),
]


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


test_law_holds, test_law_catches_mutant = as_tests(LAWS)
