"""Flows of natural patches beside zuko's and nflows', trained in one run; `python -m tests.benchmarks.flow_densities`.

They have the same layers, widths and activations, and ours stands there once more as it comes by default
(``flow_architectures``). All are trained in turns, step by step, on the same batches of standardised data, by Adam with
one learning rate that falls to zero along half a cosine, gradients clipped to a norm of 10. After each epoch all are
validated; the weights of the best epoch are tested. Printed for each: mean test log-likelihood of the data before they
are standardised with its standard error, best epoch, number of parameters, and median processor milliseconds of a step
of one core; then the mean differences of ours to the others on the same data, with their standard errors.

Needs the extra `peers`, and the patches in the folder that `PYRO_DGM_DATA` names (see ``pyro_dgm.data.BSDS300``).
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time

import torch

from pyro_dgm.data import BSDS300
from tests.benchmarks.flow_architectures import ARCHITECTURES

LAYERS = {"maf": 5, "real_nvp": 10, "spline": 5}


@torch.no_grad()
def log_likelihoods(flow, x, log_scale):
    """log p of each datum, (n,), in the units of the data."""
    return torch.cat([flow().log_prob(part) for part in x.split(5000)]) - log_scale


def told(nats):
    """The mean of each datum's, and its standard error."""
    return f"{nats.mean().item():.3f} +- {nats.std().item() / math.sqrt(len(nats)):.3f} nats"


def step(flow, optimizer, batch):
    start = time.process_time()
    loss = -flow().log_prob(batch).mean()
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
    optimizer.step()
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch-size", type=int, default=500)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--lr", type=float, default=1e-3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = BSDS300()
    train = data.train
    whole = train.batch(torch.arange(len(train)))[0]
    mean, scale = whole.mean(0), whole.std(0)
    log_scale = scale.log().sum()
    val, test = ((part.x - mean) / scale for part in (data.val, data.test))
    flows = ARCHITECTURES[arguments.architecture](63, LAYERS[arguments.architecture], arguments.hidden)
    flows["ours by default"].initialize((whole[:5000] - mean) / scale)
    optimizers = {name: torch.optim.Adam(flow.parameters(), lr=arguments.lr) for name, flow in flows.items()}
    steps = len(train) // arguments.batch_size
    times = {name: [] for name in flows}
    best = dict.fromkeys(flows, (-math.inf, 0, None))
    for epoch in range(1, arguments.epochs + 1):
        order = torch.randperm(len(train))
        for number, rows in enumerate(order.split(arguments.batch_size)[:steps]):
            rate = (epoch - 1 + number / steps) / arguments.epochs
            batch = (train.batch(rows)[0] - mean) / scale
            for name, flow in flows.items():
                for group in optimizers[name].param_groups:
                    group["lr"] = 0.5 * arguments.lr * (1 + math.cos(math.pi * rate))
                times[name].append(step(flow, optimizers[name], batch))
        for name, flow in flows.items():
            found = log_likelihoods(flow, val, log_scale).mean().item()
            if found > best[name][0]:
                best[name] = (found, epoch, copy.deepcopy(flow.state_dict()))
        line = "  ".join(f"{name} {best[name][0]:.3f} ({best[name][1]})" for name in flows)
        print(f"epoch {epoch}: best validated {line}", flush=True)
    tested, architecture = {}, arguments.architecture
    for name, flow in flows.items():
        flow.load_state_dict(best[name][2])
        tested[name] = log_likelihoods(flow, test, log_scale)
        count = sum(parameter.numel() for parameter in flow.parameters())
        cost = f"{count} parameters, {1e3 * statistics.median(times[name]):.1f} ms a step"
        print(f"{architecture} {name}: test {told(tested[name])}, epoch {best[name][1]}, {cost}")
    ours = tested.pop("ours")
    for name, others in tested.items():
        print(f"{architecture} ours - {name}, of the same data: {told(ours - others)}")


if __name__ == "__main__":
    main()
