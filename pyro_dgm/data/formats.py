"""File formats read from bytes: the idx arrays of MNIST, and rows of binary digits in text."""

from __future__ import annotations

import struct

import numpy as np

from pyro_dgm.errors import IntegrityError


def read_idx(content: bytes, *, name: str) -> np.ndarray:
    """An array of bytes in idx format: 0, 0, 8 (unsigned byte), the number of axes, their sizes, the values.

    Args:
        content: the whole file, unpacked.
        name: what to call the file in an error.

    Raises:
        IntegrityError: another format, or another number of values than the header states.

    Example:
        >>> read_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]), name="labels")
        array([5, 0, 4], dtype=uint8)

    Reference:
        LeCun, Cortes, Burges: The MNIST database of handwritten digits (1998).
    """
    axes = content[3] if len(content) > 3 else 0
    start = 4 + 4 * axes
    if content[:3] != b"\0\0\x08" or len(content) < start:
        raise IntegrityError(
            "not an idx file of bytes", where=name, value=content[:4].hex(), expected="000008.."
        )
    shape = struct.unpack(f">{axes}I", content[4:start])
    values = np.frombuffer(content, np.uint8, offset=start)
    if values.size != int(np.prod(shape, dtype=np.int64)):
        raise IntegrityError(
            "wrong length", where=name, value=f"{values.size} values", expected=f"shape {shape}"
        )
    return values.reshape(shape)


def read_digits(content: bytes, *, columns: int, name: str, separator: str = " ") -> np.ndarray:
    """Rows of 0 and 1 in text, a separator between two digits and a newline after each row; uint8 (N, columns).

    Args:
        content: the whole file.
        columns: digits in a row.
        name: what to call the file in an error.
        separator: the character between two digits.

    Raises:
        IntegrityError: anything else than that.

    Example:
        >>> read_digits(b"0 1 1" + bytes([10]) + b"1 0 0" + bytes([10]), columns=3, name="rows")
        array([[0, 1, 1],
               [1, 0, 0]], dtype=uint8)

    Reference:
        Larochelle, Murray: The neural autoregressive distribution estimator (2011), the files beside it.
    """
    text = np.frombuffer(content, np.uint8)
    if text.size == 0 or text.size % (2 * columns):
        raise IntegrityError(
            "wrong length", where=name, value=f"{text.size} bytes", expected=f"{2 * columns} a row"
        )
    rows = text.reshape(-1, 2 * columns)
    digits = rows[:, ::2] - np.uint8(ord("0"))  # a byte below "0" wraps round to a large number
    gaps = rows[:, 1::2]
    if digits.max() > 1 or (gaps[:, :-1] != ord(separator)).any() or (gaps[:, -1] != ord("\n")).any():
        raise IntegrityError("not rows of 0 and 1", where=name, expected=f"digits parted by {separator!r}")
    return digits
