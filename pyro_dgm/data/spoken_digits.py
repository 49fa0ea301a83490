"""Recordings of spoken digits, cut into windows of equal length."""

from __future__ import annotations

import hashlib
import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pyro_dgm.data.audio import AudioDataset, Encoding, WaveFormat, require_length
from pyro_dgm.data.download import FOLDER_VARIABLE
from pyro_dgm.data.preprocessing import frozen_permutation
from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError

SpokenLabel = Literal["digit", "speaker"]
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
SAMPLE_RATE = 8000
_TAKES = range(50)  # recordings of each digit by each speaker
_TEST, _VAL, _TRAIN = range(5), range(5, 8), range(8, 50)
_URL = "https://github.com/Jakobovski/free-spoken-digit-dataset"
_FOLDERS = ("fsdd/recordings", "free-spoken-digit-dataset/recordings")
# Of all samples, 16 bits each with the low byte first, the recordings by speaker, digit and number.
_SHA256 = "4e0317650d9c876eeda8788b4d4132af747e323d495a3da12c9bce9bc456a45f"


class SpokenDigits(AudioDataset):
    """The digits 0 to 9 spoken by six people, 3,000 recordings of 8 kHz and 16 bits: 22 minutes.

    Split: recordings 0..4 of each digit by each speaker test, as published; 5..7 validate and 8..49 train.

    Each recording is cut into windows of `length` samples, one after the other from its beginning. Windows never
    overlap or cross from one recording into the next; what is left at the end, shorter than a window, is dropped: a
    seventh of the audio for 1024 samples, the greatest power of two at which the shortest recording still has a
    window. A part's windows lie in an order drawn once.

    Bits per sample (``bits_per_dim``) are those of windows of which each is coded by itself. Whoever compares must
    compare on the same windows in the same encoding: the dropped ends are quieter than the rest, and a coder that
    goes on from one window to the next has seen more.

    The recordings are not downloaded: clone their repository into the folder that `PYRO_DGM_DATA` names.

    Args:
        length: samples of a window; 1024 are 0.128 seconds.
        encoding: "mu_law" (256 levels, x = k/255) or "linear16" (the 65536 levels as they are, x = k/65535).
        label: what y is, "digit" (0..9) or "speaker" (0..5, by the alphabet).
        labels: whether batches carry y.
        index: whether batches carry the number of each window in its part.

    Attributes:
        wave_format: what the numbers stand for.

    Raises:
        InvalidInput: an unknown encoding or label, a length below 2 or so great that a part has no window, or
            `PYRO_DGM_DATA` names no folder.
        IntegrityError: the recordings are not the published ones.
        ResourceError: there are no recordings, or not all.

    Example:
        >>> data = SpokenDigits()  # doctest: +SKIP
        >>> data.data_shape, len(data.train), len(data.val), len(data.test)  # doctest: +SKIP
        ((1024,), 7375, 529, 860)

    Reference:
        Jackson, Souza, Flaks, Pan, Nicolas, Thite: Free spoken digit dataset (2018).
    """

    def __init__(
        self,
        length: int = 1024,
        *,
        encoding: Encoding = "mu_law",
        label: SpokenLabel = "digit",
        labels: bool = False,
        index: bool = False,
    ) -> None:
        wave_format = WaveFormat(encoding, SAMPLE_RATE)
        require_length(length)
        if label not in get_args(SpokenLabel):
            choices = " or ".join(get_args(SpokenLabel))
            raise InvalidInput("unknown choice", where="label", value=label, expected=choices)
        windows: dict[range, list[Tensor]] = {_TRAIN: [], _VAL: [], _TEST: []}
        tags: dict[range, list[Tensor]] = {part: [] for part in windows}
        for (speaker, digit, take), samples in _recordings().items():
            part = next(part for part in windows if take in part)
            windows[part].append(_cut(samples, length))
            y = digit if label == "digit" else speaker
            tags[part].append(torch.full((len(windows[part][-1]),), y))
        parts = [torch.cat(cut) for cut in windows.values()]
        if min(map(len, parts)) == 0:
            raise InvalidInput(
                "no window", where="length", value=length, expected="shorter than the recordings", cure="1024"
            )
        orders = [frozen_permutation(len(part), seed=0) for part in parts]
        ys = [torch.cat(tag)[order] for tag, order in zip(tags.values(), orders, strict=True)]
        super().__init__(
            "SpokenDigits",
            [part[order] for part, order in zip(parts, orders, strict=True)],
            ys if labels else None,
            wave_format=wave_format,
            num_classes=10 if label == "digit" else len(SPEAKERS),
            index=index,
            source=f"{_URL}, sha256 of all samples {_SHA256[:16]}",
            rule="recordings 0..4 test, 5..7 validate, 8..49 train; windows in order of words of PCG64 seeded 0",
            settings={"label": label if labels else None, "rest": "dropped"},
        )

    @classmethod
    def wave_format_of(cls, arguments: Mapping[str, Any]) -> WaveFormat:
        return WaveFormat(arguments["encoding"], SAMPLE_RATE)


