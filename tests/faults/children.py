"""Forked processes that train, tell through shared memory where they are, and die at a chosen call."""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_dgm.errors import Fault, Interrupted
from pyro_dgm.training.run_folder import RunFolder
from tests.faults.filesystem import CALLS, Tap

ZONES = ("elsewhere", "save", "row", "start")
_METHODS = {"save": "save", "add": "row", "__enter__": "start", "rewind": "start"}
_FIELDS = ("zone", "begun", "saves", "last", "one_before", "call", "half")


class Marks:
    """Whole numbers that a child leaves and its parent reads, also after the child was killed.

    ``zone`` is an index of :data:`ZONES`; ``begun`` counts the calls of the objective; ``saves`` counts finished
    saves, and ``last`` and ``one_before`` are the steps of two of them; ``call`` is the index in ``CALLS`` of the
    call that the child died in, and ``half`` whether half of it was done.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8 * len(_FIELDS))

    def __getitem__(self, name: str) -> int:
        number: int = struct.unpack_from("q", self._memory, 8 * _FIELDS.index(name))[0]
        return number

    def __setitem__(self, name: str, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * _FIELDS.index(name), value)


@dataclass(frozen=True)
class Trap:
    """Where a child kills itself: at the ``call``-th file-system call in a zone, counted from its n-th visit.

    Args:
        zone: one of :data:`ZONES`.
        visit: number of the visit, from 0.
        call: number of the call, from 0.
        half: whether it does half of that call first, if that can be done.
    """

    zone: str
    visit: int
    call: int
    half: bool


def mark(marks: Marks, folder: Path, trap: Trap | None) -> None:
    """Makes this process mark where it is and, with a trap, die there. For a child: nothing is ever undone."""
    visits = dict.fromkeys(ZONES, 0)
    left = -1 if trap is None else trap.call

    def in_zone(zone: str, original: Any) -> Any:
        def method(self: RunFolder, *args: Any, **kwargs: Any) -> Any:
            visits[zone] += 1
            marks["zone"] = ZONES.index(zone)
            result = original(self, *args, **kwargs)
            marks["zone"] = 0
            if zone == "save":
                marks["one_before"], marks["last"] = marks["last"], kwargs["step"]
                marks["saves"] += 1
            return result

        return method

    def hook(call: str, half: Callable[[], None]) -> None:
        nonlocal left
        if trap is None or ZONES[marks["zone"]] != trap.zone or visits[trap.zone] <= trap.visit:
            return
        if left == 0:
            marks["call"], marks["half"] = CALLS.index(call), int(trap.half and call == "write")
            if trap.half:
                half()
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    for name, zone in _METHODS.items():
        setattr(RunFolder, name, in_zone(zone, getattr(RunFolder, name)))
    Tap(folder, hook).__enter__()


def fork(work: Callable[[], Any], *, result: Path) -> int:
    """Runs a function in a child; returns the child's process id.

    The child ends with 0 and writes what the function returned as JSON; or with the exit code of a fault or an
    interruption, or with 1 after any other error, and writes the traceback.

    Args:
        work: the function.
        result: file for what it returned; errors go to the same name with ``.log``.
    """
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        log = os.open(result.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        value = work()
        result.write_text(json.dumps(value))
        code = 0
    except Interrupted as interruption:
        os.write(2, str(interruption).encode())
        code = interruption.exit_code
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        os.write(2, traceback.format_exc().encode())
        if isinstance(error, Fault):
            code = error.exit_code
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """Exit code of a child, or minus the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
