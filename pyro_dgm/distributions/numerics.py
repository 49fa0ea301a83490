"""From a network's raw output to parameters of distributions and to draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def positive(raw: Tensor, floor: float) -> Tensor:
    """A positive number from a real one: floor + softplus(raw).

    Softplus rather than exp, because a first bad output of a network then grows linearly and does not
    overflow; for very negative inputs the two agree.

    Args:
        raw: any real tensor.
        floor: the smallest value that can be returned.

    Example:
        >>> positive(torch.tensor([-100.0, 100.0]), 0.5)
        tensor([  0.5000, 100.5000])
    """
    return floor + nn.functional.softplus(raw)


def at_least_float32(raw: Tensor) -> Tensor:
    """The tensor itself, or its float32 copy if it comes from a half-precision network.

    A log-probability summed over a thousand pixels has no correct digit after the point in bfloat16.

    Args:
        raw: a floating-point tensor.

    Example:
        >>> at_least_float32(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return raw.to(torch.promote_types(raw.dtype, torch.float32))


def draw_categories(logits: Tensor, shape: torch.Size) -> Tensor:
    """Numbers of categories, each with probability softmax(logits), by one uniform number for each.

    A compiled step takes this in, where it would call ``torch.multinomial`` from outside.

    Args:
        logits: unnormalised log-probabilities, (..., K).
        shape: shape of the draws, (*sample_shape, ...).

    Example:
        >>> draw_categories(torch.tensor([0.0, 100.0, 0.0]), torch.Size([2]))
        tensor([1, 1])
    """
    cumulative = logits.softmax(-1).cumsum(-1)
    uniform = torch.rand(shape, dtype=logits.dtype, device=logits.device).unsqueeze(-1)
    # The last sum may fall short of one by rounding: the least uniform above it is the last category.
    return (cumulative[..., :-1] <= uniform).sum(-1)
