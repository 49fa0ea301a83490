"""Audio as a program sees it: windows of samples on a grid in [0, 1], and how they are made sound again."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from pyro_dgm.data.mu_law import mu_law_decode, mu_law_encode
from pyro_dgm.data.preprocessing import Preparation
from pyro_dgm.data.splits import Dataset
from pyro_dgm.errors import InvalidInput

Encoding = Literal["mu_law", "linear16"]
FULL_SCALE = 2**15  # 16-bit samples are s = -FULL_SCALE..FULL_SCALE - 1


@dataclass(frozen=True)
class WaveFormat:
    """What the numbers of an audio data set stand for.

    Args:
        encoding: "mu_law" for x = k/255 with the 256 levels of :func:`mu_law_encode`, or "linear16" for
            x = (s + 32768)/65535, every 16-bit sample s a level of its own.
        sample_rate: samples in a second.

    Raises:
        InvalidInput: an unknown encoding, or a rate below 1.

    Example:
        >>> linear = WaveFormat("linear16", 8000)
        >>> linear.decode(linear.encode(torch.tensor([-32768, -1, 0, 32767], dtype=torch.int16)))
        tensor([-32768, -1, 0, 32767], dtype=torch.int16)
    """

    encoding: Encoding
    sample_rate: int

    def __post_init__(self) -> None:
        if self.encoding not in get_args(Encoding):
            choices = " or ".join(get_args(Encoding))
            raise InvalidInput("unknown choice", where="encoding", value=self.encoding, expected=choices)
        if self.sample_rate < 1:
            raise InvalidInput(
                "bad setting",
                where="sample_rate",
                value=self.sample_rate,
                expected="a number >= 1",
                cure="8000",
            )

    @property
    def levels(self) -> int:
        """The number of levels: 256 or 65536."""
        return 256 if self.encoding == "mu_law" else 2 * FULL_SCALE

    def encode(self, samples: Tensor) -> Tensor:
        """Float32 numbers on the grid k / (levels - 1).

        Args:
            samples: 16-bit samples, of any shape.
        """
        s = samples.double()
        x = (
            mu_law_encode(s / FULL_SCALE)
            if self.encoding == "mu_law"
            else (s + FULL_SCALE) / (self.levels - 1)
        )
        return x.float()

    def decode(self, x: Tensor) -> Tensor:
        """The 16-bit samples that come nearest; what lies outside [0, 1] is clipped, as a loudspeaker would.

        Args:
            x: numbers as of :meth:`encode`, of any shape.
        """
        x = x.double().clamp(0, 1)
        s = FULL_SCALE * mu_law_decode(x) if self.encoding == "mu_law" else x * (self.levels - 1) - FULL_SCALE
        return s.round().clamp(-FULL_SCALE, FULL_SCALE - 1).to(torch.int16)


class AudioDataset(Dataset):
    """Windows of equal length, each a datum of shape (length,); abstract.

    ``bits_per_dim`` is then bits for each sample of the encoded signal. Those of "mu_law" and "linear16" cannot be
    compared, since mu-law levels say less.

    Args:
        name: the data set's name.
        parts: 16-bit samples of train, val and test, each (N, length).
        labels: y of the parts, each (N,); None for data without.
        wave_format: of the data.
        num_classes: the number of classes of `labels`.
        index: whether batches carry the number of each window in its part.
        source: where the audio is from, for the ledger.
        rule: what made the parts, for the ledger.
        settings: what else decides the data, for the ledger.

    Attributes:
        wave_format: what the numbers stand for.
    """

    @abstractmethod
    def __init__(
        self,
        name: str,
        parts: Sequence[Tensor],
        labels: Sequence[Tensor] | None,
        *,
        wave_format: WaveFormat,
        num_classes: int,
        index: bool,
        source: str,
        rule: str,
        settings: Mapping[str, Any],
    ) -> None:
        preparation = Preparation(wave_format.levels)
        xs = [wave_format.encode(samples) for samples in parts]
        super().__init__(
            name,
            preparation.splits(xs, labels, index=index),
            preprocessing={
                **preparation.describe(xs, source=source, rule=rule),
                "encoding": wave_format.encoding,
                "sample_rate": wave_format.sample_rate,
                "length": xs[0].shape[1],
                **settings,
            },
            levels=wave_format.levels,
            num_classes=num_classes,
        )
        self.wave_format = wave_format

    @classmethod
    @abstractmethod
    def wave_format_of(cls, arguments: Mapping[str, Any]) -> WaveFormat:
        """The format of the data set that these arguments of the constructor would make, without making it.

        Args:
            arguments: every argument by its name, as the config of a run holds them.
        """


def require_length(length: int) -> None:
    """An error for windows that would hold no two samples.

    Raises:
        InvalidInput: a length below 2.
    """
    if length < 2:
        raise InvalidInput("bad setting", where="length", value=length, expected="a number >= 2", cure="1024")
