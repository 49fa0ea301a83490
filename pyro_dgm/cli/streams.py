"""Standard output for results; standard error for log lines, warnings and the one line of an error."""

from __future__ import annotations

import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Lines(logging.Handler):
    """Records as lines ``warning: ...`` on whatever standard error is by then, without tearing a progress bar.

    The text of a record is never cut into several lines; a stream that fails raises, as print would.
    """

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname.lower()}: {in_one_line(record.getMessage())}"
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)


@contextmanager
def messages(*, verbose: bool = False, quiet: bool = False) -> Iterator[None]:
    """Block in which the package's log and all warnings are lines on standard error.

    Args:
        verbose: also what is of interest only to who looks for it.
        quiet: nothing but errors.
    """
    logger = logging.getLogger("pyro_dgm")
    before = logger.level, logger.propagate
    handler = _Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: logger.warning("%s", message)
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def mend_streams() -> None:
    """A stream that was closed before we began swallows its text; one that lacks a letter escapes it."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, io.StringIO())
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_json(value: Any) -> None:
    """Prints one JSON object.

    Args:
        value: plain data.
    """
    print(json.dumps(value, ensure_ascii=True, allow_nan=False), flush=True)


def in_one_line(text: object) -> str:
    r"""Text without line breaks, and no longer than a reader bears.

    Example:
        >>> in_one_line("a\n  b")
        'a b'
    """
    return " ".join(str(text).split())[:1000]
