"""Random Bayesian networks in float64, and the tables of their joint distributions, multiplied and summed by hand."""

import itertools

import torch

from pyro_dgm.models.bayesian_network import BayesianNetwork

SEEDS = range(3)
UP_TO_ROUNDING = {"rtol": 0, "atol": 1e-10}


def random_network(seed, *, variables=6, most=4, edge=0.5):
    """A random graph whose columns are in no order of the graph, with random tables."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(variables, generator=generator).tolist()
    cards = torch.randint(2, most + 1, (variables,), generator=generator).tolist()
    parents = {}
    for place, v in enumerate(order):
        chosen = [u for u in order[:place] if torch.rand((), generator=generator) < edge]
        parents[f"v{v}"] = [f"v{u}" for u in chosen]
    network = BayesianNetwork({f"v{v}": card for v, card in enumerate(cards)}, parents).double()
    with torch.no_grad():
        for logits in network.parameters():
            logits.copy_(torch.randn(logits.shape, generator=generator).double() * 1.5)
    return network


def configurations(network):
    return torch.tensor(list(itertools.product(*map(range, network.cardinalities.values()))))


def joint(network):
    """p(x) of every configuration, multiplied by hand, with a dimension for each variable."""
    value = dict(zip(network.names, configurations(network).unbind(-1), strict=True))
    factors = [network.table(v)[tuple(value[u] for u in (*network.parents[v], v))] for v in network.names]
    return torch.stack(factors).prod(0).reshape(list(network.cardinalities.values()))


def summed(network, table, variables, evidence):
    """p(variables, evidence) out of the joint table."""
    slices = [evidence.get(name, slice(None)) for name in network.names]
    left = [name for name in network.names if name not in evidence]
    rest = [place for place, name in enumerate(left) if name not in variables]
    table = table[tuple(slices)]
    table = table.sum(rest) if rest else table
    kept = [name for name in left if name in variables]
    return table.permute([kept.index(name) for name in variables])


def questions(network, seed, number=6):
    """Random variables and evidence, of all sizes that leave one another room."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        names = [network.names[v] for v in torch.randperm(len(network.names), generator=generator).tolist()]
        first, second = sorted(torch.randint(0, len(names) + 1, (2,), generator=generator).tolist())
        chosen = {name: network.cardinalities[name] for name in names[first:second]}
        yield (
            names[:first],
            {n: int(torch.randint(card, (), generator=generator)) for n, card in chosen.items()},
        )
