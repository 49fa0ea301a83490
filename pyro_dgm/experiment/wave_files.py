"""The audio of a run: what its numbers stand for, found without its data, and samples as something to hear."""

from __future__ import annotations

import inspect
import wave
from pathlib import Path

import torch
from torch import Tensor

from pyro_dgm import data
from pyro_dgm.atomic import replacing
from pyro_dgm.data.audio import FULL_SCALE, AudioDataset, WaveFormat
from pyro_dgm.diagnostics.waveforms import waveforms
from pyro_dgm.experiment.config import Config

_SILENCE = 0.25  # seconds after each sample


def wave_format_of_run(config: Config) -> WaveFormat | None:
    """The format of the audio that a run was trained on; None where its data are no audio of this package.

    The class of the data tells it from the arguments in the config: the recordings may be elsewhere, and a run that
    was never evaluated has no ledger. Nothing is imported for it, so that a user's own class is not known.

    Args:
        config: of a run, every value filled in.
    """
    package, _, name = config["data"]["class_path"].rpartition(".")
    found = getattr(data, name, None) if package.startswith(data.__name__) else None
    if not (inspect.isclass(found) and issubclass(found, AudioDataset)):
        return None
    return found.wave_format_of(config["data"]["init_args"])


def draw_waves(columns: dict[str, Tensor], path: Path, *, wave_format: WaveFormat) -> None:
    """A picture of waveforms.

    Args:
        columns: audio as of the data, (N, T), by what it is.
        path: the file to write.
        wave_format: of the audio.
    """
    amplitudes = {name: wave_format.decode(x).double() / FULL_SCALE for name, x in columns.items()}
    waveforms(amplitudes, path, sample_rate=wave_format.sample_rate)


def save_wave(samples: Tensor, path: Path, *, wave_format: WaveFormat) -> None:
    """Writes one wav file, 16 bits and one channel: the samples one after the other, a quarter second between them.

    Args:
        samples: audio as of the data, (N, T).
        path: the file to write.
        wave_format: of the audio.
    """
    silence = torch.zeros(len(samples), round(_SILENCE * wave_format.sample_rate), dtype=torch.int16)
    pcm = torch.cat([wave_format.decode(samples), silence], dim=1)
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(wave_format.sample_rate)
        file.writeframes(pcm.numpy().astype("<i2").tobytes())
