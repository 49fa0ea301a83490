"""What all autoregressive models share: an observation, a causal network, and the distribution of the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.distributions import Autoregressive, BernoulliObservation
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.defaults import params_shape
from pyro_dgm.models.tractable import TractableModel


class AutoregressiveModel(TractableModel):
    """Program :math:`p(x | c) = prod_t p(x_t | x_{<t}, c)`; abstract.

    A subclass makes ``network``, from data and context to ``num_params`` parameters of each element given those before
    it.

    Args:
        data_shape: shape of one datum.
        observation: piece p(x | params); Bernoulli elements if None.
        num_classes: number of classes of y; None if y is no label.
        context_shape: shape of one context; () for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel`; an observation of other data, or one that
            does not say how many parameters it takes.
    """

    network: nn.Module

    def __init__(
        self,
        data_shape: Sequence[int],
        observation: nn.Module | None,
        *,
        num_classes: int | None,
        context_shape: Sequence[int],
    ) -> None:
        super().__init__(data_shape, num_classes=num_classes, context_shape=context_shape)
        self.observation = BernoulliObservation(self.data_shape) if observation is None else observation
        (self.num_params, *_) = params_shape(self.observation, self.data_shape)
        self._try_observation()

    def forward(self, c: Tensor | None = None) -> Autoregressive:
        """The distribution p(x | c)."""
        return self.of(self.network, c)

    def of(self, network: Callable[..., Tensor], c: Tensor | None, **options: Any) -> Autoregressive:
        """The distribution of a network's outputs; ``options`` are those of :class:`Autoregressive`."""
        self.check_context(c)
        dims = len(self.context_shape)
        return Autoregressive(
            network, self.observation, c, event_shape=self.data_shape, context_dims=dims, **options
        )

    @property
    def context_features(self) -> int:
        """Size of a context, which must be a vector; 0 for none."""
        if len(self.context_shape) > 1:
            raise InvalidInput(
                "a context of several dimensions",
                where="context_shape",
                value=self.context_shape,
                expected="(features,), or () for none",
                cure=f"({math.prod(self.context_shape)},), with a Flatten before it",
            )
        return sum(self.context_shape)

    @torch.no_grad()
    def _try_observation(self) -> None:
        """Raises where the observation is of other data."""
        value: Any
        try:
            shape = self.observation(torch.zeros(self.num_params, *self.data_shape)).event_shape
            value, fits = tuple(shape), shape == self.data_shape
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            value, fits = str(error).split("\n")[0], False
        if not fits:
            raise InvalidInput(
                "pieces that do not fit",
                where=f"observation of {type(self).__name__}",
                value=value,
                expected=f"a distribution of event shape {self.data_shape} for {self.num_params} parameters each",
            )
