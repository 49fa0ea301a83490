"""Validation: the mean objective on held-out data, which leaves training as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pyro_dgm.training.batches import Split
from pyro_dgm.training.random_state import forked


@contextmanager
def evaluating(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Block in which all modules are in evaluation mode; each submodule then gets its own mode back.

    Args:
        modules: the modules.
    """
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def validation_loss(
    evaluate_loss: Callable[..., float],
    split: Split,
    *,
    batch_size: int,
    modules: Iterable[nn.Module],
    device: torch.device,
    seed: int,
) -> float:
    """Mean loss per datum, in evaluation mode and without gradients.

    The noise is drawn anew from `seed` each time, so that one validation is comparable with the next; the
    random state of training is put back.

    Args:
        evaluate_loss: gives the loss summed over a batch.
        split: held-out data; all of them count, the last batch may be smaller.
        batch_size: number of data at a time.
        modules: what is put into evaluation mode.
        device: where noise is drawn.
        seed: of the noise.
    """
    total = 0.0
    with evaluating(modules), torch.no_grad(), forked(device, seed=seed):
        for index in torch.arange(len(split), device=device).split(batch_size):
            total += evaluate_loss(*split.batch(index))
    return total / len(split)
