"""Calls that change the file system, seen before they are made: to count them, to fail them or to die in them."""

from __future__ import annotations

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

_NAMES = {
    "mkdir": "mkdir",
    "rename": "rename",
    "replace": "rename",
    "truncate": "truncate",
    "fsync": "fsync",
    "unlink": "unlink",
    "remove": "unlink",
    "rmdir": "rmdir",
}
CALLS = ("open", "write", "fsync", "mkdir", "rename", "truncate", "unlink", "rmdir")
# What needs room on a full disk; files and folders can still be removed.
NEED_ROOM = ("open", "write", "fsync", "mkdir", "rename")


class Hook(Protocol):
    def __call__(self, call: str, half: Callable[[], None]) -> None: ...


class Tap:
    """Block in which ``hook(call, half)`` comes before each call that writes below a folder.

    ``call`` is one of :data:`CALLS`; ``half()`` does half of it, which for all but ``write`` is nothing. What the
    hook raises, the call raises. It does not matter through which module the call is made.

    Args:
        folder: where.
        hook: is called.
    """

    def __init__(self, folder: Path, hook: Hook) -> None:
        self._prefix = os.path.abspath(folder)
        self._hook = hook
        self._before: list[tuple[Any, str, Any]] = []

    def __enter__(self) -> Tap:
        for name, call in _NAMES.items():
            self._patch(os, name, self._simple(getattr(os, name), call))
        self._patch(os, "open", self._os_open(os.open))
        opener = self._open(io.open)
        self._patch(io, "open", opener)
        self._patch(builtins, "open", opener)
        return self

    def __exit__(self, *error: object) -> None:
        while self._before:
            setattr(*self._before.pop())

    def _patch(self, module: Any, name: str, value: Any) -> None:
        self._before.append((module, name, getattr(module, name)))
        setattr(module, name, value)

    def _is_below(self, path: Any, dir_fd: int | None = None) -> bool:
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        return os.path.abspath(os.fspath(path)).startswith(self._prefix)

    def _simple(self, original: Any, call: str) -> Any:
        def tapped(path: Any, *args: Any, **kwargs: Any) -> Any:
            if self._is_below(path, kwargs.get("dir_fd")):
                self._hook(call, _nothing)
            return original(path, *args, **kwargs)

        return tapped

    def _os_open(self, original: Any) -> Any:
        def tapped(path: Any, flags: int, *args: Any, **kwargs: Any) -> Any:
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR) and self._is_below(path, kwargs.get("dir_fd")):
                self._hook("open", _nothing)
            return original(path, flags, *args, **kwargs)

        return tapped

    def _open(self, original: Any) -> Any:
        def tapped(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set("wax+") & set(mode) or isinstance(path, int) or not self._is_below(path):
                return original(path, mode, *args, **kwargs)
            self._hook("open", _nothing)
            return _File(original(path, mode, *args, **kwargs), self._hook)

        return tapped


class Disk:
    """Hook for a tap under which calls fail from the n-th on, once or for good."""

    def __init__(self, nth: int, *, number: int = errno.ENOSPC, stays: bool = False) -> None:
        self.nth, self.number, self.stays = nth, number, stays
        self.calls: list[str] = []

    def __call__(self, call: str, half: Callable[[], None]) -> None:
        if call not in NEED_ROOM:
            return
        self.calls.append(call)
        at = len(self.calls) - 1
        if at == self.nth or (self.stays and at > self.nth >= 0):
            half()
            raise OSError(self.number, os.strerror(self.number))


class _File:
    def __init__(self, file: Any, hook: Hook) -> None:
        self._file, self._hook = file, hook

    def write(self, content: Any) -> int:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        self._hook("write", half)
        written: int = self._file.write(content)
        return written

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _nothing() -> None:
    pass
