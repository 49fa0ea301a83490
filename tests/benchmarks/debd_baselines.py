"""MADE beside independent variables on the ten sets of `DEBD`; `python -m tests.benchmarks.debd_baselines`.

`PYRO_DGM_DATA` must name the folder of the sets. For each, in nats per datum of the test part: independent variables,
each with its frequency in the training part (one count added to either value), and MADE's ledger in `configs/results`,
if its run was made, with its standard error over the data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

from torch.distributions import Bernoulli

from pyro_dgm.data import DEBD
from pyro_dgm.data.debd import DEBDName

RESULTS = Path(__file__).parents[2] / "configs" / "results"


def independent(data: DEBD) -> float:
    """Nats per datum of the test part under the frequencies of the training part."""
    x = data.train.x
    frequencies = (x.sum(0) + 1) / (len(x) + 2)
    return -Bernoulli(frequencies).log_prob(data.test.x).sum(-1).double().mean().item()


def main() -> None:
    print(f"{'set':12s}{'variables':>10s}{'training':>10s}{'test':>8s}{'independent':>13s}{'MADE':>10s}")
    for name in get_args(DEBDName):
        data = DEBD(name)
        sizes = f"{data.data_shape[0]:10d}{len(data.train):10d}{len(data.test):8d}"
        path = RESULTS / f"made_debd_{name}.json"
        ledger = json.loads(path.read_text()) if path.is_file() else {"status": "no ledger"}
        made = (
            f"{-ledger['log_likelihood']:10.3f} +- {ledger['standard_error']:.3f}"
            if ledger["status"] == "done"
            else f"   {ledger['status']}"
        )
        print(f"{name:12s}{sizes}{independent(data):13.3f}{made}", flush=True)


if __name__ == "__main__":
    main()
