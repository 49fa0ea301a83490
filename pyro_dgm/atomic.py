"""Files that are never there in part."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Temporary path beside ``path``, which takes its place once the block has written it without an error.

    The file is synced before it is renamed, so that a power cut leaves the old file or the new one, whole.

    Args:
        path: the file to write; its folder must exist.

    Raises:
        OSError: the disk is full or the folder cannot be written; the old file is then as it was.

    Example:
        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = pathlib.Path(folder.name) / "numbers.txt"
        >>> with replacing(file) as temporary:
        ...     _ = temporary.write_text("1 2 3")
        >>> file.read_text(), len(list(file.parent.iterdir()))
        ('1 2 3', 1)
        >>> folder.cleanup()
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".partial-", suffix=path.suffix)
        os.close(handle)
        try:
            os.chmod(name, 0o666 & ~_umask())  # mkstemp lets nobody else read
            yield Path(name)
            _sync(name, os.O_RDWR)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        error.filename, error.filename2 = str(path), None  # no temporary one; of a full disk it names none
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: str | Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
