"""The two files of a checkpoint folder: written whole or not at all, checked when read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError

FORMAT = 1
TENSORS, STATE = "tensors.safetensors", "state.json"


def write(folder: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
    """Writes one checkpoint folder under its final name, or nothing.

    Args:
        folder: its final name.
        tensors: what goes into ``tensors.safetensors``.
        plain: what goes into ``state.json``.

    Raises:
        ResourceError: the disk is full or cannot be written.
    """
    # Clones, because safetensors refuses tensors that share memory (tied weights).
    own = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    temporary, old = (folder.with_name(f".{folder.name}.{kind}") for kind in ("new", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _write_file(temporary / TENSORS, safetensors.torch.save(own))
        _write_file(temporary / STATE, json.dumps({"format": FORMAT, **plain}).encode())
        _flush(temporary)
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)  # a folder with files in it cannot be replaced in one call
        temporary.rename(folder)
        _flush(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise ResourceError(
            "checkpoint not written", where=str(folder), value=error.strerror, cure="a folder with space"
        ) from error


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain data of a checkpoint folder.

    Args:
        folder: a checkpoint.

    Raises:
        InvalidInput: the folder is no checkpoint.
        IntegrityError: a file is damaged or of a newer format.
    """
    plain = read_state(folder)
    try:
        return safetensors.torch.load_file(folder / TENSORS), plain
    except (SafetensorError, OSError) as error:
        raise IntegrityError("damaged file", where=str(folder / TENSORS), value=error) from error


def read_state(folder: Path) -> dict[str, Any]:
    """Plain data of a checkpoint folder; raises as :func:`read`."""
    try:
        plain: dict[str, Any] = json.loads((folder / STATE).read_bytes())
        version = plain["format"]
    except FileNotFoundError as error:
        raise InvalidInput("no checkpoint", where=str(folder), expected=f"{TENSORS} and {STATE}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError("damaged file", where=str(folder / STATE), value=error) from error
    if version != FORMAT:
        raise IntegrityError(
            "unknown checkpoint format",
            where=str(folder),
            value=version,
            expected=str(FORMAT),
            cure="a newer pyro_dgm",
        )
    return plain


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
