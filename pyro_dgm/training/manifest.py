"""The manifest of a checkpoint: format, and length and hash of each file, itself sealed by a hash."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pyro_dgm.errors import IntegrityError, InvalidInput

FORMAT = 2
MANIFEST = "manifest.json"
NEWER = "checkpoint of a newer format"
_MAX_MANIFEST = 1 << 12  # bytes; three hashes are a tenth of it


def damaged(where: Path, *, value: object = None, expected: str = "") -> IntegrityError:
    """The error for a checkpoint, or a file of one, that is not what was written.

    Args:
        where: it.
        value: what was found.
        expected: what would have been right.
    """
    return IntegrityError("damaged checkpoint", where=str(where), value=value, expected=expected)


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """Bytes of the manifest of these files.

    Args:
        files: content by name.
    """
    return _sealed(
        {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in files.items()
        }
    )


def check_files(folder: Path, names: Collection[str]) -> None:
    """Checks that the files of a checkpoint are those that were written.

    Args:
        folder: a checkpoint.
        names: the files that it must have, besides the manifest.

    Raises:
        InvalidInput: the folder is no checkpoint.
        IntegrityError: a file is missing, damaged or of a newer format.
    """
    for name, expected in _read_manifest(folder, names).items():
        _check(folder / name, expected)


def _sealed(parts: Mapping[str, Any]) -> bytes:
    """Bytes of a manifest, which end in the hash of those before them: one content has one form."""
    text = json.dumps({"format": FORMAT, "parts": parts}, sort_keys=True)
    return f"{text[:-1]}, {_seal(text)}}}\n".encode()


def _seal(text: str) -> str:
    return f'"sha256": "{hashlib.sha256(text.encode()).hexdigest()}"'


def _read_manifest(folder: Path, names: Collection[str]) -> dict[str, dict[str, Any]]:
    path = folder / MANIFEST
    try:
        _check_regular(path)
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST)
    except OSError as error:
        if any((folder / name).exists() for name in names):
            raise damaged(path, value=error.strerror) from error
        raise InvalidInput(
            "no checkpoint", where=str(folder), expected=f"a folder with {MANIFEST}"
        ) from error
    try:
        manifest: dict[str, Any] = json.loads(content)
        version, parts = manifest["format"], manifest["parts"]
        if isinstance(version, int) and version > FORMAT:
            raise IntegrityError(
                NEWER,
                where=str(folder),
                value=version,
                expected=f"at most {FORMAT}",
                cure="a newer pyro_dgm",
            )
        if content == _sealed(parts) and parts.keys() == set(names):
            return {name: {"bytes": part["bytes"], "sha256": part["sha256"]} for name, part in parts.items()}
    except IntegrityError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # the same fault: these are not the bytes of a manifest
    raise damaged(path, expected="the bytes that were written")


def _check_regular(path: Path) -> None:
    """Refuses what would block or never end. A link to a file is one: its content has the hash, wherever it is."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise damaged(path, expected="a regular file")


def _check(path: Path, expected: Mapping[str, Any]) -> None:
    try:
        _check_regular(path)
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise damaged(path, value=f"{size} bytes", expected=f"{expected['bytes']} bytes")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise damaged(path, value=error.strerror) from error
    if found != expected["sha256"]:
        raise damaged(path, value=f"sha256 {found}", expected=f"sha256 {expected['sha256']}")
