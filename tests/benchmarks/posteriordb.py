"""Table of posteriordb's posteriors under Pyro's autoguides: what k-hat says, and what is true.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.posteriordb [PART OF A NAME ...]

One line per posterior and guide, in Markdown: k-hat and effective sample size of 10,000 draws; the flags; then the
largest error of a mean, in sd of the reference, and the sd farthest from the reference's, as a ratio; of the guide's
own draws and of the reweighted ones.
"""

import sys
import time

import numpy as np
import pyro
import torch

from tests.posteriordb.models import POSTERIORS
from tests.posteriordb.variational import GUIDES, contradictions, farthest, fit, judge

HEAD = (
    "| posterior | guide | s | k-hat | ESS | reweighted reliable | usable as is "
    "| guide: mean | sd | reweighted: mean | sd | against the truth |"
)


def line(posterior, guide_name):
    pyro.set_rng_seed(0)
    start = time.perf_counter()
    guide = fit(posterior, guide_name)
    seconds = time.perf_counter() - start
    cell = judge(posterior, guide)
    columns = [
        posterior.name.split("-")[-1],
        guide_name,
        f"{seconds:.0f}",
        f"{cell.k_hat:.2f}",
        f"{cell.ess:.0f}",
    ]
    columns += ["yes" if flag else "no" for flag in (cell.reweighted_reliable, cell.usable_as_is)]
    for one in (cell.guide, cell.reweighted):
        columns += [f"{np.abs(one.mean_error).max():.2f}", f"{farthest(one.sd_ratio):.2f}"]
    return "| " + " | ".join([*columns, "; ".join(contradictions(cell))]) + " |"


def main(parts):
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    pyro.enable_validation(False)
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|")
    for name, posterior in POSTERIORS.items():
        if not parts or any(part in name for part in parts):
            for guide_name in GUIDES:
                print(line(posterior, guide_name), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
