"""The folders of checkpoints: their names, and their files, written whole or not at all and checked when read."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_dgm.errors import InvalidInput, ResourceError
from pyro_dgm.training.manifest import MANIFEST, check_files, damaged, manifest_of

TENSORS, STATE = "tensors.safetensors", "state.json"
CHECKPOINTS, STEP, BEST = "checkpoints", "step", "best"
# Hidden folders beside a checkpoint: the one to come, the one that it replaces, one that is being removed.
_NEW, _OLD, _GONE = "new", "old", "gone"

# Bytes. What is parsed takes many times its length in memory, unlike the tensors; a thousand of them take a tenth of
# a megabyte each in the header and in the plain data.
_MAX_PARSED = 1 << 24
_NUMBER = re.compile(r"[0-9]{8,18}")
_HIDDEN = re.compile(rf"^\.({_NEW}|{_OLD}|{_GONE})-")


def folder_name(kind: str, step: int) -> str:
    """Name of a checkpoint folder.

    Args:
        kind: ``"step"`` for all that training holds, ``"best"`` for the best validated weights.
        step: number of steps done.

    Example:
        >>> folder_name("step", 120)
        'step-00000120'
    """
    return f"{kind}-{step:08d}"


def is_name(kind: str, name: str) -> bool:
    """Whether a name is one that :func:`folder_name` gives, and so no path to elsewhere.

    Args:
        kind: of the folder.
        name: it.
    """
    before, _, number = name.partition("-")
    return before == kind and _NUMBER.fullmatch(number) is not None


def is_ours(name: str) -> bool:
    """Whether a name in ``checkpoints/`` is one that a run writes, hidden ones included; others are the user's.

    Example:
        >>> is_ours("step-00000120"), is_ours(".new-best-00000120"), is_ours("best-so-far")
        (True, True, False)
    """
    shown = _HIDDEN.sub("", name, count=1)
    return is_name(STEP, shown) or is_name(BEST, shown)


def saved(run: Path) -> list[Path]:
    """The checkpoints of a run that hold all of its training, newest first."""
    folders = [path for path in (run / CHECKPOINTS).glob(f"{STEP}-*") if is_name(STEP, path.name)]
    return sorted(folders, key=lambda path: int(path.name.removeprefix(f"{STEP}-")), reverse=True)


def write(folder: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Writes one checkpoint folder under its final name, or nothing.

    All files go to a temporary folder beside it and are flushed to the disk before the folder is renamed.

    Args:
        folder: its final name.
        tensors: what goes into ``tensors.safetensors``.
        plain: what goes into ``state.json``.

    Raises:
        InvalidInput: more than 16 MiB of plain data, or of names of tensors.
        ResourceError: the disk is full or cannot be written.
    """
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    parts = {TENSORS: safetensors.torch.save(own), STATE: json.dumps(plain).encode()}
    _check_parsed(folder, header=int.from_bytes(parts[TENSORS][:8], "little"), state=len(parts[STATE]))
    parts[MANIFEST] = manifest_of(parts)
    temporary, old = _beside(folder, _NEW), _beside(folder, _OLD)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, part in parts.items():
            _write_file(temporary / name, part)
        flush(temporary)
        if folder.exists():  # a damaged one, or one of a user's own loop that saves under one name
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        temporary.rename(folder)
        flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # else it is read under the name that it has
            if old.exists() and not folder.exists():
                old.rename(folder)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
        if not isinstance(error, OSError):
            raise
        raise ResourceError(
            "checkpoint not written", where=str(folder), value=error.strerror, cure="a folder with space"
        ) from error


def remove(folder: Path) -> None:
    """Removes a checkpoint folder, or what an earlier process left unfinished beside one; never fails.

    A kill meanwhile leaves no part of it under its name.

    Args:
        folder: it.
    """
    gone = folder
    if not folder.name.startswith("."):
        gone = _beside(folder, _GONE)
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def current(folder: Path) -> Path:
    """Where a checkpoint is: a kill between the two renames of :func:`write` leaves it under its hidden name.

    Args:
        folder: its name.
    """
    if folder.exists() or not folder.name:
        return folder
    old = _beside(folder, _OLD)
    return old if old.exists() else folder


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain data of a checkpoint folder, after its hashes were found right.

    Args:
        folder: a checkpoint.

    Raises:
        InvalidInput: the folder is no checkpoint.
        IntegrityError: a file is missing, damaged or of a newer format.
    """
    folder = current(folder)
    check_files(folder, (TENSORS, STATE))
    try:
        with (folder / TENSORS).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        _check_parsed(folder, header=header, state=(folder / STATE).stat().st_size)
        mapped = safetensors.torch.load_file(folder / TENSORS)
        # Clones: what is mapped follows the file, and dies with it if it is cut.
        tensors = {name: value.clone() for name, value in mapped.items()}
        return tensors, json.loads((folder / STATE).read_bytes())
    # What a manifest vouches for may still be no such file: it was not written by us.
    except (SafetensorError, OSError, ValueError, RecursionError, MemoryError) as error:
        raise damaged(folder, value=error) from error


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{kind}-{folder.name}")


def _check_parsed(folder: Path, *, header: int, state: int) -> None:
    """Refuses, when written and when read, what would fill the memory when it is parsed."""
    for name, size in ((TENSORS, header), (STATE, state)):
        if size > _MAX_PARSED:
            raise InvalidInput(
                "oversized checkpoint",
                where=str(folder / name),
                value=f"{size} bytes of plain data or names",
                expected=f"at most {_MAX_PARSED}",
            )


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush(folder: Path) -> None:
    """Makes the names in a folder outlast a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
