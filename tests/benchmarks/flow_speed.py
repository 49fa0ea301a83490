"""Densities, draws and steps of flows beside Pyro, zuko, nflows and normflows; `python -m tests.benchmarks.flow_speed`.

Masked autoregressive flows of 10 blocks with two hidden layers of 512 units, and 5 couplings by rational-quadratic
splines of 8 bins with two hidden layers of 256 units; 63 dimensions, batches of 1000, 100 draws of the autoregressive
flow and 1000 of the couplings. Each library's flow is called as its users do, plain and through `torch.compile`. Peers
of the coupling have no linear maps between, and neither has ours here. They take turns in short rounds: the table has
the median processor milliseconds of one core of each, see `rounds`, and the median (quartiles) of the ratios of ours to
the fastest of the others in the same round.

Needs the extra `peers`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import types

import nflows.transforms
import normflows
import pyro.distributions as dist
import pyro.distributions.transforms as pyro_transforms
import torch
import zuko
from torch import nn

from pyro_dgm import models
from pyro_dgm.distributions.transforms import Chain, Coupling, Inverse, RationalQuadratic, alternating
from tests.benchmarks import flow_architectures
from tests.benchmarks.flow_architectures import BINS, BOUND, Nflows, parity
from tests.benchmarks.rounds import alone, ratio, times

SIZE, BATCH = 63, 1000


class OfPyro(nn.Module):
    """A flow of Pyro's transforms, from noise to data."""

    def __init__(self, parts):
        super().__init__()
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        autoregressive = pyro_transforms.AffineAutoregressive  # whose density is fast backwards
        self.maps = [part.inv if isinstance(part, autoregressive) else part for part in parts]

    def forward(self):
        base = dist.Normal(torch.zeros(SIZE), 1.0).to_event(1)
        return dist.TransformedDistribution(base, self.maps)


class OfNormflows(nn.Module):
    """A flow of normflows' maps, from noise to data."""

    def __init__(self, parts):
        super().__init__()
        self.flow = normflows.NormalizingFlow(
            normflows.distributions.DiagGaussian(SIZE, trainable=False), parts
        )

    def forward(self):
        return self

    def log_prob(self, x):
        return self.flow.log_prob(x)

    def sample(self, shape):
        return self.flow.sample(shape[0])[0]


def maf():
    hidden, layers = [512, 512], 10
    pyros = []
    for _ in range(layers):
        pyros.append(pyro_transforms.affine_autoregressive(SIZE, hidden))
        pyros.append(pyro_transforms.Permute(torch.arange(SIZE).flip(0)))
    normals = []
    for _ in range(layers):  # turned round: as they are their densities go element by element
        normals.append(
            normflows.flows.Reverse(
                normflows.flows.MaskedAffineAutoregressive(
                    SIZE, hidden[0], num_blocks=1, use_residual_blocks=False
                )
            )
        )
        normals.append(normflows.flows.Permute(SIZE, mode="swap"))
    return {
        **flow_architectures.maf(SIZE, layers, hidden),
        "Pyro": OfPyro(pyros),
        "normflows": OfNormflows(normals),
    }


def spline():
    hidden, layers = [256, 256], 5
    ours, zukos, theirs, pyros, normals = [], [], [], [], []
    for layer in range(layers):
        coupling = Coupling(alternating(SIZE, layer), RationalQuadratic(BINS, bound=BOUND), hidden=hidden)
        ours.append(Inverse(coupling))
        zukos.append(
            zuko.flows.coupling.GeneralCouplingTransform(
                SIZE,
                mask=parity(SIZE, layer),
                univariate=flow_architectures.Spline,
                shapes=[(BINS,), (BINS,), (BINS - 1,)],
                hidden_features=hidden,
            )
        )
        theirs.append(
            nflows.transforms.PiecewiseRationalQuadraticCouplingTransform(
                (~parity(SIZE, layer)).long(),
                flow_architectures.net(hidden),
                num_bins=BINS,
                tails="linear",
                tail_bound=BOUND,
            )
        )
        pyros.append(pyro_transforms.spline_coupling(SIZE, hidden_dims=hidden, count_bins=BINS, bound=BOUND))
        pyros.append(pyro_transforms.Permute(torch.arange(SIZE).flip(0)))
        normals.append(
            normflows.flows.CoupledRationalQuadraticSpline(
                SIZE, 1, hidden[0], num_bins=BINS, tail_bound=BOUND, reverse_mask=bool(layer % 2)
            )
        )
    return {
        "ours": models.Flow(Chain(ours)),
        "zuko": flow_architectures.zuko_flow(SIZE, zukos),
        "nflows": Nflows(SIZE, theirs),
        "Pyro": OfPyro(pyros),
        "normflows": OfNormflows(normals),
    }


def density(flow, x):
    return flow().log_prob(x.clone())  # of data never seen: Pyro's cache would answer for those that were


def draw(number):
    return lambda flow, x: flow().sample((number,))


def step(flow, x):
    flow.zero_grad(set_to_none=True)
    density(flow, x).mean().backward()


def compiled(function, library):
    """`function` through `torch.compile`, with graphs of its own: those of one piece of code share a cache."""
    code = function.__code__.replace(co_name=f"{function.__name__}_{library}")
    own = types.FunctionType(code, function.__globals__, closure=function.__closure__)
    return torch.compile(own, dynamic=False)


def repeated(function, flow, x):
    def run(number):
        for _ in range(number):
            function(flow, x)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true", help="through torch.compile, which takes minutes")
    parser.add_argument("--work", nargs="+", default=["log_prob", "sample", "step"], help="what to time")
    arguments = parser.parse_args()
    alone()
    torch._dynamo.config.recompile_limit = 64
    torch.manual_seed(0)
    x = torch.randn(BATCH, SIZE)
    for name, flows, number in (("MAF", maf(), 100), ("spline coupling", spline(), 1000)):
        work = {"log_prob": density, "sample": draw(number), "step": step}
        for what in arguments.work:
            function, runs = work[what], {}
            torch._dynamo.reset()
            for library, flow in flows.items():
                unrolled = name == "MAF" and what == "sample"  # over 63 elements: no graph to compile
                made = compiled(function, library) if arguments.compiled and not unrolled else function
                run = repeated(made, flow, x)
                with torch.set_grad_enabled(what == "step"):
                    try:
                        run(2)
                    except Exception as problem:  # a peer that cannot be compiled is told of and left out
                        print(f"{name} {what}: {library} failed, {type(problem).__name__}", file=sys.stderr)
                        continue
                runs[library] = run
            with torch.set_grad_enabled(what == "step"):
                found, share = times(runs)
            medians = {library: statistics.median(values) for library, values in found.items()}
            best = min((library for library in medians if not library.startswith("ours")), key=medians.get)
            line = "  ".join(f"{library} {1e3 * value:.1f}" for library, value in medians.items())
            beside = f"ours to {best} {ratio(found['ours'], found[best])}; share {share:.2f}"
            print(f"{name} {what}, ms: {line}; {beside}", flush=True)


if __name__ == "__main__":
    main()
