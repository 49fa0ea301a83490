"""Bits per sample of spoken digits under coders that learn nothing; `python -m tests.benchmarks.audio_baselines`.

The test windows of `SpokenDigits`, for which `PYRO_DGM_DATA` must name the folder of the recordings, in both encodings:
16-bit samples, and mu-law levels of 8 bits taken as samples from -128 to 127.

- `order 0`: entropy of the frequencies of the levels, counted on the same windows: no coder of single samples has less.
- `bzip2`: of all windows one after the other, so that it goes on from window to window, as no model here does.
- `linear prediction`: what FLAC does, each window a frame by itself: for each the cheapest of the samples as they are,
  the fixed predictors of order 0 to 4, and linear predictors of order 1 to 32 by the recursion of Levinson and Durbin
  on the autocorrelation under a Tukey window, with quantised coefficients; residuals in Rice codes, the window in as
  many partitions as is cheapest. Counted as in a FLAC frame: 72 bits for header and checksum, 8 for the kind, the first
  samples as they are, 9 and the coefficients' bits, 6 for the number of partitions, 4 or 5 for each one's parameter.
- `flac`: libsndfile's, of all windows one after the other, its frames of 4096 samples; if `soundfile` is there. In
  such frames our linear prediction comes within 0.3 % of it.

Every frame of linear prediction is decoded again from its residuals and compared.
"""

from __future__ import annotations

import bz2
import importlib.util
import io

import numpy as np

from pyro_dgm.data import SpokenDigits

ORDER = 32
FRAME = (
    72  # sync code, sizes, number of the frame and its check (56 bits at most here), check of the frame (16)
)
KIND = 8
PARAMETERS = np.arange(31)[:, None]  # of Rice codes; those from 15 on are written in 5 bits
PRECISION = {
    256: 8,
    512: 9,
    1024: 10,
    2048: 11,
    4096: 12,
}  # bits of a coefficient, by the length, as FLAC has it


