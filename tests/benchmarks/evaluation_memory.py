"""Peak memory of `log_likelihood`, one process a model; `python -m tests.benchmarks.evaluation_memory [MODEL ...]`.

Models of images of 28 x 28 with the weights that they start from, and 5,000 particles a datum (`--num-particles`). A
process holds 10,000 random images and estimates the first `--num-data` of them. Passes have a fixed size, whatever the
numbers of data and particles, so that the peak is that of all 10,000 images, which would take hours; `--num-data 20 40
80` shows it. DRAW and ConvDRAW, which would take an hour even so, have 140 particles: two whole passes and a part. Of
the autoregressive models, whose log p(x) is exact, all 10,000 images are evaluated. The table has the peak of resident
memory of the whole process, and what it was before the estimate, when data and model were there: most of that is Python
with torch and Pyro.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.svi_costs import _peak as peak

HELD = 10_000  # images
SHAPE = (1, 28, 28)
LIMIT = 2048  # MiB
CONFIGS = {
    "vae": "vae_mnist_static",
    "conv_vae": "conv_vae_mnist_static",
    "vamp_vae": "vampprior_mnist_static",
    "DRAW": "draw_mnist_static",
    "ConvDRAW": "conv_draw_mnist_static",
}
MODELS = ("vae", "conv_vae", "residual_vae", "vamp_vae", "gmvae", "HierarchicalVAE", "LadderVAE", "CVAE")
MODELS += ("DRAW", "ConvDRAW")
PARTICLES = {"DRAW": 140, "ConvDRAW": 140}  # at most
EXACT = {
    "FVSBN": "fvsbn_mnist_static",
    "NADE": "nade_mnist_static",
    "MADE": "made_mnist_static",
    "MADE32": "made32_mnist_static",
    "PixelCNN": "pixelcnn_mnist_static",
    "GatedPixelCNN": "gated_pixelcnn_mnist_static",
    "PixelRNN": "pixelrnn_mnist_static",
}
CONFIGS |= EXACT


def program(name):
    """A program by name, of the sizes of its config where there is one."""
    from pyro_dgm import models
    from pyro_dgm.experiment.build import build
    from pyro_dgm.experiment.config import override, read_config
    from pyro_dgm.experiment.estimate import FUNCTIONS

    if name in CONFIGS:
        path = Path(__file__).parents[2] / "configs" / f"{CONFIGS[name]}.yaml"
        config = override(read_config(path), [("program.init_args.data_shape", str([*SHAPE]))])
        return build(config, FUNCTIONS, sections=["program"])[0].program
    return {
        "residual_vae": lambda: models.conv_vae(SHAPE, 40, num_blocks=1),
        "gmvae": lambda: models.gmvae(SHAPE, 40),
        "HierarchicalVAE": lambda: models.HierarchicalVAE(SHAPE, (100, 50)),
        "LadderVAE": lambda: models.LadderVAE(SHAPE, (32, 16, 8)),
        "CVAE": lambda: models.CVAE(SHAPE, 10, 40),
    }[name]()


def measure(name, num_data, num_particles):
    """What a fresh process finds, as JSON."""
    import torch

    from pyro_dgm.evaluation import log_likelihood

    torch.manual_seed(0)
    made = program(name).eval()
    data = [(torch.rand(HELD, *SHAPE) < 0.2).float()]
    if name == "CVAE":
        data.append(torch.randint(10, (HELD,)))
    before, start = peak(), time.perf_counter()
    batch = [field[:num_data] for field in data]
    found = log_likelihood(made.model, made.guide, *batch, num_particles=num_particles)
    assert found.per_datum.shape == (num_data,)
    seconds = time.perf_counter() - start
    print(json.dumps({"before": before, "peak": peak(), "seconds": seconds}))


def show(name, num_data, num_particles):
    num_particles = 1 if name in EXACT else min(num_particles, PARTICLES.get(name, num_particles))
    command = [sys.executable, "-m", "tests.benchmarks.evaluation_memory", name, "--inside"]
    command += ["--num-data", str(num_data), "--num-particles", str(num_particles)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{name:18s}{num_data:6d}{num_particles:11d}{found['before']:13.0f}{found['peak']:10.0f}"
        f"{found['seconds']:9.1f}" + ("   above 2 GiB" if found["peak"] > LIMIT else ""),
        flush=True,
    )


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.evaluation_memory", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help=f"of {', '.join((*MODELS, *EXACT))}; all by default"
    )
    parser.add_argument(
        "--num-data",
        type=int,
        nargs="+",
        help="images that are estimated; 40, or all where log p(x) is exact",
    )
    parser.add_argument("--num-particles", type=int, default=5000, help="particles of each")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        measure(options.models[0], options.num_data[0], options.num_particles)
        return
    print(f"{'model':18s}{'data':>6s}{'particles':>11s}{'before, MiB':>13s}{'peak':>10s}{'seconds':>9s}")
    for name in options.models or (*MODELS, *EXACT):
        for num_data in options.num_data or [HELD if name in EXACT else 40]:
            show(name, num_data, options.num_particles)


if __name__ == "__main__":
    main(sys.argv[1:])
