"""Makes facts.npz from draws and data of posteriordb: python -m tests.posteriordb.make_facts FILE

posteriordb (Magnusson, Bürkner, Vehtari and others), commit 28f8d3d6e975315f42aa274a8399f21e07a43b30, BSD 3-clause
licence; see LICENSE.txt here. FILE has for each posterior P: P/draws (chains, draws, K), P/names, P/data/NAME.
"""

import sys

import numpy as np

from tests.posteriordb.models import FACTS, POSTERIORS

NUM_POINTS = 20


def facts_of(draws, names):
    """Summaries of reference draws (chains, draws, K), with a few of the draws themselves."""
    draws = draws.reshape(-1, draws.shape[-1])
    return {
        "names": names,
        "mean": draws.mean(0),
        "sd": draws.std(0, ddof=1),
        "quantiles": np.quantile(draws, [0.05, 0.5, 0.95], axis=0),
        "correlation": np.corrcoef(draws.T),
        "points": draws[:: len(draws) // NUM_POINTS][:NUM_POINTS],
    }


def make_facts(path, target=FACTS):
    found = {}
    with np.load(path, allow_pickle=False) as file:
        for name, posterior in POSTERIORS.items():
            facts = facts_of(file[f"{name}/draws"], file[f"{name}/names"])
            facts |= {f"data/{field}": file[f"{name}/data/{field}"] for field in posterior.fields}
            found |= {f"{name}/{key}": value for key, value in facts.items()}
    np.savez_compressed(target, **found)


if __name__ == "__main__":
    make_facts(sys.argv[1])
