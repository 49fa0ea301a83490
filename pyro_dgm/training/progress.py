"""Progress of a run on standard error: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Any, Protocol

from tqdm import tqdm


class Progress(Protocol):
    """What the loop tells: each step's loss, with the bound where the objective tells it, and each validation."""

    def step(self, count: int, loss: float, *, elbo: float | None = None) -> None: ...

    def validated(self, val_loss: float) -> None: ...

    def close(self) -> None: ...


class Silent:
    """No progress."""

    def step(self, count: int, loss: float, *, elbo: float | None = None) -> None: ...

    def validated(self, val_loss: float) -> None: ...

    def close(self) -> None: ...


class Bar:
    """One bar for the whole run, redrawn at most ten times a second.

    Args:
        total: number of steps.
        initial: number of those that an earlier process did.
    """

    def __init__(self, total: int, *, initial: int) -> None:
        self._bar: Any = tqdm(
            total=total, initial=initial, desc="fit", unit="step", file=_Quiet(), dynamic_ncols=True
        )
        self._next = 0.0
        self._texts: dict[str, str] = {}
        self._count = initial

    def step(self, count: int, loss: float, *, elbo: float | None = None) -> None:
        self._count = count
        now = time.monotonic()
        if now >= self._next:  # formatting costs more than a small model's step
            self._next = now + 0.1
            self._texts.update(_texts(loss, elbo))
            self._draw()

    def validated(self, val_loss: float) -> None:
        self._texts["val_loss"] = f"{val_loss:.4g}"

    def close(self) -> None:
        self._draw()
        self._bar.close()

    def _draw(self) -> None:
        self._bar.set_postfix(self._texts, refresh=False)
        self._bar.update(self._count - self._bar.n)


class Lines:
    """A line each time another tenth of the steps is done, for logs.

    Args:
        total: number of steps.
        initial: number of those that an earlier process did.
    """

    def __init__(self, total: int, *, initial: int) -> None:
        self._total = total
        self._next = initial * 10 // total + 1
        self._val = ""

    def step(self, count: int, loss: float, *, elbo: float | None = None) -> None:
        if count * 10 >= self._next * self._total:
            self._next = count * 10 // self._total + 1
            share = 100 * count // self._total
            texts = " ".join(f"{name} {text}" for name, text in _texts(loss, elbo).items())
            _Quiet().write(f"fit: {share:3d}% step {count}/{self._total} {texts}{self._val}\n")

    def validated(self, val_loss: float) -> None:
        self._val = f" val_loss {val_loss:.4g}"

    def close(self) -> None: ...


def _texts(loss: float, elbo: float | None) -> dict[str, str]:
    """The loss, and the bound where that is another number."""
    texts = {"loss": f"{loss:.4g}"}
    if elbo is not None and abs(loss + elbo) > 1e-6 * abs(loss):
        texts["elbo"] = f"{elbo:.4g}"
    return texts


class _Quiet:
    """Standard error, whose reader or terminal may go while training goes on."""

    encoding = property(lambda self: sys.stderr.encoding)

    def fileno(self) -> int:
        return sys.stderr.fileno()

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # gone, or closed
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


def make_progress(total: int, *, initial: int, show: bool) -> Progress:
    """A bar on a terminal, lines elsewhere, nothing when it is not to be shown.

    Args:
        total: number of steps.
        initial: number of those that an earlier process did.
        show: whether to show anything.
    """
    if not show or sys.stderr is None:  # a process may be started without one
        return Silent()
    return Bar(total, initial=initial) if sys.stderr.isatty() else Lines(total, initial=initial)
