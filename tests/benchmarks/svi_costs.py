"""Time of the first steps, compilation included, and peak memory in fresh processes; for `svi_step`."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST = 3  # steps, of which one compiles
STEPS = 50


def costs(cell, device):
    """Seconds of the first steps with an empty and with a full cache, and peak MiB of either and of plain SVI."""
    with tempfile.TemporaryDirectory() as cache:
        cold, warm, plain = (_run(cell, kind, device, cache) for kind in ("compiled", "compiled", "plain"))
    return {
        "cold": cold["seconds"],
        "warm": warm["seconds"],
        "cold MiB": cold["MiB"],
        "warm MiB": warm["MiB"],
        "plain MiB": plain["MiB"],
    }


def _run(cell, kind, device, cache):
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.svi_costs", str(cell), kind, device],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main(cell, kind, device):
    import pyro
    import torch

    from pyro_dgm import CompiledSVI
    from tests.benchmarks.svi_pairs import Cell, batch, pyro_svi

    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    cell = Cell(*map(int, cell.split("-")))
    svi = pyro_svi(cell, "pair", CompiledSVI if kind == "compiled" else pyro.infer.SVI, device)
    x = batch(cell, device)
    start = time.perf_counter()
    for _ in range(FIRST):
        svi.step(x)
    seconds = time.perf_counter() - start
    for _ in range(STEPS):
        svi.step(x)
    print(json.dumps({"seconds": seconds, "MiB": _peak()}))


def _peak():
    """MiB; on Linux not by getrusage, whose number begins at the parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.search(r"VmHWM:\s*(\d+) kB", status.read_text())[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    main(*sys.argv[1:])
