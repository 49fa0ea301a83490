"""Audio: laws of its two encodings, tones that are what their formula says, windows that are the recordings."""

from __future__ import annotations

import math
import os
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_dgm.data import SpokenDigits, Tones, WaveFormat, mu_law_decode, mu_law_encode, spoken_digits
from pyro_dgm.data.audio import FULL_SCALE
from pyro_dgm.errors import IntegrityError, InvalidInput, ResourceError
from tests.laws.listed import as_tests

PCM = torch.arange(-FULL_SCALE, FULL_SCALE).to(torch.int16)
GRID = torch.arange(256).double() / 255

Law = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # encode, decode


def amplitudes() -> Tensor:
    """Small and large amplitudes, none of them zero."""
    return torch.cat([torch.rand(500).double(), torch.logspace(-9, 0, 500).double()])


def check_width(law: Law) -> None:
    """Decoded again, an amplitude has moved by half the width of a level at most, on the side where that is wider."""
    encode, decode = law
    s = amplitudes()
    middles = decode(GRID)
    k = (encode(s) * 255).round().long()
    near = middles[(k + 1).clamp(max=255)] - middles[(k - 1).clamp(min=0)]
    assert bool(((decode(encode(s)) - s).abs() <= near).all())


def check_monotone(law: Law) -> None:
    encode, decode = law
    assert bool((encode(amplitudes().sort().values).diff() >= 0).all())
    assert bool((decode(GRID).diff() > 0).all())


def check_symmetric(law: Law) -> None:
    encode, decode = law
    s = amplitudes()
    assert torch.allclose(encode(-s), 1 - encode(s), rtol=0, atol=1e-12)
    assert torch.allclose(decode(GRID.flip(0)), -decode(GRID), rtol=0, atol=1e-12)


def check_grid(law: Law) -> None:
    """Every level is its own image, and the ends are full scale."""
    encode, decode = law
    assert torch.equal(encode(decode(GRID)), GRID)
    assert decode(GRID)[[0, -1]].tolist() == pytest.approx([-1.0, 1.0], rel=1e-12)


def check_formula(law: Law) -> None:
    """The law of the recommendation, at mu = 255: a hundredth of full scale is 0.2285 of it, by hand."""
    encode, _ = law
    assert (
        encode(torch.tensor([0.01]).double()).item()
        == round(127.5 * (1 + math.log(3.55) / math.log(256))) / 255
    )


def truncating(s: Tensor) -> Tensor:
    return (mu_law_encode(s) * 255 - 1).clamp(min=0) / 255


def linear(s: Tensor) -> Tensor:
    return ((1 + s) * 127.5).round() / 255


def lopsided(x: Tensor) -> Tensor:
    return mu_law_decode(x) + (x < 0.5) * 1e-6


def upside_down(s: Tensor) -> Tensor:
    return mu_law_encode(-s)


MU_LAW = {"mu-law": (mu_law_encode, mu_law_decode)}
TRUNCATING = {"truncating": (truncating, mu_law_decode)}
LINEAR = {"linear": (linear, mu_law_decode)}
LOPSIDED = {"lopsided": (mu_law_encode, lopsided)}
UPSIDE_DOWN = {"upside down": (upside_down, mu_law_decode)}
test_law_holds, test_law_catches_mutant = as_tests(
    [
        (check_width, MU_LAW, LINEAR | UPSIDE_DOWN),
        (check_monotone, MU_LAW, UPSIDE_DOWN),
        (check_symmetric, MU_LAW, TRUNCATING | LOPSIDED),
        (check_grid, MU_LAW, TRUNCATING | LINEAR | UPSIDE_DOWN),
        (check_formula, MU_LAW, LINEAR | TRUNCATING),
    ]
)


@pytest.mark.parametrize("bad", [1.001, -2.0, math.nan, math.inf])
def test_what_is_no_amplitude_is_refused(bad: float) -> None:
    with pytest.raises(InvalidInput, match=r"no amplitude in amplitude: .*; expected numbers in \[-1, 1\]"):
        mu_law_encode(torch.tensor([0.5, bad]))


def test_every_16_bit_sample_survives_the_linear_encoding_in_float32() -> None:
    linear16 = WaveFormat("linear16", 8000)
    x = linear16.encode(PCM)
    assert x.dtype == torch.float32 and float(x.min()) == 0.0 and float(x.max()) == 1.0
    assert torch.equal((x * 65535).round().long(), torch.arange(65536))
    assert torch.equal(linear16.decode(x), PCM)


def test_mu_law_of_16_bit_samples_uses_every_level_and_is_idempotent() -> None:
    mu_law = WaveFormat("mu_law", 8000)
    x = mu_law.encode(PCM)
    assert len(x.unique()) == mu_law.levels == 256
    assert torch.equal(mu_law.encode(mu_law.decode(x)), x)
    # half a level is a factor of 256^(1/255) in |s| + 1/255, and half a sample is for rounding
    error = (mu_law.decode(x).double() - PCM.double()).abs()
    assert bool((error <= 0.5 + (PCM.double().abs() + FULL_SCALE / 255) * (256 ** (1 / 255) - 1)).all())


