"""Training steps of autoregressive models and of bare networks; `python -m tests.benchmarks.autoregressive_steps`.

For each model, at the size of statically binarised MNIST and of the digits: the step that `fit` takes, compiled and
plain, with clipping, the norm of the gradient, the check that it is finite and Adam's update; and the network's forward
and backward passes alone, with torch's binary cross-entropy, plain. The gradients of the three must agree first. They
take turns in short rounds; the table has the median time of each and the median (quartiles) of the ratios to the bare
network in the same round. Times are processor milliseconds of one core, see `rounds`.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import sys

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pyro_dgm import models
from pyro_dgm.data import Arrays
from pyro_dgm.objectives import ELBO
from pyro_dgm.objectives.player import adam
from pyro_dgm.training.batches import Batches
from pyro_dgm.training.learner import learner_of_program
from tests.benchmarks.rounds import alone, ratio, times

MNIST, DIGITS = (1, 28, 28), (1, 8, 8)
BATCH = 100
MODELS = {
    "FVSBN": (MNIST, lambda: models.FVSBN(MNIST)),
    "NADE, 500": (MNIST, lambda: models.NADE(MNIST, hidden=500)),
    "MADE, 2000": (MNIST, lambda: models.MADE(MNIST, hidden=(2000,))),
    "MADE, 500, 8 masks": (MNIST, lambda: models.MADE(MNIST, hidden=(500,), num_masks=8)),
    "PixelCNN, 16": (MNIST, lambda: models.PixelCNN(MNIST, channels=16, num_layers=3)),
    "GatedPixelCNN, 16": (MNIST, lambda: models.GatedPixelCNN(MNIST, channels=16, num_layers=3)),
    "NADE, 100, digits": (DIGITS, lambda: models.NADE(DIGITS, hidden=100)),
    "MADE, 300, digits": (DIGITS, lambda: models.MADE(DIGITS, hidden=(300,))),
    "GatedPixelCNN, 16, digits": (DIGITS, lambda: models.GatedPixelCNN(DIGITS, channels=16, num_layers=3)),
}
BARE, COMPILED, PLAIN = "bare", "compiled", "plain"


def bare(program, batch):
    """Forward and backward passes of the network alone; the loss for each datum."""
    program.zero_grad(set_to_none=True)
    logits = program.network(batch).reshape(batch.shape)
    loss = binary_cross_entropy_with_logits(logits, batch, reduction="sum") / len(batch)
    loss.backward()
    return loss.item()


def step(program, split, *, is_compiled):
    """The step that `fit` takes."""
    learner = learner_of_program(
        program,
        ELBO(),
        batches=split,
        dtype=torch.float32,
        autocast=False,
        optimizer=adam,
        scheduler=None,
        clip_norm=None,
        max_loss=None,
        ema=None,
        init_from=None,
    )
    torch.nn.init.zeros_(program.observation.offset)  # the bare network has no such start
    if is_compiled:
        learner.step.compile()
    return lambda batch: learner.step.step(batch)[learner.main]


def rivals(name):
    shape, make = MODELS[name]
    torch.manual_seed(0)
    program = make()
    split = Batches(Arrays((torch.rand(20 * BATCH, *shape) < 0.2).float()).train, batch_size=BATCH, seed=0)
    (_, (batch, *_)), *_ = split.epoch()
    runs = {
        BARE: functools.partial(bare, copy.deepcopy(program)),
        COMPILED: step(copy.deepcopy(program), split, is_compiled=True),
        PLAIN: step(program, split, is_compiled=False),
    }
    if getattr(program.network, "num_masks", 1) == 1:  # others draw a mask each
        losses = {kind: run(batch) for kind, run in runs.items()}
        assert max(abs(loss / losses[BARE] - 1) for loss in losses.values()) < 1e-4, losses
    return {kind: functools.partial(_repeat, run, batch) for kind, run in runs.items()}


def _repeat(run, batch, n):
    for _ in range(n):
        run(batch)


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.autoregressive_steps", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    names = parser.parse_args(arguments).models or list(MODELS)
    alone()
    made = {name: rivals(name) for name in names}
    print(
        f"{'ms a step':28s}{'bare':>9s}{'compiled':>10s}{'plain':>9s}   {'compiled / bare':22s} {'plain / bare':22s}"
        f"{'core':>6s}"
    )
    for name, runs in made.items():
        found, share = times(runs)
        ms = [1e3 * statistics.median(found[kind]) for kind in (BARE, COMPILED, PLAIN)]
        ratios = [ratio(found[kind], found[BARE]) for kind in (COMPILED, PLAIN)]
        print(
            f"{name:28s}{ms[0]:9.2f}{ms[1]:10.2f}{ms[2]:9.2f}   {ratios[0]:22s} {ratios[1]:22s}{share:6.0%}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
