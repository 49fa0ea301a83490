"""Checkpoints of another program or made by hand, by the rows 23, 24 and 42: refused, or harmless."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pyro_dgm import fit
from pyro_dgm.errors import Fault, IntegrityError, NonFiniteError
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import checkpoint_files, load_weights
from pyro_dgm.training.checkpoint_files import STATE
from tests.faults.saved_runs import FILES, Unchanged, newest, train, vouch
from tests.training.stand_ins import Autoencoder, Location, Parts, copy_of, rows, same


def test_row_23_another_shape_is_named_field_by_field(run: Path) -> None:
    wider = Autoencoder(dim=5)
    before = copy_of(wider)
    with pytest.raises(IntegrityError, match=r"encoder.weight has shape \(2, 4\) instead of \(2, 5\)"):
        load_weights(wider, run)
    with pytest.raises(IntegrityError, match=r"decoder.1.bias has shape \(4,\) instead of \(5,\)") as caught:
        data = Parts(rows(24, dim=5, seed=1), rows(8, dim=5, seed=2))
        options = {"epochs": 3, "batch_size": 8, "ema": 0.9, "early_stopping": 10}
        scheduler = functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=9)
        fit(wider, ELBO(), data, out=run, progress=False, resume=True, scheduler=scheduler, **options)
    assert caught.value.exit_code == 3
    assert same(before, copy_of(wider))


def test_row_24_missing_and_extra_names_are_listed(run: Path) -> None:
    with pytest.raises(
        IntegrityError, match="missing location; unexpected decoder.1.bias, decoder.1.weight, enc"
    ):
        load_weights(Location(4), run)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_is_refused_at_once(run: Path, name: str) -> None:
    folder, unchanged = newest(run), Unchanged()
    (folder / name).unlink()
    os.mkfifo(folder / name)  # opening it would wait for ever
    assert name in str(unchanged.refuses(folder))
    (folder / name).unlink()
    (folder / name).mkdir()
    assert name in str(unchanged.refuses(folder))
    (folder / name).rmdir()
    (folder / name).symlink_to("/dev/zero")
    assert name in str(unchanged.refuses(folder))
    (folder / name).unlink()
    (folder / name).symlink_to(folder / name)
    assert name in str(unchanged.refuses(folder))


def test_links_to_files_with_the_right_hash_are_followed_and_never_written_through(run: Path) -> None:
    # As git-annex and the caches of model hubs keep large files.
    store, folder = run.with_name("store"), newest(run)
    folder.rename(store)
    folder.mkdir()
    for name in FILES:
        (folder / name).symlink_to(store / name)
    expected = {name: (store / name).read_bytes() for name in FILES}
    load_weights(Autoencoder(), run)
    train(run, resume=True, epochs=6)
    assert {name: (store / name).read_bytes() for name in FILES} == expected
    assert not folder.exists()  # pruned: the links, not the files


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values of plain data, also those that hold others."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from leaves(inner, (*path, key))


HOSTILE = [
    None,
    True,
    -1,
    -(10**30),
    10**30,
    1e308,
    "x",
    "../../elsewhere",
    "best-00000003/../../x",
    [],
    {},
    {"$tensor": "nowhere"},
    {"$tensor": ["a"]},
    {"$tensor": "program/encoder.weight"},
    {"$tuple": 5},
    {"$items": [[{}, 1]]},
    {"$items": 5},
    "drop",
]


def changed(plain: Any, path: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(plain))
    inner = copy
    for key in path[:-1]:
        inner = inner[key]
    if value == "drop":
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


def attempts(run: Path) -> list[tuple[tuple[Any, ...], Any]]:
    plain = json.loads((newest(run) / STATE).read_bytes())
    tried = [(path, value) for path in leaves(plain) for value in HOSTILE]
    # What an optimiser keeps of a parameter, which of its rules exclude each other and what a schedule counts is
    # their own affair: there a forgery fails in the first step or epoch, with an error of torch.
    state, groups = (("optimizer", "program", name) for name in ("state", "param_groups"))
    return [
        (path, value)
        for path, value in tried
        if path[0] != "scheduler" and path[:3] != state and (path[:3] != groups or value is not True)
    ]


def try_all(run: Path, tried: list[tuple[tuple[Any, ...], Any]]) -> None:
    """A forged checkpoint with a manifest that vouches for it: goes on, or is refused in one line; no other error."""
    folder, other = checkpoint_files.saved(run)[:2]
    shutil.rmtree(other)
    plain = json.loads((folder / STATE).read_bytes())
    keep = run.with_name("keep")
    run.rename(keep)
    for path, value in tried:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(keep, run)
        (folder / STATE).write_text(json.dumps(changed(plain, path, value)))
        vouch(folder)
        for work in (
            functools.partial(load_weights, Autoencoder()),
            functools.partial(train, resume=True, epochs=4),
        ):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    work(run)
            except (IntegrityError, NonFiniteError) as fault:
                assert "\n" not in str(fault)
            except Fault as fault:
                pytest.fail(f"{path} = {value!r}: {fault!r}")
            except Exception as error:
                raise AssertionError(f"{path} = {value!r}: {error!r}") from error


def test_forged_plain_data_are_refused_or_harmless(run: Path) -> None:
    tried = attempts(run)
    try_all(run, random.Random(1).sample(tried, 80))


@pytest.mark.slow
def test_all_forged_plain_data_are_refused_or_harmless(run: Path) -> None:
    try_all(run, attempts(run))


def test_a_run_s_weights_come_from_its_own_folder_alone(run: Path) -> None:
    foreign = run.with_name("best-00000001")
    shutil.copytree(next((run / "checkpoints").glob("best-*")), foreign)
    path = newest(run) / STATE
    plain = json.loads(path.read_bytes())
    for name in ("../../best-00000001", str(foreign), "..", "", "step-00000009", "best-1", "best-00000001\n"):
        plain["best"]["folder"] = name
        path.write_text(json.dumps(plain))
        vouch(newest(run))
        Unchanged().refuses(run)
