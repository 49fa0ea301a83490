"""What models are made of where nothing else is passed in."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pyro_dgm.errors import InvalidInput
from pyro_dgm.nets import MLP, FlattenEvent


def require_dimensions(data_shape: Sequence[int], latent_dim: int) -> tuple[int, ...]:
    """The shape of a datum as a tuple; raises InvalidInput where it, or z, has no dimensions."""
    data_shape = tuple(data_shape)
    if latent_dim < 1 or min(data_shape, default=0) < 1:
        where, value = ("latent_dim", latent_dim) if latent_dim < 1 else ("data_shape", data_shape)
        raise InvalidInput("no dimensions", where=where, value=value, expected="integers >= 1")
    return data_shape


def params_shape(observation: Any, data_shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of what an observation takes for one datum, (num_params, *data_shape).

    Raises:
        InvalidInput: a piece that does not say how many parameters it takes, one at least.
    """
    number = getattr(observation, "num_params", 0)
    try:
        number = int(operator.index(number))
    except TypeError:
        number = 0
    if number < 1:
        raise InvalidInput(
            "a piece that does not say how many parameters it takes for each element of a datum",
            where="observation",
            value=type(observation).__name__,
            expected="a module with an integer num_params >= 1 that returns a distribution",
            cure="BernoulliObservation(data_shape), or self.num_params = 2 in a piece of your own",
        )
    return (number, *data_shape)


def mlp_encoder(
    data_shape: tuple[int, ...], hidden: Sequence[int], activation: Callable[[], nn.Module]
) -> nn.Module:
    """Network from data (..., *data_shape) to features (..., hidden[-1])."""
    mlp = MLP(math.prod(data_shape), hidden[:-1], hidden[-1], activation=activation)
    return nn.Sequential(FlattenEvent(data_shape), mlp, activation())


def mlp_decoder(
    in_features: int,
    hidden: Sequence[int],
    observation: Any,
    data_shape: tuple[int, ...],
    activation: Callable[[], nn.Module],
) -> nn.Module:
    """Network, with an encoder's widths in reverse, to the parameters of an observation of data of that shape."""
    return MLP(in_features, hidden[::-1], params_shape(observation, data_shape), activation=activation)


def mean_or_draw(p: Any) -> Tensor:
    """Mean of a distribution; a draw where it is not known, as that of a flow or an autoregressive model."""
    try:
        mean: Tensor = p.mean
    except NotImplementedError:
        mean = p.sample()
    return mean
