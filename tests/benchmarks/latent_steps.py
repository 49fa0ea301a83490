"""Time of a step of the small configs beside a loop by hand; `python -m tests.benchmarks.latent_steps [CONFIG ...]`.

For each config of a model with latent variables: the step that `fit` takes, compiled (`Players.compile`) and plain,
and the loop that a person writes in bare torch for this one model (`latent_loops`), with the same layers, optimiser,
batch size and clipping. First all three train from the same weights on the same data with the same noise, and their
losses must agree step by step. Then they take turns in short rounds; the table has the median time of each, and the
medians (quartiles) of the ratios of ours to the one by hand in the same round. Batches are there already; moving
averages, learning rates and metrics belong to no step. Ours does more: it tells the terms of the bound and the norm
of the gradient, and refuses one that is not finite. Denormals are flushed, Pyro's argument checks are off. Times are
processor milliseconds of one core, see `rounds`.
"""

from __future__ import annotations

import argparse
import copy
import functools
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import pyro
import torch

from pyro_dgm.experiment.build import build
from pyro_dgm.experiment.config import read_config
from pyro_dgm.experiment.estimate import FUNCTIONS
from pyro_dgm.objectives.player import adam
from pyro_dgm.training.batches import Batches
from pyro_dgm.training.learner import learner_of_program
from tests.benchmarks import latent_loops as by_hand
from tests.benchmarks import latent_loops_deep as by_hand_deep
from tests.benchmarks.rounds import alone, ratio, times

FOLDER = Path(__file__).parents[2] / "configs"
LOSSES = {
    "vae_digits": by_hand.vae,
    "autoencoder_digits": by_hand.autoencoder,
    "iwae_digits": functools.partial(by_hand.iwae, num_particles=10),
    "dreg_digits": functools.partial(by_hand.dreg, num_particles=10),
    "gmvae_digits": by_hand.gmvae,
    "vampprior_digits": by_hand.vamp_vae,
    "hvae_digits": functools.partial(by_hand_deep.ladder_vae, annealed=1500),
    "conv_vae_digits": functools.partial(by_hand.conv_vae, annealed=800),
    "cvae_digits": by_hand.cvae,
    "draw_digits": by_hand_deep.draw,
}
COMPARED = 20  # steps
# Of the first loss and of the later ones, relative: Adam's first steps are as long for a rounding as for a gradient.
# The standard gradient in place of DReG's gives 5e-3 later, nine tenths of the divergence 3e-3 at once.
FIRST, LATER = 1e-5, 2e-3
BY_HAND, COMPILED, PLAIN = "by hand", "compiled", "plain"


@dataclass(frozen=True)
class Rivals:
    """`steps` by name; `batches` that they take in turn."""

    name: str
    steps: dict
    batches: list

    def require_agreement(self):
        """Trains all three on the same noise.

        Raises:
            AssertionError: one has another loss, so that it does other work.
        """
        for number in range(COMPARED):
            batch, found = self.batches[number % len(self.batches)], {}
            for name, step in self.steps.items():
                torch.manual_seed(number)
                found[name] = step(*batch)
            for name, loss in found.items():
                difference = abs(loss / found[BY_HAND] - 1)
                assert difference < (LATER if number else FIRST), (
                    f"{self.name}, step {number}: {name} {loss}, {found}"
                )

    def runs(self):
        return {name: functools.partial(self._run, step) for name, step in self.steps.items()}

    def _run(self, step, n):
        for i in range(n):
            step(*self.batches[i % len(self.batches)])


def our_step(learner, *, is_compiled):
    step = learner.step
    if is_compiled:
        step.compile()
    return lambda *batch: step.step(*batch)[learner.main]


def rivals(name):
    """The three of a config, with the same weights."""
    pyro.set_rng_seed(0)
    objects, _ = build(read_config(FOLDER / f"{name}.yaml"), FUNCTIONS)
    training = objects.training.as_dict()
    split = Batches(objects.data.train, batch_size=training["batch_size"], seed=0)

    def learner(program):
        return learner_of_program(
            program,
            copy.deepcopy(objects.objective),
            batches=split,
            dtype=torch.float32,
            autocast=False,
            optimizer=objects.optimizer or adam,
            scheduler=None,
            clip_norm=training["clip_norm"],
            max_loss=None,
            ema=None,
            init_from=None,
        )

    first = learner(objects.program)  # starts the observation from the data
    steps = {
        BY_HAND: by_hand.step_by_hand(
            objects.program, LOSSES[name], objects.optimizer or adam, training["clip_norm"]
        ),
        COMPILED: our_step(learner(copy.deepcopy(objects.program)), is_compiled=True),
        PLAIN: our_step(first, is_compiled=False),
    }
    return Rivals(name, steps, [batch for _, batch in split.epoch()])


def show(one):
    found, share = times(one.runs())
    ms = {name: 1e3 * statistics.median(seconds) for name, seconds in found.items()}
    ratios = [ratio(found[name], found[BY_HAND]) for name in (COMPILED, PLAIN)]
    times_shown = "".join(f"{ms[name]:9.3f}" for name in (BY_HAND, COMPILED, PLAIN))
    print(f"{one.name:20s}{times_shown}   {ratios[0]:22s} {ratios[1]:22s}{share:6.0%}", flush=True)


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.latent_steps", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "configs", nargs="*", metavar="CONFIG", help=f"of {', '.join(LOSSES)}; all by default"
    )
    names = parser.parse_args(arguments).configs or list(LOSSES)
    alone()
    found = []
    for name in names:  # all of them, before any is timed: the compiler's processes may go on
        found.append(rivals(name))
        found[-1].require_agreement()
        print(f"{name}: losses of {COMPARED} steps agree", flush=True)
    print(
        f"{'ms a step':20s}{'by hand':>9s}{'compiled':>9s}{'plain':>9s}   {'compiled / by hand':22s} "
        f"{'plain / by hand':22s}{'core':>6s}"
    )
    for one in found:
        show(one)


if __name__ == "__main__":
    main(sys.argv[1:])
