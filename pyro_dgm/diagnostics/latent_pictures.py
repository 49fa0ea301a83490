"""Pictures of latent traversals: what one latent unit does to the images that a model makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pyro_dgm.diagnostics.figures import new_figure, save_figure
from pyro_dgm.diagnostics.pictures import as_colours, tiled
from pyro_dgm.diagnostics.traversals import Traversals, latent_traversals
from pyro_dgm.errors import InvalidInput


def traversal_grid(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    path: Path,
    image_shape: Sequence[int] | None = None,
    **options: Any,
) -> Traversals:
    """Picture of :func:`latent_traversals`: a row for each unit, the most active first.

    Args:
        model: Pyro model with an observed site of images.
        guide: Pyro guide.
        batch: positional arguments of both.
        path: the file to write.
        image_shape: (H, W) or (C, H, W), where the observed site has flat images.
        options: of :func:`latent_traversals`.

    Raises:
        InvalidInput: the observed site holds no images, or what :func:`latent_traversals` raises.
    """
    found = latent_traversals(model, guide, *batch, **options)
    shape = found.means.shape[2:] if image_shape is None else tuple(image_shape)
    if len(shape) not in (2, 3) or np.prod(shape) != np.prod(found.means.shape[2:]):
        raise InvalidInput(
            "no images",
            where=f"site {found.observed!r}",
            value=found.means.shape[2:],
            expected="(H, W) or (C, H, W)",
            cure="image_shape=(H, W) for flat images",
        )
    units, steps = found.means.shape[:2]
    pixels = as_colours(torch.from_numpy(found.means).reshape(units * steps, *shape), found.observed)
    sheet = tiled(pixels, steps, shade=0.6)  # some images have white edges
    height, width = (side + 1 for side in pixels.shape[1:3])
    size = 6.0 / steps
    figure, axes = new_figure(7.0, size * units * height / width + 0.8)
    axes.imshow(sheet.numpy(), interpolation="nearest")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xticks(
        (np.arange(steps) + 0.5) * width, [f"{offset:+.1f}" if offset else "0" for offset in found.offsets]
    )
    axes.set_yticks((np.arange(units) + 0.5) * height, found.units)
    axes.set_xlabel("standard deviations of the unit, from the posterior mean")
    axes.set_ylabel("latent unit, most active first")
    save_figure(figure, path)
    return found
