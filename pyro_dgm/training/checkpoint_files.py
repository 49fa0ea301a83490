"""The files of a checkpoint folder: written whole or not at all, each with its hash, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError

FORMAT = 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
CHECKPOINTS, STEP, BEST = "checkpoints", "step", "best"
# Hidden folders beside a checkpoint: the one to come, the one that it replaces, one that is being removed.
UNFINISHED = _NEW, _OLD, _GONE = "new", "old", "gone"

# Bytes. Three hashes are a tenth of a manifest. What is parsed takes many times its length in memory, unlike the
# tensors; a thousand of them take a tenth of a megabyte each in the header and in the plain data.
_MAX_MANIFEST, _MAX_PARSED = 1 << 12, 1 << 24
_NUMBER = re.compile(r"[0-9]{8,18}")


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
    parts[MANIFEST] = _manifest(
        {
            name: {"bytes": len(part), "sha256": hashlib.sha256(part).hexdigest()}
            for name, part in parts.items()
        }
    )
    temporary, old = _beside(folder, _NEW), _beside(folder, _OLD)
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, part in parts.items():
            _write_file(temporary / name, part)
        _flush(temporary)
        if folder.exists():  # a damaged one, or one of a user's own loop that saves under one name
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        temporary.rename(folder)
        _flush(folder.parent)
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
    sizes = _read_manifest(folder)
    for name, expected in sizes.items():
        _check(folder / name, expected)
    try:
        with (folder / TENSORS).open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        _check_parsed(folder, header=header, state=(folder / STATE).stat().st_size)
        tensors = safetensors.torch.load_file(folder / TENSORS)
        return tensors, json.loads((folder / STATE).read_bytes())
    # What a manifest vouches for may still be no such file: it was not written by us.
    except (SafetensorError, OSError, ValueError, RecursionError, MemoryError) as error:
        raise IntegrityError("damaged checkpoint", where=str(folder), value=error) from error


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{kind}-{folder.name}")


def _manifest(parts: Mapping[str, Any]) -> bytes:
    """Bytes of a manifest, which end in the hash of those before them: one content has one form."""
    text = json.dumps({"format": FORMAT, "parts": parts}, sort_keys=True)
    return f"{text[:-1]}, {_seal(text)}}}\n".encode()


def _seal(text: str) -> str:
    return f'"sha256": "{hashlib.sha256(text.encode()).hexdigest()}"'


def _read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    try:
        _check_regular(path)
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST)
    except OSError as error:
        if (folder / TENSORS).exists() or (folder / STATE).exists():
            raise IntegrityError("damaged checkpoint", where=str(path), value=error.strerror) from error
        raise InvalidInput(
            "no checkpoint", where=str(folder), expected=f"a folder with {MANIFEST}"
        ) from error
    try:
        manifest: dict[str, Any] = json.loads(content)
        version, parts = manifest["format"], manifest["parts"]
        if isinstance(version, int) and version > FORMAT:
            raise IntegrityError(
                "checkpoint of a newer format",
                where=str(folder),
                value=version,
                expected=f"at most {FORMAT}",
                cure="a newer pyro_dgm",
            )
        if content == _manifest(parts) and parts.keys() == {TENSORS, STATE}:
            return {name: {"bytes": part["bytes"], "sha256": part["sha256"]} for name, part in parts.items()}
    except IntegrityError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # the same fault: these are not the bytes of a manifest
    raise IntegrityError("damaged checkpoint", where=str(path), expected="the bytes that were written")


def _check_regular(path: Path) -> None:
    """Refuses what would block or never end. A link to a file is one: its content has the hash, wherever it is."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise IntegrityError("damaged checkpoint", where=str(path), expected="a regular file")


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


def _check(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        _check_regular(path)
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise IntegrityError(
                "damaged checkpoint",
                where=str(path),
                value=f"{size} bytes",
                expected=f"{expected['bytes']} bytes",
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise IntegrityError("damaged checkpoint", where=str(path), value=error.strerror) from error
    if found != expected["sha256"]:
        raise IntegrityError(
            "damaged checkpoint",
            where=str(path),
            value=f"sha256 {found}",
            expected=f"sha256 {expected['sha256']}",
        )


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
