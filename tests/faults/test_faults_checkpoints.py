"""Checkpoints that are not what was written, by the rows 19 to 25 of the table of faults: refused, nothing loaded."""

from __future__ import annotations

import functools
import json
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_dgm
from pyro_dgm import fit
from pyro_dgm.errors import Fault, IntegrityError, InvalidInput, NonFiniteError
from pyro_dgm.objectives import ELBO
from pyro_dgm.training import checkpoint_files, load_weights, save_checkpoint
from pyro_dgm.training.checkpoint_files import MANIFEST, STATE, TENSORS
from tests.training.stand_ins import Autoencoder, Location, Parts, copy_of, rows, same

FILES = (TENSORS, STATE, MANIFEST)


def train(out: Path, program: Any = None, **options: Any) -> Any:
    """A run that has all that a checkpoint can hold; two checkpoints and the best weights are kept."""
    data = Parts(rows(24, seed=1), rows(8, seed=2))
    defaults: dict[str, Any] = {
        "epochs": 3,
        "batch_size": 8,
        "ema": 0.9,
        "early_stopping": 10,
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9),
        "checkpoint_seconds": 0.0,
    }
    program = Autoencoder() if program is None else program
    return fit(program, ELBO(), data, out=out, progress=False, **defaults | options)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("original") / "run"
    torch.manual_seed(0)
    train(out)
    return out


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


def newest(run: Path) -> Path:
    return checkpoint_files.saved(run)[0]


def vouch(folder: Path) -> None:
    """Gives a checkpoint the manifest of the files that are in it, as anybody can."""
    parts = {name: (folder / name).read_bytes() for name in (TENSORS, STATE)}
    sizes = {
        name: {"bytes": len(part), "sha256": checkpoint_files.hashlib.sha256(part).hexdigest()}
        for name, part in parts.items()
    }
    (folder / MANIFEST).write_bytes(checkpoint_files._manifest(sizes))


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches for a pickle fails, whether its code would have run or not."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a pickle was read")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)


class Unchanged:
    """Loads into a program that must stay as it is."""

    def __init__(self) -> None:
        self.program = Autoencoder()
        self.before = copy_of(self.program)

    def refuses(self, folder: Path) -> IntegrityError:
        with pytest.raises(IntegrityError) as caught:
            load_weights(self.program, folder)
        assert caught.value.exit_code == 3 and "\n" not in str(caught.value)
        assert str(folder.parent) in str(caught.value)
        assert same(self.before, copy_of(self.program))
        return caught.value


@pytest.mark.parametrize("name", FILES)
def test_row_19_every_truncation_is_found(run: Path, no_pickles: None, name: str) -> None:
    unchanged, path = Unchanged(), newest(run) / name
    load_weights(Autoencoder(), newest(run))
    for length in reversed(range(path.stat().st_size)):
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


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def plain_bomb(sign: Path) -> bytes:
    return pickle.dumps(Bomb(sign))


def torch_bomb(sign: Path) -> bytes:
    file = sign.with_name("archive")
    torch.save({"program": Bomb(sign)}, file)
    return file.read_bytes()


def zip_bomb(sign: Path) -> bytes:
    file = sign.with_name("archive")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", plain_bomb(sign))
        archive.writestr("archive/data/0", bytes(1 << 24))
    return file.read_bytes()


def test_the_bombs_are_alive(tmp_path: Path) -> None:
    pickle.loads(plain_bomb(tmp_path / "plain"))
    torch_bomb(tmp_path / "torch")
    torch.load(tmp_path / "archive", weights_only=False)
    assert (tmp_path / "plain").exists() and (tmp_path / "torch").exists()


