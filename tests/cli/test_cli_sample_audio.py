"""Sound from a run of audio: a wav file that holds the draws, found without the data; refused for anything else."""

from __future__ import annotations

import sys
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread

from pyro_dgm.cli import main
from pyro_dgm.data import Tones, WaveFormat
from pyro_dgm.diagnostics.waveforms import waveforms
from pyro_dgm.errors import InvalidInput
from pyro_dgm.experiment import run_pictures, wave_files
from pyro_dgm.experiment.estimate import FUNCTIONS
from pyro_dgm.experiment.run import load_run

Fault = Callable[..., tuple[int, str]]
CONFIG = """
program:
  class_path: pyro_dgm.models.FVSBN
  init_args: {observation: {class_path: OBSERVATION, init_args: {data_shape: [16], levels: LEVELS}}}
objective: {class_path: pyro_dgm.objectives.ELBO}
data:
  class_path: pyro_dgm.data.Tones
  init_args: {sizes: [32, 8, 8], length: 16, encoding: ENCODING, sample_rate: 4000}
optimizer: {class_path: torch.optim.Adam, init_args: {lr: 1e-3}}
training: {steps: 2, batch_size: 16}
evaluation: {num_particles: 1}
"""
OBSERVATIONS = {
    "mu_law": ("CategoricalObservation", "256"),
    "linear16": ("DiscretizedLogisticMixtureObservation", "65536"),
}


@pytest.fixture(scope="module", params=OBSERVATIONS)
def audio_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    observation, levels = OBSERVATIONS[request.param]
    text = CONFIG.replace("OBSERVATION", f"pyro_dgm.distributions.{observation}")
    folder = tmp_path_factory.mktemp("audio")
    (folder / "tones.yaml").write_text(text.replace("LEVELS", levels).replace("ENCODING", request.param))
    assert main(["train", str(folder / "tones.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def heard(path: Path) -> tuple[int, np.ndarray]:
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2")


def test_a_wav_file_holds_the_draws_with_silence_between_them(audio_run: Path, tmp_path: Path) -> None:
    for suffix in ("wav", "npy"):
        assert main(["sample", str(audio_run), "--num", "3", "--out", str(tmp_path / f"x.{suffix}")]) == 0
    draws = torch.from_numpy(np.load(tmp_path / "x.npy"))
    rate, pcm = heard(tmp_path / "x.wav")
    encoding = yaml.safe_load((audio_run / "config.yaml").read_text())["data"]["init_args"]["encoding"]
    assert rate == 4000 and draws.shape == (3, 16)
    rows = pcm.reshape(3, 16 + 1000)
    assert np.array_equal(rows[:, :16], WaveFormat(encoding, 4000).decode(draws)) and not rows[:, 16:].any()
    assert rows[:, :16].any()


def test_sound_needs_neither_the_data_nor_a_ledger(
    audio_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Tones, sizes: object, **others: object) -> None:
        raise AssertionError("the data were made")

    monkeypatch.setattr(Tones, "__init__", refuse)
    (audio_run / "evaluation.json").rename(tmp_path / "evaluation.json")
    assert main(["sample", str(audio_run), "--num", "1", "--out", str(tmp_path / "new" / "x.wav")]) == 0
    (tmp_path / "evaluation.json").rename(audio_run / "evaluation.json")
    assert len(heard(tmp_path / "new" / "x.wav")[1]) == 16 + 1000


def test_the_same_seed_is_the_same_sound_and_nothing_is_replaced_unasked(
    audio_run: Path, tmp_path: Path, fault: Fault
) -> None:
    one, other, path = ("--seed", "1"), ("--seed", "2"), tmp_path / "x.wav"
    call = ["sample", str(audio_run), "--num", "1", "--out", str(path)]
    assert main([*call, *one]) == 0
    first = heard(path)[1]
    code, line = fault(*call, *other)
    assert code == 2 and "output exists in --out" in line
    assert main([*call, *other, "--overwrite"]) == 0 and not np.array_equal(first, heard(path)[1])
    assert main([*call, *one, "--overwrite"]) == 0 and np.array_equal(first, heard(path)[1])
    assert [file.name for file in tmp_path.iterdir()] == ["x.wav"]


def test_the_picture_of_a_run_of_audio_is_of_waveforms(
    audio_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(wave_files, "waveforms", lambda columns, path, *, sample_rate: shown.append(columns))
    assert main(["sample", str(audio_run), "--num", "5"]) == 0
    assert [(name, waves.shape) for name, waves in shown[0].items()] == [("samples", (5, 16))]
    assert float(shown[0]["samples"].abs().max()) <= 1 and float(shown[0]["samples"].min()) < 0
    assert imread(audio_run / "samples.png").std() > 0.01  # that train drew


def test_train_draws_test_data_beside_samples(audio_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(audio_run, FUNCTIONS, with_data=True)
    shown: list[dict[str, torch.Tensor]] = []
    monkeypatch.setattr(wave_files, "waveforms", lambda columns, path, *, sample_rate: shown.append(columns))
    (audio_run / "samples.png").unlink(missing_ok=True)
    run_pictures.draw_pictures(run)
    assert run.data is not None
    assert list(shown[0]) == ["test data", "samples"] and shown[0]["samples"].shape == (8, 16)
    expected = run.data.wave_format.decode(run.data.test.x).double() / 2**15
    assert torch.equal(shown[0]["test data"], expected)


def test_sound_of_what_is_no_audio_is_refused_in_one_line(
    trained: Path, tmp_path: Path, fault: Fault
) -> None:
    code, line = fault("sample", trained, "--out", tmp_path / "x.wav")
    assert code == 2 and "no sound of these data in --out" in line and "pyro_dgm.data.Digits" in line
    code, line = fault("sample", trained, "--out", tmp_path / "x.mp3")
    assert code == 2 and "expected .png, .npy or .wav" in line
    code, line = fault("sample", tmp_path, "--out", tmp_path / "x.wav")
    assert code == 2 and "no run" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("pyro_dgm.data.Tones", 100),
        ("pyro_dgm.data.tones.Tones", 100),
        ("pyro_dgm.data.SpokenDigits", 8000),
        ("pyro_dgm.data.Digits", None),
        ("pyro_dgm.data.gone.Since", None),
        ("mine.Tones", None),
        ("Tones", None),
        ("antigravity.Audio", None),
    ],
)
def test_a_run_is_of_audio_by_the_name_of_its_data_alone(name: str, rate: int | None) -> None:
    config = {"data": {"class_path": name, "init_args": {"encoding": "mu_law", "sample_rate": 100}}}
    found = wave_files.wave_format_of_run(config)
    assert (found and found.sample_rate) == rate
    assert "antigravity" not in sys.modules


def test_waveforms_are_drawn_one_below_the_other(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for waves in ({"a": torch.rand(1, 9)}, {"a": torch.rand(20, 9), "b": torch.rand(3, 9)}):
        waveforms(waves, path, sample_rate=8000)
        assert imread(path).std() > 0.01
    path.unlink()
    for bad in ({}, {"a": torch.zeros(0, 4)}, {"a": torch.zeros(4)}):
        with pytest.raises(InvalidInput, match="no waveforms"):
            waveforms(bad, path, sample_rate=8000)
    assert list(tmp_path.iterdir()) == []