def test_what_lies_outside_is_clipped() -> None:
    for encoding in ("mu_law", "linear16"):
        ends = WaveFormat(encoding, 8000).decode(torch.tensor([-3.0, 0.0, 1.0, 3.0])).tolist()  # type: ignore[arg-type]
        assert ends == [-32768, -32768, 32767, 32767]


@pytest.mark.parametrize("encoding", ["mu_law", "linear16"])
def test_tones_are_fixed_by_their_seed_and_lie_on_the_grid(encoding: spoken_digits.Encoding) -> None:
    first, again, other = (Tones((30, 20, 20), length=32, encoding=encoding, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.x, again.train.x) and torch.equal(first.test.x, again.test.x)
    assert not torch.equal(first.train.x, other.train.x) and not torch.equal(first.val.x, first.test.x)
    assert first.data_shape == (32,) and first.train.fields == ("x",) and first.num_classes is None
    levels = first.levels
    assert levels == {"mu_law": 256, "linear16": 65536}[encoding]
    k = first.train.x.double() * (levels - 1)
    assert float((k - k.round()).abs().max()) < 0.01 and float(k.min()) >= 0 and float(k.max()) <= levels - 1
    assert first.bits_per_dim(32 * math.log(levels)) == pytest.approx(math.log2(levels))
    about = first.preprocessing
    assert (about["encoding"], about["sample_rate"], about["levels"]) == (encoding, 8000, levels)


def test_a_tone_has_the_pitch_of_its_label_and_nothing_between_its_harmonics() -> None:
    """Without noise, a least-squares fit of the harmonics under a smooth envelope leaves next to nothing."""
    data = Tones((40, 1, 1), length=2000, noise=0.0, encoding="linear16", num_classes=7, labels=True)
    y = data.train.y
    assert data.num_classes == 7 and y is not None
    s = data.wave_format.decode(data.train.x).double().numpy() / FULL_SCALE
    t = np.arange(2000) / 8000
    for wave_, note in zip(s, y.tolist(), strict=True):
        left = {}
        for guess in range(7):
            f = 220 * 2 ** (guess / 7)
            angles = 2 * np.pi * f * np.outer(np.arange(1, 5), t)
            # an envelope is smooth: a polynomial times each harmonic, after the attack
            basis = np.vstack([b * t**p for b in (*np.cos(angles), *np.sin(angles)) for p in range(4)])[
                :, 600:
            ]
            fit = np.linalg.lstsq(basis.T, wave_[600:], rcond=None)[0]
            left[guess] = float(np.square(wave_[600:] - fit @ basis).sum())
        assert min(left, key=left.__getitem__) == note


def test_the_noise_of_tones_is_the_rest() -> None:
    """Same seed, so same tones: the difference is the noise, chi-square of 64,000: z < 4.9, false alarm 1e-6."""
    noisy, clean = (
        Tones((1, 1, 1), length=64_000, noise=noise, encoding="linear16", seed=3) for noise in (0.01, 0.0)
    )
    a, b = (data.wave_format.decode(data.train.x).double() / FULL_SCALE for data in (noisy, clean))
    z = (((a - b) / 0.01).square().sum() - 64_000) / math.sqrt(2 * 64_000)
    assert abs(float(z)) < 4.9


def test_the_bits_of_the_noise_alone_are_those_that_are_documented() -> None:
    """Entropy of the mu-law level given the tone, exactly: what no model can go below."""
    clean = Tones((150, 1, 1), noise=0.0, encoding="linear16")
    s = clean.wave_format.decode(clean.train.x).double().unsqueeze(-1) / FULL_SCALE
    edges = mu_law_decode((torch.arange(255).double() + 0.5) / 255)
    below = torch.distributions.Normal(0.0, 0.005).cdf(edges - s)
    ones = torch.ones_like(s)
    p = torch.cat([below, ones], -1) - torch.cat([0 * ones, below], -1)
    assert float(-torch.xlogy(p, p).sum(-1).mean() / math.log(2)) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"encoding": "opus"}, "unknown choice in encoding: opus; expected mu_law or linear16"),
        ({"length": 1}, "bad setting in length: 1"),
        ({"sample_rate": 2000}, "bad setting in sample_rate: 2000; expected a number >= 4000"),
        ({"sizes": (1, 0, 1)}, "bad sizes in sizes"),
        ({"noise": -1.0}, "bad setting in noise"),
        ({"noise": math.nan}, "bad setting in noise"),
        ({"num_classes": 0}, "bad setting in num_classes"),
        ({"seed": -1}, "bad setting in seed"),
    ],
)
def test_bad_tones_are_one_line(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Tones(**{"sizes": (1, 1, 1), **arguments})  # type: ignore[arg-type]


def write_wav(path: Path, samples: np.ndarray, *, rate: int = 8000) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


Recordings = dict[tuple[int, int, int], np.ndarray]


@pytest.fixture
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recordings:
    """Two takes for each part, of one digit by each of two speakers, each sample saying where it is from."""
    monkeypatch.setattr(spoken_digits, "SPEAKERS", ("anna", "bob"))
    monkeypatch.setattr(spoken_digits, "_TAKES", (0, 5, 8))
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path))
    folder = tmp_path / "fsdd" / "recordings"
    folder.mkdir(parents=True)
    found: Recordings = {}
    for speaker, name in enumerate(("anna", "bob")):
        for digit in range(10):
            for take in (0, 5, 8):
                start = 1000 * (3 * (2 * digit + speaker) + (0, 5, 8).index(take)) - 30_000
                samples = start + np.arange(10 + digit)  # the longest has 19
                write_wav(folder / f"{digit}_{name}_{take}.wav", samples)
                found[speaker, digit, take] = samples
    content = b"".join(samples.astype("<i2").tobytes() for samples in found.values())
    monkeypatch.setattr(spoken_digits, "_SHA256", spoken_digits.hashlib.sha256(content).hexdigest())
    return found


