"""Checkpoints that would run code or fill the memory, by the rows 21 and 22 of the table of faults."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import textwrap
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import pyro_dgm
from pyro_dgm.errors import IntegrityError, InvalidInput
from pyro_dgm.training import checkpoint_files, save_checkpoint
from pyro_dgm.training.checkpoint_files import STATE, TENSORS
from pyro_dgm.training.manifest import MANIFEST
from tests.faults.saved_runs import FILES, Unchanged, newest, train, vouch
from tests.training.stand_ins import Location


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
