"""What each of two processes does for test_training_distributed, and what one process does alone.

Started by torchrun as ``-m tests.training.distributed_worker FOLDER``; process r writes ``FOLDER/r.json``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyro_dgm.errors import ResourceError
from pyro_dgm.objectives import ELBO
from pyro_dgm.program import Pair, Program
from pyro_dgm.training.distributed import joined
from tests.training import distributed_fit
from tests.training.stand_ins import Location

CPU = torch.device("cpu")


def data(num, dim=3):
    generator = torch.Generator().manual_seed(num)
    return (
        torch.randn(num, dim, generator=generator).double(),
        torch.randn(num, 2, generator=generator).double(),
    )


class GivenNoise(dist.Normal):
    """A normal distribution whose draw is a function of the noise that comes with the datum."""

    def __init__(self, loc, scale, noise):
        super().__init__(loc, scale)
        self.noise = noise

    def rsample(self, sample_shape=()):
        return self.loc + self.scale * self.noise

    def expand(self, batch_shape, _instance=None):
        return GivenNoise(*(part.expand(batch_shape) for part in (self.loc, self.scale, self.noise)))


class NoisyAutoencoder(Program):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = nn.Linear(3, 2), nn.Linear(2, 3)
        self.log_scale = nn.Parameter(torch.zeros(2))

    def model(self, x, noise):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x, noise):
        pyro.module(self.pyro_name, self)
        with pyro.plate("data", len(x)):
            q = GivenNoise(self.encoder(x), self.log_scale.exp().expand(len(x), 2), noise)
            pyro.sample("z", q.to_event(1))


def gradients(processes, loss, parameters, batch, divide=None):
    """Gradient per datum, as a player computes it; None where there is none."""
    wrapped = processes.wrap(loss, parameters)
    index = processes.shard(torch.arange(len(batch[0])))
    divisor = processes.share(len(batch[0])) if divide is None else divide(processes, index)
    (wrapped(*(part[index] for part in batch)) / divisor).backward(inputs=parameters)
    return [None if p.grad is None else p.grad.flatten().tolist() for p in parameters]


def without_latents(processes, num=8, divide=None):
    program = Location(3).double()
    program.location.data += processes.rank  # process 0's holds
    loss = ELBO()
    return gradients(
        processes,
        lambda x: loss(program.model, program.guide, x),
        [*program.parameters()],
        data(num)[:1],
        divide,
    )


def autoencoder(processes, num=8):
    program, loss = NoisyAutoencoder().double(), ELBO()
    parameters = [*program.parameters()]
    return gradients(
        processes, lambda *batch: loss(program.model, program.guide, *batch), parameters, data(num)
    )


def pair(processes):
    pyro.clear_param_store()

    def model(x, noise):
        scale = pyro.param(
            "scale", torch.tensor(2.0 + processes.rank).double(), constraint=dist.constraints.positive
        )
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample(
                "x", dist.Normal(z.sum(-1, keepdim=True), scale).expand([len(x), 3]).to_event(1), obs=x
            )

    def guide(x, noise):
        slope = pyro.param("slope", torch.full((3, 2), 0.1 + processes.rank).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", GivenNoise(x @ slope, torch.ones(2).double(), noise).to_event(1))

    program, loss, batch = Pair(model, guide), ELBO(), data(8)
    program.materialize(*batch)
    leaves = [*program.parameters()]
    assert not any(isinstance(leaf, nn.Parameter) for leaf in leaves)
    found = gradients(processes, lambda *batch: loss(program.model, program.guide, *batch), leaves, batch)
    return [*found, *(leaf.flatten().tolist() for leaf in leaves)]


def unused(processes):
    """Three parameters: one that the first datum alone uses, one that is never used, one that all use."""
    first, never, always = (torch.ones(2).double().requires_grad_() for _ in range(3))

    def loss(x):
        total = (x[:, :2] * always).sum()
        return total + (first * always).sum() if (x[:, 2] == 7.0).any() else total

    x = data(8)[0]
    x[0, 2] = 7.0
    return gradients(processes, loss, [first, never, always], (x,))


def two_players(processes, steps=10):
    """A critic with a gradient penalty, which plays every other step, and a generator, with Adam."""
    torch.manual_seed(processes.rank)
    critic = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    generator = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 3)).double()
    x, noise = data(7)

    def critic_loss(x, noise):
        inputs = (x + generator(noise).detach()).requires_grad_()
        (slope,) = torch.autograd.grad(critic(inputs).sum(), inputs, create_graph=True)
        return (critic(generator(noise).detach()) - critic(x)).sum() + (slope.norm(dim=-1) - 1).square().sum()

    def generator_loss(x, noise):
        return -critic(generator(noise)).sum()

    players = [
        (processes.wrap(loss, [*module.parameters()]), [*module.parameters()], every)
        for loss, module, every in ((critic_loss, critic, 2), (generator_loss, generator, 1))
    ]
    optimizers = [torch.optim.Adam(parameters, lr=0.01) for _, parameters, _ in players]
    index = processes.shard(torch.arange(7))
    for step in range(steps):
        for (loss, parameters, every), optimizer in zip(players, optimizers, strict=True):
            if step % every == 0:
                optimizer.zero_grad()
                (loss(x[index], noise[index]) / processes.share(7)).backward(inputs=parameters)
                optimizer.step()
    return [p.flatten().tolist() for _, parameters, _ in players for p in parameters]


def buffers(processes):
    """A moving baseline, once replaced by another tensor; then the noise that the ranks draw."""
    module = nn.BatchNorm1d(1, affine=False)
    w = torch.ones(()).requires_grad_()

    def loss(x):
        module.running_mean = module.running_mean + processes.rank + 1
        return (w * x).sum()

    wrapped = processes.wrap(loss, [w], modules=[module])
    for _ in range(3):
        wrapped(torch.ones(2)).backward()
    return module.running_mean.item()  # process 0's after two calls, and one's own third


def numbers(processes):
    told = torch.full((2,), float(processes.rank))
    frozen = torch.full((3,), processes.rank + 1)
    processes.align([frozen])
    processes.barrier()
    return {
        "shards": [processes.shard(torch.arange(n)).tolist() for n in (2, 7, 8)],
        "sum": processes.sum(told + 1).tolist(),
        "mean": processes.mean(told).tolist(),
        "any": [processes.any(processes.rank == r) for r in range(3)],
        "broadcast": processes.broadcast(0.1 + processes.rank),
        "infinite": processes.broadcast(float("inf") if processes.is_main else 0.0),
        "gather": [
            each.tolist() for each in processes.gather(torch.full((2,), processes.rank, dtype=torch.uint8))
        ],
        "aligned": frozen.tolist(),
        "untouched": told.tolist(),
        "seeds": [processes.seed_of(seed) for seed in (0, 1, 2)],
        "is_main": processes.is_main,
    }


def own_mean(processes, index):
    """The mutant: each process divides by its own number of data."""
    return len(index)


def afterwards():
    """A parameter is its process's own again when the group is gone, also after a call without backward pass."""
    w = torch.ones(()).requires_grad_()
    with joined(CPU) as processes:
        wrapped = processes.wrap(lambda x: w * x, [w])
        wrapped(torch.ones(())).backward()
        wrapped(torch.ones(()))
    w.grad = None
    (w * (processes.rank + 5.0)).backward()
    return w.grad.item()


