"""Rivals taking turns in short rounds, each in processor seconds of this one process, pinned to one core.

Processor time leaves out the time in which others had the core, but not what they did to its caches: the share of the
core that is told beside says how far to trust it.
"""

from __future__ import annotations

import os
import statistics
import time

import pyro
import torch

ROUNDS = 15
SECONDS = 0.1  # of a round of one rival, at least


def alone():
    """Pins the process, flushes denormals and turns Pyro's argument checks off, as `fit` does after an epoch."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    print(f"{torch.backends.cpu.get_cpu_capability()}, one core, torch {torch.__version__}{load}", flush=True)


def times(runs):
    """Processor seconds a step of each in each round, and the share of the core that we had.

    Args:
        runs: by name, functions that do as many steps as they are told.
    """
    lengths = {name: _length(run) for name, run in runs.items()}
    found = {name: [] for name in runs}
    begin, busy = time.perf_counter(), time.process_time()
    for i in range(ROUNDS):
        for name in runs if i % 2 else reversed(runs):
            start = time.process_time()
            runs[name](lengths[name])
            found[name].append((time.process_time() - start) / lengths[name])
    return found, (time.process_time() - busy) / (time.perf_counter() - begin)


def _length(run):
    """Steps of a round."""
    n = 1
    while True:
        start = time.process_time()
        run(n)
        if time.process_time() - start > SECONDS / 2:
            return n
        n *= 2


def ratio(ours, theirs):
    """Median and quartiles of the ratios of the same round."""
    low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
    return f"{middle:6.3f} ({low:.3f} {high:.3f})"