def rice_bits(residual, *, skipped):
    """Bits of residuals in the cheapest partition, all with a parameter each of its partitions.

    Args:
        residual: whole numbers of a frame, those of the first samples among them.
        skipped: number of first samples, which are not coded here.
    """
    folded = np.where(residual >= 0, 2 * residual, -2 * residual - 1)
    folded[:skipped] = 0
    size = len(folded)
    partitions = [2**p for p in range(9) if size % 2**p == 0 and size // 2**p > max(skipped, 1)] or [1]
    # (parameters, partitions): unary quotients, added up from the finest partitions
    quotients = (folded >> PARAMETERS).reshape(len(PARAMETERS), partitions[-1], -1).sum(-1)
    best = []
    for number in partitions:
        counts = np.full(number, size // number)
        counts[0] -= skipped
        # a stop bit and the remainder for each residual
        costs = quotients.reshape(len(PARAMETERS), number, -1).sum(-1) + counts * (1 + PARAMETERS)
        best.append(6 + min((costs[:15].min(0) + 4).sum(), (costs.min(0) + 5).sum()))
    return int(min(best))


def levinson(r, order):
    """Predictors of order 1 to `order`: x_t is near the sum of a_i x_{t-i}; fewer where nothing is left to predict."""
    found, a, error = [], np.zeros(0), r[0]
    for m in range(order):
        if error <= 1e-9 * r[0]:
            break
        k = (r[m + 1] - a @ r[m:0:-1]) / error
        a = np.append(a - k * a[::-1], k)
        error *= 1 - k * k
        found.append(a)
    return found


def quantised(a, precision):
    """Whole coefficients of so many bits with their sign, and how far right a prediction is shifted."""
    top = 2 ** (precision - 1)
    shift = int(np.clip(np.floor(np.log2(top / np.abs(a).max())), 0, 15))
    whole, rest = np.zeros(len(a), np.int64), 0.0
    for i, value in enumerate(a * 2**shift):  # what rounding leaves goes to the next one
        whole[i] = np.clip(round(value + rest), -top, top - 1)
        rest += value - whole[i]
    return whole, shift


def predicted(samples, whole, shift):
    """Predictions of all samples from those before them; wrong for the first few, which nobody asks for."""
    total = np.zeros(len(samples), np.int64)
    for i, value in enumerate(whole.tolist(), start=1):
        total[i:] += value * samples[:-i]
    return total >> shift


def decoded(residual, first, whole, shift):
    """Samples from residuals, one after the other."""
    samples, coefficients = first.tolist(), whole.tolist()
    for left in residual[len(first) :].tolist():
        past = samples[: -len(coefficients) - 1 : -1]
        samples.append(left + (sum(c * s for c, s in zip(coefficients, past, strict=True)) >> shift))
    return np.array(samples)


def frame_bits(samples, *, depth, window):
    """Bits of the cheapest frame, and the order of its predictor: -1 where the samples stand as they are.

    Args:
        samples: whole numbers of one window.
        depth: bits of a sample.
        window: weights of the samples in the autocorrelation.
    """
    size = len(samples)
    costs = {(-1, False): size * depth}
    if (samples == samples[0]).all():
        costs[0, False] = depth
    for order in range(5):
        residual = np.append(samples[:order], np.diff(samples, order))
        costs[order, False] = order * depth + rice_bits(residual, skipped=order)
    weighted = samples * window
    r = np.correlate(weighted, weighted, "full")[size - 1 : size + ORDER]
    precision = min(PRECISION.get(size, 12), 15)
    predictors = {}
    for a in levinson(r, ORDER) if r[0] > 0 else []:
        whole, shift = quantised(a, precision)
        residual = samples - predicted(samples, whole, shift)
        order = len(a)
        predictors[order] = (residual, whole, shift)
        coded = order * (depth + precision) + 9
        costs[order, True] = coded + rice_bits(residual, skipped=order)
    order, is_linear = min(costs, key=costs.__getitem__)
    if is_linear:
        residual, whole, shift = predictors[order]
        assert np.array_equal(decoded(residual, samples[:order], whole, shift), samples)
    return FRAME + KIND + costs[order, is_linear], order


def tukey(size):
    """Cosine tapers over a quarter of the window at either end."""
    edge = size // 4
    taper = 0.5 - 0.5 * np.cos(np.pi * (np.arange(edge) + 0.5) / edge)
    return np.concatenate([taper, np.ones(size - 2 * edge), taper[::-1]])


def flac_bytes(samples, *, depth):
    """Size of all samples in one FLAC file at its highest level."""
    import soundfile

    file = io.BytesIO()
    subtype, kind = ("PCM_16", np.int16) if depth == 16 else ("PCM_S8", np.int16)
    scale = 1 if depth == 16 else 256  # soundfile takes the high byte
    soundfile.write(
        file, (samples * scale).astype(kind), 8000, format="FLAC", subtype=subtype, compression_level=1.0
    )
    file.seek(0)
    back, _ = soundfile.read(file, dtype="int16")
    assert np.array_equal(back, samples * scale)
    return file.getbuffer().nbytes


def measure(encoding, depth):
    """Bits per sample by coder, for the test windows."""
    data = SpokenDigits(encoding=encoding)
    levels = (data.test.x.double() * (data.levels - 1)).round().long().numpy()
    windows = levels - data.levels // 2
    _, counts = np.unique(levels, return_counts=True)
    p = counts / levels.size
    raw = levels.astype(np.uint8) if depth == 8 else windows.astype("<i2")
    window = tukey(windows.shape[1])
    frames = [frame_bits(samples, depth=depth, window=window) for samples in windows]
    found = {
        "order 0": -(p * np.log2(p)).sum(),
        "bzip2": 8 * len(bz2.compress(raw.tobytes(), 9)) / levels.size,
        "linear prediction": sum(bits for bits, _ in frames) / levels.size,
    }
    if importlib.util.find_spec("soundfile"):
        found["flac"] = 8 * flac_bytes(windows.ravel(), depth=depth) / levels.size
    orders = np.array([order for _, order in frames])
    print(f"{encoding}, {depth} bits: {len(windows)} windows of {windows.shape[1]} samples")
    print(f"  orders of the predictors: median {np.median(orders):.0f}, {orders.min()} to {orders.max()}")
    print(f"  of the linear prediction, {(FRAME + KIND) / windows.shape[1]:.3f} bits are headers")
    for name, bits in found.items():
        print(f"  {name:18} {bits:7.3f} bits per sample")
    if "flac" not in found:
        print("  flac: no package soundfile here")
    return found


if __name__ == "__main__":
    measure("mu_law", 8)
    measure("linear16", 16)
