"""Cost of more particles in a step of the importance-weighted bound; `python -m tests.benchmarks.particles`.

The steps that `fit` takes of `IWAE(50)` and of `IWAE(1)`, both compiled or both plain, for the program of two configs:
`vae_digits` and `iwae50_mnist_static`, on random binary data of that shape. They take turns in short rounds; the table
has the median times and the median (quartiles) of the ratio of 50 particles to one in the same round. The decoder
works 50 times as much, the encoder as much as before: a ratio far below 50 is what one pass for all particles saves.
Denormals are flushed, Pyro's argument checks are off. Times are processor seconds of one core, see `rounds`.
"""

from __future__ import annotations

import functools
import statistics

import torch

from pyro_dgm.data import Arrays
from pyro_dgm.experiment.build import build
from pyro_dgm.experiment.config import override, read_config
from pyro_dgm.experiment.estimate import FUNCTIONS
from pyro_dgm.objectives import IWAE
from pyro_dgm.training.batches import Batches
from pyro_dgm.training.learner import learner_of_program
from tests.benchmarks.latent_steps import FOLDER
from tests.benchmarks.rounds import alone, ratio, times

SHAPES = {"vae_digits": (1, 8, 8), "iwae50_mnist_static": (1, 28, 28)}
FEW, MANY = 1, 50


def step(name, num_particles, *, is_compiled):
    """Function that does some steps on one batch of random data."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    config = override(read_config(FOLDER / f"{name}.yaml"), [("program.init_args.data_shape", str([*shape]))])
    objects, _ = build(config, FUNCTIONS, sections=["program", "optimizer", "training"])
    size = objects.training.batch_size
    batches = Batches(Arrays((torch.rand(20 * size, *shape) < 0.2).float()).train, batch_size=size, seed=0)
    learner = learner_of_program(
        objects.program,
        IWAE(num_particles),
        batches=batches,
        dtype=torch.float32,
        autocast=False,
        optimizer=objects.optimizer,
        scheduler=None,
        clip_norm=None,
        max_loss=None,
        ema=None,
        init_from=None,
    )
    if is_compiled:
        learner.step.compile()
    _, batch = next(batches.epoch())
    run = functools.partial(learner.step.step, *batch)
    run()  # compiles
    return lambda n: [run() for _ in range(n)]


def show(name, runs, kind):
    found, share = times(runs)
    few, many = found[FEW], found[MANY]
    print(
        f"{name + ', ' + kind:32s}{1e3 * statistics.median(few):9.3f}{1e3 * statistics.median(many):9.3f}   "
        f"{ratio(many, few):22s}{share:6.0%}",
        flush=True,
    )


def main():
    alone()
    pairs = [
        (name, {number: step(name, number, is_compiled=kind == "compiled") for number in (FEW, MANY)}, kind)
        for name in SHAPES
        for kind in ("compiled", "plain")
    ]
    print(f"{'ms a step':32s}{f'K = {FEW}':>9s}{f'K = {MANY}':>9s}   {'ratio':22s}{'core':>6s}")
    for one in pairs:
        show(*one)


if __name__ == "__main__":
    main()
