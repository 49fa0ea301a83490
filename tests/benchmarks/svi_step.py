"""Time of a compiled step beside others'; `python -m tests.benchmarks.svi_step [--device cuda] [CELL ...]`.

A cell is data dimension, hidden units, latent dimension, batch and particles, such as 64-64-8-128-1. All train the pair
of `svi_pairs` by Adam on a batch that is there already, with new noise at each step. First each trains from the same
weights and must arrive at the same loss. Then they take turns in short rounds; the table has each one's median time,
and the medians (quartiles) of the ratios of `CompiledSVI.step` and of `CompiledSVI.steps` to it in the same round:
below 1 we are faster. Denormals are flushed (by torch's flag; XLA always does), Pyro's argument checks are off. The
matrix products are those of torch.mm, and a library that multiplies faster may beat them. Trust a table only where the
process had the core for itself: under load the ratios shift, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pyro
import torch

from tests.benchmarks.svi_costs import costs
from tests.benchmarks.svi_numpyro import numpyro_competitors
from tests.benchmarks.svi_pairs import CELLS, CHUNK, Cell, torch_competitors

ROUNDS = 15
SECONDS = 0.15  # of a round of one competitor, at least
TRAINING = 60  # steps before the losses are compared; later ones learn the batch by heart, each at its pace
COMPARED = 20  # last ones of them, whose mean is compared
TOLERANCE = 0.03
OURS = ("CompiledSVI.step", "CompiledSVI.steps")
PEERS = ("NumPyro update", "NumPyro fori_loop")


def arrive(competitors):
    """Trains all; the loss at which each arrives.

    Raises:
        AssertionError: one arrives elsewhere, so that it does other work.
    """
    found = {}
    for competitor in competitors:
        losses = competitor.run(TRAINING)
        if losses:
            first, found[competitor.name] = losses[0], statistics.fmean(losses[-COMPARED:])
            assert found[competitor.name] < 0.9 * first, f"{competitor.name} does not learn"
    middle = statistics.median(found.values())
    for name, loss in found.items():
        assert abs(loss / middle - 1) < TOLERANCE, f"{name} arrives at {loss:.1f}, the others at {middle:.1f}"
    return found


def times(competitors):
    """Seconds a step of each in each round, and the share of the core that we had."""
    lengths = {competitor.name: _length(competitor) for competitor in competitors}
    found = {competitor.name: [] for competitor in competitors}
    begin, busy = time.perf_counter(), time.process_time()
    for i in range(ROUNDS):
        for competitor in competitors if i % 2 else reversed(competitors):
            n = lengths[competitor.name]
            start = time.perf_counter()
            competitor.run(n)
            found[competitor.name].append((time.perf_counter() - start) / n)
    return found, (time.process_time() - busy) / (time.perf_counter() - begin)


def _length(competitor):
    """Steps of a round."""
    n = competitor.chunk
    while True:
        start = time.perf_counter()
        competitor.run(n)
        if time.perf_counter() - start > SECONDS / 2:
            return n
        n *= 2


def compare(cell, device):
    competitors = torch_competitors(cell, device) + (numpyro_competitors(cell) if device == "cpu" else [])
    losses = arrive(competitors)
    found, share = times(competitors)
    print(f"\n{cell!s:20s}{'ms':>8s}   {'step / it':21s} {'steps / it':21s} loss")
    for name, seconds in found.items():
        ratios = [_ratio(found[ours], seconds) if ours != name else "" for ours in OURS]
        loss = f"{losses[name] / cell.batch:.2f}" if name in losses else ""
        print(f"{name:20s}{1e3 * statistics.median(seconds):8.3f}   {ratios[0]:21s} {ratios[1]:21s} {loss}")
    for name in PEERS if device == "cpu" else ():
        if name not in found:
            print(f"{name:20s}not installed")
    cost = costs(cell, device)
    print(
        f"first steps {cost['cold']:.1f} s with an empty cache, {cost['warm']:.1f} s in the next process; peak memory "
        f"{cost['cold MiB']:.0f} and {cost['warm MiB']:.0f} MiB, plain SVI {cost['plain MiB']:.0f} MiB\n"
        f"share of the core during the rounds: {share:.0%}",
        flush=True,
    )


def _ratio(ours, theirs):
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:6.3f} ({low:.3f} {high:.3f})"


def header(device):
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    processor = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{processor or platform.processor()}, {torch.backends.cpu.get_cpu_capability()}, one core{load}")
    if device == "cuda":
        print(torch.cuda.get_device_name())
    print(", ".join(f"{name} {_version(name)}" for name in ("torch", "pyro-ppl", "numpyro", "jax")))
    print(f"denormals flushed; {CHUNK} steps a call in CompiledSVI.steps and NumPyro's loop", flush=True)


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.svi_step", description=__doc__.splitlines()[0]
    )
    parser.add_argument("cells", nargs="*", metavar="CELL", help=f"such as {CELLS[0]}; all by default")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    header(options.device)
    for cell in [Cell(*map(int, name.split("-"))) for name in options.cells] or CELLS:
        compare(cell, options.device)


if __name__ == "__main__":
    main(sys.argv[1:])
