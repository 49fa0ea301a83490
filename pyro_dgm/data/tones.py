"""Synthetic tones, whose structure a small model of audio can learn in minutes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pyro_dgm.data.audio import FULL_SCALE, AudioDataset, Encoding, WaveFormat, require_length
from pyro_dgm.data.preprocessing import PARTS
from pyro_dgm.data.toys import Sizes
from pyro_dgm.errors import InvalidInput

SIZES: Sizes = (4_000, 500, 1_000)
LOWEST = 220.0  # Hz, the note A3: y = 0
HARMONICS = 4
LOUDEST = 0.8  # of full scale


class Tones(AudioDataset):
    r"""Notes of one octave, plucked or blown, with a little noise; y is the note.

    .. math:: s(t) = 0.8 \, (1 - e^{-t/a}) e^{-t/d} \sum_{h=1}^4 w_h \cos(2 \pi h f t + \phi_h) + \epsilon, \qquad
              f = 220 \cdot 2^{y / C} \mathrm{Hz}

    The note y is uniform on the C notes of an octave. Attack a (1 to 10 ms), decay d (20 to 200 ms), weights w (uniform
    times 1/h, of sum 1) and phases are drawn for each tone, which starts at t = 0; the noise is Gaussian. Given all of
    these, only the noise is left to be said, which takes 2.0 bits a sample by default: no model needs fewer. The parts
    are drawn apart.

    Args:
        sizes: how many tones to draw for train, val and test.
        length: samples of a tone.
        sample_rate: samples in a second, at least 4000: the highest harmonic has 1760 Hz.
        encoding: "mu_law" (256 levels) or "linear16" (65536 levels), on the grid k / (levels - 1).
        noise: the standard deviation of the noise, of full scale.
        num_classes: C, the number of notes.
        seed: the same tones for the same seed, with the same version of NumPy.
        labels: whether batches carry y.
        index: whether batches carry the number of each tone in its part.

    Attributes:
        wave_format: what the numbers stand for.

    Raises:
        InvalidInput: a size, number of notes or length that is too small, a rate below 4000, another encoding, or a
            negative noise or seed.

    Example:
        >>> data = Tones((8, 4, 4), length=64, labels=True)
        >>> data.data_shape, data.levels, data.num_classes, data.train.fields
        ((64,), 256, 12, ('x', 'y'))
        >>> data.bits_per_dim(64 * math.log(256))  # as if all levels were as likely
        8.0
    """

    def __init__(
        self,
        sizes: Sizes = SIZES,
        *,
        length: int = 256,
        sample_rate: int = 8000,
        encoding: Encoding = "mu_law",
        noise: float = 0.005,
        num_classes: int = 12,
        seed: int = 0,
        labels: bool = False,
        index: bool = False,
    ) -> None:
        wave_format = WaveFormat(encoding, sample_rate)
        require_length(length)
        if len(sizes) != 3 or min(sizes) < 1:
            raise InvalidInput(
                "bad sizes", where="sizes", value=sizes, expected="three numbers >= 1", cure=f"{SIZES}"
            )
        least = {
            "sample_rate": (sample_rate, 4000),
            "noise": (noise, 0),
            "num_classes": (num_classes, 1),
            "seed": (seed, 0),
        }
        for where, (value, bound) in least.items():
            if not (math.isfinite(value) and value >= bound):
                raise InvalidInput("bad setting", where=where, value=value, expected=f"a number >= {bound}")
        seconds = np.arange(length) / sample_rate
        drawn = []
        for part, size in enumerate(sizes):
            rng = np.random.default_rng([seed, part])
            y = rng.integers(num_classes, size=size)
            s = _tones(LOWEST * 2 ** (y / num_classes), seconds, rng)
            s += noise * rng.standard_normal(s.shape)
            pcm = np.clip(np.round(s * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
            drawn.append((torch.from_numpy(pcm), torch.from_numpy(y)))
        super().__init__(
            "Tones",
            [samples for samples, _ in drawn],
            [notes for _, notes in drawn] if labels else None,
            wave_format=wave_format,
            num_classes=num_classes,
            index=index,
            source="drawn by Tones",
            rule=f"each part drawn by default_rng([seed, part]), part = 0 for {PARTS[0]}, 1, 2",
            settings={"noise": noise, "notes": num_classes, "seed": seed},
        )

    @classmethod
    def wave_format_of(cls, arguments: Mapping[str, Any]) -> WaveFormat:
        return WaveFormat(arguments["encoding"], arguments["sample_rate"])


def _tones(fundamental: np.ndarray, seconds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tones without noise, (N, T), for fundamentals (N,) in Hz and times (T,)."""
    count = len(fundamental)
    attack = rng.uniform(0.001, 0.01, size=(count, 1))
    decay = rng.uniform(0.02, 0.2, size=(count, 1))
    weight = rng.uniform(size=(count, HARMONICS)) / np.arange(1, HARMONICS + 1)
    weight /= weight.sum(axis=1, keepdims=True)
    phase = rng.uniform(0, 2 * np.pi, size=(count, HARMONICS))
    total = np.zeros((count, len(seconds)))
    for h in range(HARMONICS):  # one at a time, for the memory
        angle = 2 * np.pi * (h + 1) * fundamental[:, None] * seconds + phase[:, h, None]
        total += weight[:, h, None] * np.cos(angle)
    return LOUDEST * -np.expm1(-seconds / attack) * np.exp(-seconds / decay) * total