def desertion():
    """What process 0 is told when process 1 fails inside its loss, leaves and lives on."""
    w = torch.ones(()).requires_grad_()

    def loss(rank):
        if rank == 1:
            raise KeyError("failed")
        return w.square()

    started = time.monotonic()
    try:
        with joined(CPU) as processes:
            wrapped = processes.wrap(loss, [w])
            wrapped(processes.rank).backward()
    except (ResourceError, KeyError) as error:
        return [type(error).__name__, str(error), time.monotonic() - started]


LAWS = {
    "no latents": without_latents,
    "uneven shards": lambda processes: without_latents(processes, num=7),
    "autoencoder": autoencoder,
    "autoencoder, uneven shards": lambda processes: autoencoder(processes, num=7),
    "pair": pair,
    "unused parameters": unused,
    "two players": two_players,
}


def main(folder):
    torch.set_num_threads(1)
    with joined(CPU) as processes:
        results = {name: law(processes) for name, law in LAWS.items()}
        results["mutant, uneven"] = without_latents(processes, 7, own_mean)
        results["mutant, even"] = without_latents(processes, 8, own_mean)
        results["buffers"] = buffers(processes)
        results["numbers"] = numbers(processes)
        with joined(CPU) as inner:  # of which fit makes one, within that of the command
            results["nested"] = [inner.rank, inner.size]
        results["still there"] = processes.any(True)
    for _ in range(3):
        with joined(CPU) as processes:
            results["again"] = processes.sum(torch.ones(1)).item()
    results["fit"] = distributed_fit.given_noise(NoisyAutoencoder(), data)
    results["resumed"] = distributed_fit.resumed(Path(folder))
    results["refusals"] = distributed_fit.refusals(Path(folder))
    results["afterwards"] = afterwards()
    results["desertion"] = desertion()
    Path(folder, f"{os.environ['RANK']}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
