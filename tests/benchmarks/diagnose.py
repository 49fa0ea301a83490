"""Time and memory of a diagnosis, part by part.

    OMP_NUM_THREADS=2 python -m tests.benchmarks.diagnose RUN

RUN is a directory that `pyro-dgm train` has left. The parts are those of `pyro-dgm diagnose`. Weights are compared
with what the likelihood alone takes with as many particles: k-hat, effective sample size and the flags come on top.
"""

import resource
import sys
import time

import torch

from pyro_dgm.diagnostics import examine
from pyro_dgm.evaluation import log_likelihood
from pyro_dgm.experiment.build import Functions
from pyro_dgm.experiment.estimate import FUNCTIONS
from pyro_dgm.experiment.run import Run, load_run

PARTICLES = 1000


def batches(run: Run) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Test data, and as many training data as the gap takes."""
    assert run.data is not None
    return run.batch(run.data.test), run.batch(run.data.train[:200])


def main(folder: str, functions: Functions = FUNCTIONS) -> None:
    run = load_run(folder, functions, with_data=True)
    test, train = batches(run)
    torch.manual_seed(0)
    found = examine(run.program.model, run.program.guide, *test, train=train, num_samples=PARTICLES)
    start = time.perf_counter()
    log_likelihood(run.program.model, run.program.guide, *test, num_particles=PARTICLES)
    alone = time.perf_counter() - start
    print(f"{len(test[0]):,} test data, {torch.get_num_threads()} threads, seconds:")
    for part, seconds in found.seconds.items():
        print(
            f"{part:14}{seconds:8.1f}"
            + (f"  left out: {found.left_out[part]}" if part in found.left_out else "")
        )
    print(f"{'all':14}{sum(found.seconds.values()):8.1f}")
    print(f"importance / log_likelihood alone: {found.seconds['importance'] / alone:.2f}")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(*sys.argv[1:2])