@pytest.mark.parametrize("label", ["digit", "speaker"])
def test_windows_are_the_recordings_cut_up_and_labelled(
    recordings: Recordings, label: spoken_digits.SpokenLabel
) -> None:
    data = SpokenDigits(6, encoding="linear16", label=label, labels=True, index=True)
    assert data.num_classes == {"digit": 10, "speaker": 2}[label]
    for take, part in ((8, data.train), (5, data.val), (0, data.test)):
        expected = {
            tuple(samples[begin : begin + 6].tolist()): (digit if label == "digit" else speaker)
            for (speaker, digit, of), samples in recordings.items()
            if of == take
            for begin in range(0, len(samples) - 5, 6)
        }
        x, y, _ = part.batch(torch.arange(len(part)))
        windows = [tuple(window) for window in data.wave_format.decode(x).tolist()]
        assert dict(zip(windows, y.tolist(), strict=True)) == expected and len(windows) == len(expected)
        assert windows != sorted(windows)  # not speaker by speaker: the first few are of all
    with pytest.raises(InvalidInput, match="no window in length: 20"):
        SpokenDigits(20)


def test_the_format_is_told_without_the_recordings() -> None:
    arguments = {"encoding": "linear16", "sample_rate": 44_100}
    assert Tones.wave_format_of(arguments) == WaveFormat("linear16", 44_100)
    assert SpokenDigits.wave_format_of(arguments) == WaveFormat("linear16", 8000)


def test_recordings_that_are_not_the_published_ones_are_one_line(
    recordings: Recordings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "fsdd" / "recordings" / "3_bob_5.wav"
    whole = path.read_bytes()
    write_wav(path, recordings[1, 3, 5] + 1)
    with pytest.raises(IntegrityError, match=r"not the published recordings in .*; expected sha256"):
        SpokenDigits(6)
    write_wav(path, recordings[1, 3, 5], rate=16_000)
    with pytest.raises(IntegrityError, match=r"3_bob_5\.wav: 1 channel, 16 bits, 16000 Hz; expected"):
        SpokenDigits(6)
    size = 2 * len(recordings[1, 3, 5])
    for damaged, said in (
        (b"", "an empty file"),
        (b"not a sound", "file does not start with RIFF id"),
        (whole[:20], "it ends within its header"),
        (whole[:-1], f"it ends after {size - 1} of {size} bytes of samples"),
        (whole[:-4], f"it ends after {size - 4} of {size} bytes of samples"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            IntegrityError, match=rf"damaged recording in .*3_bob_5\.wav: {said}; try cloning"
        ):
            SpokenDigits(6)
    path.unlink()
    with pytest.raises(ResourceError, match=r"a recording is missing in .*3_bob_5\.wav"):
        SpokenDigits(6)
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path / "fsdd" / "recordings"))
    clone = r"no recordings in PYRO_DGM_DATA: .*; try git clone https://github.com/\S+ in FOLDER"
    with pytest.raises(ResourceError, match=clone):
        SpokenDigits(6)
    monkeypatch.setenv("PYRO_DGM_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(InvalidInput, match="no such folder in PYRO_DGM_DATA"):
        SpokenDigits(6)
    monkeypatch.delenv("PYRO_DGM_DATA")
    with pytest.raises(ResourceError, match="not set"):
        SpokenDigits(6)


@pytest.mark.skipif(
    not os.environ.get("PYRO_DGM_DATA"), reason="PYRO_DGM_DATA names no folder of downloaded originals"
)
def test_the_published_recordings_make_the_windows_that_their_lengths_allow() -> None:
    """The sha256 has been checked: 3,000 recordings, the shortest of 1,148 samples."""
    data = SpokenDigits(labels=True)
    sizes = [len(part) for part in (data.train, data.val, data.test)]
    assert sizes == [7375, 529, 860] and data.data_shape == (1024,)
    assert data.train.y is not None and data.train.y.unique().tolist() == list(range(10))
    with pytest.raises(InvalidInput, match="no window"):
        SpokenDigits(20_000)
