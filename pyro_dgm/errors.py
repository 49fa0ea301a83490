"""The faults that a user can mend, each said in one line and each with its exit code."""

from __future__ import annotations


class Fault(Exception):
    """Something a person can mend, in one line: what, where, the value, what was expected, what to try.

    Args:
        what: what is wrong, in a few words.
        where: the argument, file, key or site it is wrong in.
        value: the value that was found.
        expected: what would have been right.
        cure: what to do about it.

    Example:
        >>> print(InvalidInput("bad value", where="num_particles", value=0, expected="an integer >= 1", cure="1"))
        bad value in num_particles: 0; expected an integer >= 1; try 1
    """

    exit_code = 1

    def __init__(
        self, what: str, *, where: str = "", value: object = None, expected: str = "", cure: str = ""
    ) -> None:
        self.what, self.where, self.value, self.expected, self.cure = what, where, value, expected, cure
        message = what
        message += f" in {where}" if where else ""
        message += f": {value}" if value is not None else ""
        message += f"; expected {expected}" if expected else ""
        message += f"; try {cure}" if cure else ""
        super().__init__(" ".join(message.split()))


class InvalidInput(Fault, ValueError):
    """A wrong argument, config or data set (exit code 2)."""

    exit_code = 2


class IncompatibleModel(Fault, TypeError):
    """A model for which the quantity that was asked has no meaning (exit code 2)."""

    exit_code = 2


class IntegrityError(Fault, ValueError):
    """A checkpoint, download or stream that is not what was written (exit code 3)."""

    exit_code = 3


class NonFiniteError(Fault, ArithmeticError):
    """A loss or gradient that became NaN or infinite (exit code 4)."""

    exit_code = 4


class ResourceError(Fault, RuntimeError):
    """Disk, memory, lock or device that is not to be had (exit code 5)."""

    exit_code = 5


class Interrupted(KeyboardInterrupt):
    """Training that a signal ended, after its step was finished and saved (exit code 128 + the signal).

    A ``KeyboardInterrupt``, so that a notebook and ``except Exception`` treat it as one.

    Args:
        text: what was saved where, in one line.
        signal: number of the signal.
    """

    def __init__(self, text: str, *, signal: int) -> None:
        super().__init__(text)
        self.signal = signal
        self.exit_code = 128 + signal
