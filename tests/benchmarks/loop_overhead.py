"""Time of a step under `fit` beside the bare step, side by side; `python -m tests.benchmarks.loop_overhead`.

Bare means: gather the batch, loss / batch size, backward, optimiser step, nothing checked and nothing recorded. Both
have the same program, objective, data, fused Adam and flushed denormals, Pyro's argument checks off (`fit` turns them
off after its first epoch), and take turns in short rounds; the table shows the median of the ratios of neighbouring
rounds.
"""

from __future__ import annotations

import statistics
import time

import pyro
import torch

from pyro_dgm.data import Arrays, Digits
from pyro_dgm.models import VAE
from pyro_dgm.objectives import ELBO
from pyro_dgm.objectives.player import adam
from pyro_dgm.training import fit

ROUNDS = 15
BATCH = 128


def bare(vae, objective, optimizer, split, steps):
    """Seconds a step of the loop that anyone would write."""
    vae.train()
    generator = torch.Generator().manual_seed(0)
    done = 0
    start = time.perf_counter()
    while done < steps:
        for index in torch.randperm(len(split), generator=generator).split(BATCH)[: len(split) // BATCH]:
            (x,) = split.batch(index)
            optimizer.zero_grad()
            loss = objective(vae.model, vae.guide, x) / BATCH
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
    return (time.perf_counter() - start) / steps


def fitted(vae, objective, split, steps):
    """Seconds a step of `fit`, its preparations included."""
    start = time.perf_counter()
    fit(vae, objective, split, steps=steps, batch_size=BATCH, progress=False)
    return (time.perf_counter() - start) / steps


def compare(name, split, data_shape, hidden, latent_dim, steps):
    torch.manual_seed(0)
    vae = VAE(data_shape, latent_dim, hidden=hidden)
    objective = ELBO()
    optimizer = adam(vae.parameters())
    ratios, plain, ours = [], [], []
    for i in range(ROUNDS + 1):
        if i % 2:
            b, f = bare(vae, objective, optimizer, split, steps), fitted(vae, objective, split, steps)
        else:
            f, b = fitted(vae, objective, split, steps), bare(vae, objective, optimizer, split, steps)
        if i:  # the first round warms up
            ratios.append(f / b)
            plain.append(b)
            ours.append(f)
    print(
        f"{name:28s} bare {1e3 * statistics.median(plain):6.2f} ms   fit {1e3 * statistics.median(ours):6.2f} ms   "
        f"ratio {statistics.median(ratios):.3f} (quartiles {_quartiles(ratios)})"
    )


def _quartiles(ratios):
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{low:.3f} {high:.3f}"


def main():
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    pyro.enable_validation(False)
    digits = Digits(binarize="dynamic").train
    compare("digits 64-200-200-8", digits, (1, 8, 8), (200, 200), 8, 200)
    random = Arrays(
        (torch.rand(10_000, 1, 28, 28, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    ).train
    compare("MNIST-sized 784-200-200-50", random, (1, 28, 28), (200, 200), 50, 60)


if __name__ == "__main__":
    main()
