"""The picture of flows in the plane; `python tutorials/figures/flows_2d.py` trains twelve, five minutes on one core.

Rows are data sets and columns the data, and the densities of RealNVP, a masked autoregressive flow and a neural spline
flow after 30 epochs, with their mean test log p(x) in nats.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import torch

import pyro_dgm as dgm
from pyro_dgm.models import maf, neural_spline_flow, real_nvp

EPOCHS = 30
DATA = {
    "moons": dgm.data.Moons,
    "rings": dgm.data.Rings,
    "pinwheel": dgm.data.Pinwheel,
    "checkerboard": dgm.data.Checkerboard,
}
FLOWS = {
    "RealNVP": lambda: real_nvp((2,), num_layers=8, hidden=(64, 64)),
    "masked autoregressive": lambda: maf((2,), num_layers=8, hidden=(64, 64)),
    "neural spline": lambda: neural_spline_flow((2,), num_layers=4, hidden=(64, 64)),
}


def trained(make, data):
    torch.manual_seed(0)
    flow = make()
    dgm.fit(
        flow,
        dgm.objectives.ELBO(),
        data,
        epochs=EPOCHS,
        batch_size=200,
        clip_norm=1.0,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=2e-3),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS),
        ema=0.99,
        progress=False,
    )
    return flow


def main() -> None:
    torch.set_num_threads(1)
    figure, axes = plt.subplots(len(DATA), len(FLOWS) + 1, figsize=(8, 8.2))
    for place, (name, make_data) in enumerate(DATA.items()):
        row = axes[place]
        data = make_data()
        x = data.test.x
        middle, reach = (x.amax(0) + x.amin(0)) / 2, 0.55 * (x.amax(0) - x.amin(0)).max()
        sides = [torch.linspace(-1, 1, 200) * reach + centre for centre in middle]
        extent = (sides[0][0], sides[0][-1], sides[1][0], sides[1][-1])
        row[0].scatter(*x[:4000].T, s=0.3, color="black")
        row[0].set(xlim=extent[:2], ylim=extent[2:])
        row[0].set_ylabel(name)
        for axis, (kind, make) in zip(row[1:], FLOWS.items(), strict=True):
            flow = trained(make, data)
            with torch.no_grad():
                density = flow().log_prob(torch.cartesian_prod(*sides)).exp().reshape(200, 200)
                nats = flow().log_prob(x).mean().item()
            axis.imshow(
                density.T.clamp(max=density.quantile(0.998).item()),
                origin="lower",
                extent=extent,
                cmap="magma",
            )
            axis.set_title(f"{'' if place else kind}\n{nats:.2f}", fontsize=9)
            print(f"{name} {kind}: {nats:.3f}", flush=True)
    axes[0, 0].set_title("data\n", fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect="equal")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)


if __name__ == "__main__":
    main()
