"""Exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput


class WeightAverage:
    r"""Exponential moving average of named parameters.

    .. math:: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t) \theta_t,
        \qquad d_t = \min\bigl(d, \tfrac{1 + t}{10 + t}\bigr)

    The smaller first decays let go of the initial values. Buffers are not averaged.

    Args:
        parameters: pairs of name and parameter, as ``module.named_parameters()`` gives.
        decay: d, in (0, 1); 0.999 averages over about the last thousand steps.

    Raises:
        InvalidInput: a decay outside (0, 1), or no parameters.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor(0.0))
        >>> average = WeightAverage([("w", w)], decay=0.5)
        >>> w.data.fill_(1.0), average.update()  # d_1 = 2 / 11
        (tensor(1.), None)
        >>> with average.swapped():
        ...     round(w.item(), 4)
        0.8182

    Reference:
        Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]], *, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise InvalidInput(
                "bad decay", where="ema", value=decay, expected="between 0 and 1", cure="0.999"
            )
        self.decay = decay
        self.count = 0
        self._live = dict(parameters)
        if not self._live:
            raise InvalidInput(
                "nothing to average", where="ema", expected="a program with parameters", cure="ema=None"
            )
        self.values = {name: p.detach().clone() for name, p in self._live.items()}
        # Lists made once: the update runs after every step.
        self._pairs = [p.detach() for p in self._live.values()], list(self.values.values())

    def update(self) -> None:
        """Takes the parameters of now into the average."""
        self.count += 1
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        live, averages = self._pairs
        torch._foreach_lerp_(averages, live, 1.0 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Block in which the parameters hold the averages."""
        live, averages = self._pairs
        kept = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, averages)
        try:
            yield
        finally:
            torch._foreach_copy_(live, kept)

    def apply(self) -> None:
        """Leaves the averages in the parameters."""
        live, averages = self._pairs
        torch._foreach_copy_(live, averages)
