"""Drawing audio from WaveNet; `python -m tests.benchmarks.autoregressive_sampling_wavenet`.

One waveform of 16,000 samples, from two stacks of ten layers, kernel 2, which see the last 2047 samples; 256 levels, or
a mixture of ten logistic variables on 65,536 levels. Four samplers take turns in short rounds:

- naive: a pass over the receptive field for each sample. It is run for some samples, and its time for all is reckoned;
- lean naive: the same, but skip connections and what follows them are computed for the last sample alone;
- cached: `sample(1)`, which runs each layer once for each sample, in plain torch; for 2,000 samples, and reckoned too;
- compiled: `sample(1, compiled=True)`, for all 16,000 samples; what it takes to compile, once, is told beside.

Told are the median times for 16,000 samples, and the median (quartiles) of the ratio to the compiled one in the same
round. Times are processor seconds of one core, see `rounds`. Numbers of channels may be given: 32 and 64 by default.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from pyro_dgm.distributions import CategoricalObservation, DiscretizedLogisticMixtureObservation
from pyro_dgm.models.wavenet import WaveNet
from tests.benchmarks.rounds import alone, ratio, times

LENGTH, SHORT = 16_000, 2_000
OBSERVATIONS = {
    "256 levels": CategoricalObservation,
    "16 bits": lambda shape: DiscretizedLogisticMixtureObservation(shape, 65536),
}


def program(channels, kind, length):
    torch.manual_seed(0)
    observation = OBSERVATIONS[kind]((length,))
    return WaveNet((length,), channels=channels, num_layers=10, num_stacks=2, observation=observation)


def naive(wavenet, params):
    """Function that draws some samples, each after as many zeros as the network sees."""
    field = wavenet.network.receptive_field
    x, index = torch.zeros(1, field + 1), torch.tensor([field])

    @torch.no_grad()
    def run(n):
        for _ in range(n):
            x[:, index] = wavenet.observation.at(params(wavenet.network, x), index).sample()

    return run


def of_pass(network, x):
    return network(x)[..., -1:]


def of_lean_pass(network, x):
    """The last output of a pass, by the layers of the network and without what no other layer needs."""
    h, total = network.first(2 * x.unsqueeze(1) - 1), 0.0
    for place, gate in enumerate(network.gates):
        filtered, opened = gate(h).chunk(2, 1)
        z = filtered.tanh() * opened.sigmoid()
        total = total + network.skips[place](z[..., -1:])
        if place < len(network.residuals):
            h = h + network.residuals[place](z)
    return network.last(network.hidden(total.relu()).relu())


def show(channels, kind):
    wavenet, short = program(channels, kind, LENGTH), program(channels, kind, SHORT)
    x = torch.rand(1, 100)
    torch.testing.assert_close(of_pass(wavenet.network, x), of_lean_pass(wavenet.network, x))
    begin = time.perf_counter()
    wavenet.sample(1, compiled=True)
    first = time.perf_counter() - begin
    runs = {
        "naive": naive(wavenet, of_pass),
        "lean naive": naive(wavenet, of_lean_pass),
        "cached": lambda n: [short.sample(1) for _ in range(n)],
        "compiled": lambda n: [wavenet.sample(1, compiled=True) for _ in range(n)],
    }
    found, share = times(runs)
    scale = {"naive": LENGTH, "lean naive": LENGTH, "cached": LENGTH / SHORT, "compiled": 1}
    seconds = {name: [scale[name] * value for value in values] for name, values in found.items()}
    begin = time.perf_counter()
    wavenet.sample(1, compiled=True)
    compiling = first - (time.perf_counter() - begin)
    print(f"{channels} channels, {kind}: compiled in {compiling:.0f} s, core {share:.0%}")
    for name, values in seconds.items():
        against = "" if name == "compiled" else ratio(values, seconds["compiled"])
        print(f"  {name:12s}{statistics.median(values):9.2f} s   {against}", flush=True)


def main():
    alone()
    for channels in map(int, sys.argv[1:] or (32, 64)):
        for kind in OBSERVATIONS:
            show(channels, kind)


if __name__ == "__main__":
    main()
