"""Checkpoints that lack bytes or have others, by the rows 19, 20 and 25 of the table of faults."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
import torch

from pyro_dgm.training import checkpoint_files, load_weights
from pyro_dgm.training.checkpoint_files import STATE, TENSORS
from pyro_dgm.training.manifest import MANIFEST
from tests.faults.saved_runs import FILES, Unchanged, newest, train
from tests.training.stand_ins import Autoencoder, copy_of, same


@pytest.mark.parametrize(
    ("name", "every"),
    [(TENSORS, 7), (STATE, 1), (MANIFEST, 1), pytest.param(TENSORS, 1, marks=pytest.mark.slow)],
)
def test_row_19_every_truncation_is_found(run: Path, no_pickles: None, name: str, every: int) -> None:
    unchanged, path = Unchanged(), newest(run) / name
    load_weights(Autoencoder(), newest(run))
    for length in reversed(range(0, path.stat().st_size, every)):
        os.truncate(path, length)
        assert name in str(unchanged.refuses(newest(run)))


@pytest.mark.parametrize("name", FILES)
def test_row_19_bytes_too_many_are_found(run: Path, name: str) -> None:
    unchanged, path = Unchanged(), newest(run) / name
    for extra in (b"\0", b"\n", b" ", b"}", b"\0" * 5000):
        content = path.read_bytes()
        path.write_bytes(content + extra)
        assert name in str(unchanged.refuses(newest(run)))
        path.write_bytes(content)


def test_row_20_every_flipped_bit_is_found(run: Path, no_pickles: None) -> None:
    unchanged, folder = Unchanged(), newest(run)
    sizes = {name: 8 * (folder / name).stat().st_size for name in FILES}
    rng = random.Random(0)
    flips = [(MANIFEST, bit) for bit in range(sizes[MANIFEST])]
    names = rng.choices(FILES, weights=[sizes[name] for name in FILES], k=1900)
    # The headers and the plain data are small beside the tensors.
    flips += [(name, rng.randrange(sizes[name])) for name in names]
    flips += [(STATE, rng.randrange(sizes[STATE])) for _ in range(50)]
    flips += [(TENSORS, rng.randrange(8 * 2000)) for _ in range(50)]
    for name, bit in flips:
        with (folder / name).open("r+b") as file:
            file.seek(bit // 8)
            byte = file.read(1)[0]
            file.seek(bit // 8)
            file.write(bytes([byte ^ 1 << bit % 8]))
        fault = unchanged.refuses(folder)
        assert name in str(fault) or "newer format" in str(fault)
        with (folder / name).open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([byte]))
    load_weights(Autoencoder(), folder)


def test_row_19_a_damaged_checkpoint_is_left_out_with_a_line_and_rewritten(run: Path) -> None:
    expected = copy_of_run(run)
    os.truncate(newest(run) / TENSORS, 100)
    before = newest(run)
    with pytest.warns(UserWarning, match=r"damaged checkpoint .*: 100 bytes; .*; step-00000009 is left out"):
        train(run, resume=True)
    checkpoint_files.read(before)
    assert same(copy_of_run(run), expected)


def copy_of_run(run: Path) -> dict[str, torch.Tensor]:
    program = Autoencoder()
    load_weights(program, run)
    return copy_of(program)


def test_row_25_a_newer_format_is_named(run: Path) -> None:
    path = newest(run) / MANIFEST
    for version in (3, 10**9):
        manifest = json.loads(path.read_bytes()) | {"format": version}
        path.write_text(json.dumps(manifest))
        fault = Unchanged().refuses(newest(run))
        assert f": {version}; expected at most 2; try a newer pyro_dgm" in str(fault)
