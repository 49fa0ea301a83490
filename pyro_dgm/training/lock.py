"""One run directory, one process."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from pyro_dgm.errors import ResourceError

LOCK, OWNER = ".lock", ".owner.json"


class FolderLock:
    """Block in which no other process holds the same folder.

    The operating system lets go of the lock when the process ends, however it ends. Within one process blocks may
    nest.

    Args:
        folder: an existing folder.

    Raises:
        ResourceError: on entering; another process holds it, or the folder cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as name, FolderLock(pathlib.Path(name)):
        ...     sorted(path.name for path in pathlib.Path(name).iterdir())
        ['.lock', '.owner.json']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One object a path in a process, which counts how often it was entered; seen from every thread.
        self._lock = FileLock(folder.resolve() / LOCK, is_singleton=True, thread_local=False)

    def __enter__(self) -> FolderLock:
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise ResourceError(
                "run in use",
                where=str(self.folder),
                value=self._owner(),
                expected="one process a run",
                cure="another folder, or to wait for it",
            ) from None
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        try:
            if self._lock.lock_counter == 1:
                # Not by way of a temporary file, which a kill would leave: a torn note only names nobody.
                owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
                (self.folder / OWNER).write_text(json.dumps(owner) + "\n", encoding="utf-8")
        except OSError as error:
            self.__exit__()
            raise _unwritable(self.folder, error) from error
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock.lock_counter == 1:
            with contextlib.suppress(OSError):  # the folder may have gone
                (self.folder / OWNER).unlink()
        self._lock.release()

    def _owner(self) -> str:
        try:
            owner = json.loads((self.folder / OWNER).read_text(encoding="utf-8"))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(owner["since"]))
            return f"process {owner['pid']} on {owner['host']} since {since}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"


def _unwritable(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        "folder that cannot be written",
        where="out",
        value=f"{folder} ({error.strerror})",
        cure="another folder",
    )
