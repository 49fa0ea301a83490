"""The same variational autoencoder written for Pyro and for bare torch, for `tests.benchmarks.svi_step`.

Two hidden tanh layers each way, Gaussian posterior with a scale by softplus, Bernoulli likelihood of logits, summed
over the batch; one sample of `log q - log p` or the importance-weighted bound; Adam with rate 1e-3.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, RenyiELBO, Trace_ELBO
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pyro_dgm import CompiledSVI
from pyro_dgm.objectives import IWAE

CHUNK = 20  # steps in a call of those that do several
RATE = 1e-3


class Cell(NamedTuple):
    data: int
    hidden: int
    latent: int
    batch: int
    particles: int

    def __str__(self):
        return "-".join(map(str, self))


CELLS = [
    Cell(64, 64, 8, 128, 1),
    Cell(784, 200, 50, 20, 1),
    Cell(784, 200, 50, 100, 1),
    Cell(784, 200, 50, 20, 50),
    Cell(784, 500, 50, 128, 1),
]


@dataclass(frozen=True)
class Competitor:
    """`run(n)` does n steps, a multiple of CHUNK where several go into a call, and returns losses; none of a floor."""

    name: str
    run: Callable[[int], list[float]]
    chunk: int = 1


def batch(cell, device="cpu"):
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(cell.batch, cell.data, generator=generator) < 0.2).float().to(device)


def networks(cell, device="cpu"):
    """Encoder and decoder; the same weights at each call."""
    torch.manual_seed(0)
    D, H, Z = cell[:3]
    return _network(D, H, 2 * Z).to(device), _network(Z, H, D).to(device)


def _network(inputs, hidden, outputs):
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, outputs)
    )


def pyro_svi(cell, name, kind=SVI, device="cpu"):
    encoder, decoder = networks(cell, device)
    Z = cell.latent

    def model(x):
        pyro.module(f"{name}.decoder", decoder)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(Z), x.new_ones(Z)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x):
        pyro.module(f"{name}.encoder", encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, softplus(scale)).to_event(1))

    if cell.particles == 1:
        loss = Trace_ELBO()
    elif kind is CompiledSVI:
        loss = IWAE(cell.particles)
    else:
        loss = RenyiELBO(alpha=0, num_particles=cell.particles, vectorize_particles=True, max_plate_nesting=1)
    return kind(model, guide, pyro.optim.Adam({"lr": RATE}), loss)


def torch_step(cell, device="cpu", *, is_compiled=False):
    """A step without Pyro, by fused Adam."""
    encoder, decoder = networks(cell, device)
    K = cell.particles

    def loss_of(x):
        loc, scale = encoder(x).chunk(2, -1)
        noise = torch.randn((K, *loc.shape) if K > 1 else loc.shape, device=device)
        scale = softplus(scale)
        z = loc + scale * noise
        log_ratio = (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)
        logits = decoder(z)
        error = binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        log_weight = log_ratio - error
        if K == 1:
            return -log_weight.sum()
        return -(log_weight.logsumexp(0) - torch.tensor(float(K)).log()).sum()

    loss_of = torch.compile(loss_of) if is_compiled else loss_of
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def step(x):
        adam.zero_grad()
        loss = loss_of(x)
        loss.backward()
        adam.step()
        return loss.item()

    return step


def products(cell, device="cpu"):
    """The matrix products of a step by torch.mm, without the gradient with respect to the data."""
    D, H, Z, B, K = cell
    shapes = [(B, D, H), (B, H, H), (B, H, 2 * Z), (B * K, Z, H), (B * K, H, H), (B * K, H, D)]
    draw = functools.partial(torch.randn, device=device)
    layers = [(draw(m, k), draw(n, k), draw(m, n)) for m, k, n in shapes]

    def step():
        for place, (x, weight, gradient) in enumerate(layers):
            torch.mm(x, weight.t())
            torch.mm(gradient.t(), x)
            if place:
                torch.mm(gradient, weight)
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def torch_competitors(cell, device="cpu"):
    x = batch(cell, device)
    plain, compiled, several = (
        pyro_svi(cell, f"{cell}/{name}", kind, device)
        for name, kind in (("plain", SVI), ("compiled", CompiledSVI), ("several", CompiledSVI))
    )
    by_hand, by_hand_compiled = torch_step(cell, device), torch_step(cell, device, is_compiled=True)
    floor = products(cell, device)
    return [
        Competitor("CompiledSVI.step", lambda n: [compiled.step(x) for _ in range(n)]),
        Competitor(
            "CompiledSVI.steps",
            lambda n: [loss for _ in range(n // CHUNK) for loss in several.steps([(x,)] * CHUNK)],
            CHUNK,
        ),
        Competitor("Pyro SVI.step", lambda n: [plain.step(x) for _ in range(n)]),
        Competitor("torch", lambda n: [by_hand(x) for _ in range(n)]),
        Competitor("torch.compile", lambda n: [by_hand_compiled(x) for _ in range(n)]),
        Competitor("matrix products", lambda n: [loss for _ in range(n) if (loss := floor()) is not None]),
    ]
