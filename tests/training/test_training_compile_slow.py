"""Long runs of compiled steps: where they end, what they hold in memory, how they resume, and the cache on the disk."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_dgm.training import CompiledSVI
from tests.training.beside_plain import values
from tests.training.compiled_pairs import regularised, score, vae

pytestmark = pytest.mark.slow


def adam():
    return pyro.optim.Adam({"lr": 0.01})


def last_losses(kind, seeds, steps):
    """Mean loss of the last quarter, for each seed of the noise, from one start and on the same data."""
    found = []
    for seed in seeds:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide, batch = vae()
        svi = kind(model, guide, adam(), Trace_ELBO())
        svi.step(*batch)
        pyro.set_rng_seed(seed)
        losses = torch.tensor([svi.step(*batch) for _ in range(steps)])
        found.append(losses[-steps // 4 :].mean())
    return torch.stack(found)


def distance(a, b):
    """In standard errors."""
    return float((a.mean() - b.mean()).abs() / (a.var() / len(a) + b.var() / len(b)).sqrt())


def test_two_thousand_steps_end_where_plain_ones_end():
    """Other seeds for either kind, so that the runs have nothing but their distribution in common."""
    compiled = last_losses(CompiledSVI, range(100, 106), 2000)
    assert distance(compiled, last_losses(SVI, range(200, 206), 2000)) < 4.9


def test_the_comparison_of_ends_catches_a_wrong_gradient(monkeypatch):
    """A rate that is a tenth of what it should be."""
    compiled = last_losses(CompiledSVI, range(100, 104), 500)
    monkeypatch.setattr(sys.modules[__name__], "adam", lambda: pyro.optim.Adam({"lr": 0.001}))
    assert distance(compiled, last_losses(SVI, range(200, 204), 500)) > 4.9


class Allocated(ctypes.Structure):
    """What the C library says of its memory, in bytes: `mallinfo2(3)`."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def in_use() -> int:
    """Bytes that are allocated now. Resident memory would tell less: a leak can hide in what was free before."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Allocated
    told = ask()
    return told.uordblks + told.hblkhd


def growth(steps, leak=None):
    """Tensors, bytes and blocks of Python that steps leave behind, once as many have warmed everything up."""
    model, guide, batch = regularised()
    svi = CompiledSVI(model, guide, adam(), Trace_ELBO())
    counts = []
    for _ in range(2):
        for _ in range(steps):
            svi.step(*batch)
            if leak is not None:
                leak(svi._gradient(*batch).gradients)
        gc.collect()
        tensors = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
        counts.append((tensors, in_use(), sys.getallocatedblocks()))
    assert not svi._gradient.is_plain
    return [after - before for before, after in zip(*counts, strict=True)]


needs_malloc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc 2.33 says what is allocated"
)


@needs_malloc
def test_ten_thousand_steps_keep_the_memory():
    tensors, size, blocks = growth(10_000)
    assert tensors <= 10
    assert size < 2**20  # a hundred bytes at each step would be as much
    assert blocks < 5000


@needs_malloc
def test_a_leak_is_caught():
    kept = []
    tensors, size, _ = growth(2500, kept.append)
    assert tensors > 10 and size > 2**20
    *_, blocks = growth(6000, lambda _: kept.append(object()))
    assert blocks > 5000


@pytest.mark.parametrize("make", [score, regularised])
def test_a_resumed_run_goes_on_bit_by_bit(make):
    model, guide, batch = make()
    svi = CompiledSVI(model, guide, adam(), Trace_ELBO())
    for _ in range(15):
        svi.step(*batch)
    buffers = [] if make is score else list(model.__self__.buffers())
    kept = [buffer.clone() for buffer in buffers]
    optim = {
        parameter: {
            key: torch.as_tensor(value).clone() for key, value in known.state_dict()["state"][0].items()
        }
        for parameter, known in svi.optim.optim_objs.items()
    }
    store, noise = values(), torch.get_rng_state()
    expected = [svi.step(*batch) for _ in range(120)], values()
    with torch.no_grad():
        for name, value in pyro.get_param_store().named_parameters():
            value.copy_(store[name])
        for buffer, value in zip(buffers, kept, strict=True):
            buffer.copy_(value)
    for parameter, known in svi.optim.optim_objs.items():
        known.load_state_dict({**known.state_dict(), "state": {0: optim[parameter]}})
    torch.set_rng_state(noise)
    found = [svi.step(*batch) for _ in range(120)], values()
    assert found[0] == expected[0]
    assert all(torch.equal(found[1][name], value) for name, value in expected[1].items())


PROGRAM = """
import torch
torch.set_num_threads(1)
import pyro
from pyro.infer import Trace_ELBO
from pyro_dgm.training import CompiledSVI
from tests.training.compiled_pairs import {name}
pyro.set_rng_seed(0)
model, guide, batch = {name}()
svi = CompiledSVI(model, guide, pyro.optim.Adam({{"lr": 0.01}}), Trace_ELBO())
for _ in range(3):
    svi.step(*batch)
assert not svi._gradient.is_plain
counters = torch._dynamo.utils.counters["inductor"]
print(counters["fxgraph_cache_hit"], counters["fxgraph_cache_miss"], svi.step(*batch))
"""


@pytest.mark.parametrize("name", ["score", "vae"])
def test_a_second_process_takes_its_graph_from_the_disk(name, tmp_path):
    def run(folder):
        variables = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", PROGRAM.format(name=name)]
        root = Path(__file__).parents[2]
        output = subprocess.run(
            command, env=variables, cwd=root, capture_output=True, text=True, check=True
        ).stdout
        hits, misses, loss = output.split()[-3:]
        return int(hits), int(misses), float(loss)

    first, second = run(tmp_path / "a"), run(tmp_path / "a")
    assert first[:2] == (0, 1) and second[:2] == (1, 0)
    assert first[2] == second[2]
    assert run(tmp_path / "b")[:2] == (0, 1)  # the folder is what makes the difference
