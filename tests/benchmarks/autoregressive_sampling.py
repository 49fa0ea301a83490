"""Drawing images with what is known kept, and naively; `python -m tests.benchmarks.autoregressive_sampling`.

Images of 28 x 28, on one core. The naive sampler runs the network on the whole images for each pixel; it is timed over
its first `--steps` pixels (all passes are of the same work) and scaled to all of them. The first draws of the two must
agree. Times are processor seconds of one core.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from pyro_dgm import models
from pyro_dgm.distributions.conditionals import naive_conditionals
from tests.benchmarks.rounds import alone

SHAPE = (1, 28, 28)
MODELS = {
    "FVSBN": lambda: models.FVSBN(SHAPE),
    "NADE, 500": lambda: models.NADE(SHAPE, hidden=500),
    "MADE, 2000": lambda: models.MADE(SHAPE, hidden=(2000,)),
    "PixelCNN, 7 blocks of 64": lambda: models.PixelCNN(SHAPE, channels=64, num_layers=7),
    "GatedPixelCNN, 7 layers of 64": lambda: models.GatedPixelCNN(SHAPE, channels=64, num_layers=7),
}


def draw(program, conditionals, number, steps):
    """Values of the first elements, (number, steps), and the seconds that they took."""
    torch.manual_seed(0)
    start, values, value = time.process_time(), [], None
    for _ in range(steps):
        index, params = next(conditionals) if value is None else conditionals.send(value)
        value = program.observation.at(params, index).sample()
        values.append(value)
    return torch.cat(values, -1), time.process_time() - start


@torch.no_grad()
def show(name, number, steps):
    torch.manual_seed(1)
    program, size = MODELS[name]().eval(), 28 * 28
    kept, seconds = draw(program, program.network.conditionals(number), number, size)
    like = torch.zeros(SHAPE)
    network = program.network
    order = getattr(network, "order", None)
    naive = naive_conditionals(lambda x, c: network(x, c), like, number, None, order)
    values, naive_seconds = draw(program, naive, number, steps)
    same = (values == kept[:, :steps]).float().mean().item()
    scaled = naive_seconds * size / steps
    print(
        f"{name:32s}{seconds:10.2f}{scaled:12.1f}{scaled / seconds:10.1f}{same:12.2%}",
        flush=True,
    )


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.autoregressive_sampling", description=__doc__.splitlines()[0]
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--images", type=int, default=64, help="images that are drawn at once")
    parser.add_argument("--steps", type=int, default=8, help="pixels that the naive sampler is timed for")
    options = parser.parse_args(arguments)
    alone()
    title = f"seconds for {options.images} images"
    print(f"{title:32s}{'kept':>10s}{'naive':>12s}{'ratio':>10s}{'same draws':>12s}")

    for name in options.models or MODELS:
        show(name, options.images, options.steps)


if __name__ == "__main__":
    main(sys.argv[1:])