@pytest.mark.parametrize("vouched", [False, True], ids=["unvouched", "vouched"])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("bomb", [plain_bomb, torch_bomb, zip_bomb])
def test_row_21_a_pickle_bomb_is_refused_and_runs_nothing(
    run: Path, tmp_path: Path, bomb: Callable[[Path], bytes], name: str, vouched: bool
) -> None:
    unchanged, sign = Unchanged(), tmp_path / "sign"
    for folder in checkpoint_files.saved(run):
        (folder / name).write_bytes(bomb(sign))
        if vouched and name != MANIFEST:
            vouch(folder)
    unchanged.refuses(newest(run))
    with pytest.raises(IntegrityError, match="no good checkpoint left"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train(run, unchanged.program, resume=True)
    assert not sign.exists()


def test_row_21_no_module_reads_or_writes_pickles() -> None:
    unsafe = re.compile(
        r"(?<![\w.])torch\.(load|save)\(|^\s*(import|from) (pickle|cloudpickle|dill|joblib)\b|allow_pickle=True",
        re.MULTILINE,
    )
    assert unsafe.search("  torch.load(path)") and unsafe.search("import pickle")
    for path in Path(pyro_dgm.__file__).parent.rglob("*.py"):
        assert not unsafe.search(path.read_text()), path


def header(length: int, text: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + text


def many_tensors(num: int) -> bytes:
    entry = '"{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    text = ("{" + ",".join(entry.format(i) for i in range(num)) + "}").encode()
    return header(len(text), text)


OVERSIZED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "header of 2^40 bytes": (TENSORS, lambda: header(1 << 40, b"{}" + b" " * 100)),
    "header of 2^64 - 1 bytes": (TENSORS, lambda: header((1 << 64) - 1, b"{}")),
    "header of 30 MB of spaces": (TENSORS, lambda: header(30_000_000, b"{" + b" " * 29_999_998 + b"}")),
    "half a million empty tensors": (TENSORS, lambda: many_tensors(500_000)),
    "tensor of 2^50 elements": (
        TENSORS,
        lambda: (
            header(62, b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,4]}}   ' % (1 << 50)) + bytes(4)
        ),
    ),
    "twenty million brackets": (STATE, lambda: b"[" * 20_000_000),
    "ten million empty lists": (STATE, lambda: b"[" + b"[]," * 10_000_000 + b"[]]"),
    "manifest of 60 MB": (MANIFEST, lambda: b'{"format": 2, "parts": [' + b"[]," * 20_000_000 + b"[]]}"),
}


def test_row_22_oversized_headers_are_refused_in_bounded_memory(run: Path) -> None:
    # In a process of its own, for memory is measured by its peak.
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from pyro_dgm.errors import IntegrityError
        from pyro_dgm.training import load_weights
        from tests.training.stand_ins import Autoencoder
        program = Autoencoder()
        for name in sys.argv[1:]:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            try:
                load_weights(program, Path(name))
                print("loaded", name)
            except IntegrityError as error:
                after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                print(after - before, error)
        """
    )
    folders = []
    for number, (name, content) in enumerate(OVERSIZED.values()):
        folder = Path(shutil.copytree(newest(run), run / f"{number}"))
        (folder / name).write_bytes(content())
        if name != MANIFEST:
            vouch(folder)
        folders.append(str(folder))
    command = [sys.executable, "-W", "ignore", "-c", script, *folders]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(lines) == len(OVERSIZED)
    for what, line in zip(OVERSIZED, lines, strict=True):
        grown, _, message = line.partition(" ")
        assert "checkpoint" in message, what
        assert int(grown) < 64 << 10, (what, line)  # kibibytes: much less than twice the file


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 50_000, "[" * 50_000 + "]" * 50_000], ids=len)
def test_row_22_deeply_nested_plain_data_are_refused(run: Path, text: str) -> None:
    (newest(run) / STATE).write_text(text)
    vouch(newest(run))
    Unchanged().refuses(newest(run))
    with pytest.warns(UserWarning, match="is left out"):
        train(run, resume=True)


def test_row_22_a_manifest_is_read_no_further_than_its_length(run: Path) -> None:
    path = newest(run) / MANIFEST
    path.write_bytes(path.read_bytes() + b" " * 10_000)
    Unchanged().refuses(newest(run))


def test_a_checkpoint_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="oversized checkpoint"):
        save_checkpoint(tmp_path / "c", {"program": Location(), "log": "x" * (1 << 24)})
    assert not list(tmp_path.iterdir())


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


def test_row_25_a_newer_format_is_named(run: Path) -> None:
    path = newest(run) / MANIFEST
    for version in (3, 10**9):
        manifest = json.loads(path.read_bytes()) | {"format": version}
        path.write_text(json.dumps(manifest))
        fault = Unchanged().refuses(newest(run))
        assert f": {version}; expected at most 2; try a newer pyro_dgm" in str(fault)


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
