"""Signals during training: the step is finished and saved before the process leaves."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Block in which the first SIGINT or SIGTERM is noted rather than obeyed.

    With it its handler from before comes back, so that a second signal of its kind is obeyed at once. (Not one of the
    other kind: ``torchrun`` sends SIGTERM after a SIGINT that all processes have already got.) Outside the main
    thread, where Python installs no handlers, and for a signal that the process ignores, nothing is changed.

    Example:
        >>> import os, signal
        >>> with Interruption() as interruption:
        ...     os.kill(os.getpid(), signal.SIGINT)
        ...     interruption.signal
        2
    """

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if before is not None and before is not signal.SIG_IGN:  # None: not set from Python
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = self.signal or number
        signal.signal(number, self._before[number])