def _cut(samples: np.ndarray, length: int) -> Tensor:
    """Windows (N, length) of one recording; the rest is dropped."""
    count = len(samples) // length
    return torch.from_numpy(samples[: count * length].reshape(count, length))


def _recordings() -> dict[tuple[int, int, int], np.ndarray]:
    """16-bit samples by speaker, digit and number, whose sha256 has been checked."""
    folder = _folder()
    found, sha256 = {}, hashlib.sha256()
    for speaker, name in enumerate(SPEAKERS):
        for digit in range(10):
            for take in _TAKES:
                samples = _read(folder / f"{digit}_{name}_{take}.wav")
                sha256.update(samples.tobytes())
                found[speaker, digit, take] = samples.astype(np.int16)
    if sha256.hexdigest() != _SHA256:
        raise IntegrityError(
            "not the published recordings",
            where=str(folder),
            value=f"sha256 {sha256.hexdigest()} of all samples",
            expected=f"sha256 {_SHA256}",
            cure=f"cloning {_URL} again",
        )
    return found


def _folder() -> Path:
    root = os.environ.get(FOLDER_VARIABLE)
    if root and not Path(root).is_dir():
        raise InvalidInput(
            "no such folder", where=FOLDER_VARIABLE, value=root, expected="a folder of originals"
        )
    for folder in _FOLDERS:
        if root and Path(root, folder).is_dir():
            return Path(root, folder)
    raise ResourceError(
        "no recordings",
        where=FOLDER_VARIABLE,
        value=root or "not set",
        expected=f"a folder that holds {' or '.join(_FOLDERS)}",
        cure=f"git clone {_URL} in FOLDER, and {FOLDER_VARIABLE}=FOLDER",
    )


def _read(path: Path) -> np.ndarray:
    """16-bit samples of a wav file of one channel, the low byte first."""
    try:
        with path.open("rb") as stream, wave.open(stream) as file:
            kind = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            size = file.getnframes() * file.getnchannels() * file.getsampwidth()
            content = file.readframes(file.getnframes())
    except FileNotFoundError as problem:
        raise ResourceError(
            "a recording is missing", where=str(path), expected="all 3,000", cure=f"cloning {_URL} again"
        ) from problem
    except OSError as problem:
        raise ResourceError("cannot be read", where=str(path), value=problem.strerror) from problem
    except (wave.Error, EOFError) as problem:
        value = str(problem) or "it ends within its header"  # EOFError says nothing
        value = value if path.stat().st_size else "an empty file"
        raise _damaged(path, value) from problem
    if kind != (1, 2, SAMPLE_RATE):
        raise IntegrityError(
            "not a published recording",
            where=str(path),
            value=f"{kind[0]} channel{'s' * (kind[0] != 1)}, {8 * kind[1]} bits, {kind[2]} Hz",
            expected=f"1 channel, 16 bits, {SAMPLE_RATE} Hz",
        )
    if len(content) != size:
        raise _damaged(path, f"it ends after {len(content)} of {size} bytes of samples")
    return np.frombuffer(content, dtype="<i2")


def _damaged(path: Path, value: str) -> IntegrityError:
    return IntegrityError("damaged recording", where=str(path), value=value, cure=f"cloning {_URL} again")
