"""Pieces for data: modules that turn a decoder's output into a distribution of x."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from pyro.distributions import Bernoulli, Independent, Normal, TorchDistribution
from torch import Tensor, nn

from pyro_dgm.distributions.beta_binomial import GridBetaBinomial
from pyro_dgm.distributions.discretized_logistic import DiscretizedLogistic
from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.errors import InvalidInput


class Observation(nn.Module, ABC):
    """A module from a decoder's output to a distribution of event shape ``data_shape``; abstract.

    Half-precision decoder outputs are taken to float32 first, so that log-probabilities are float32. The buffer
    ``offset``, zero until :meth:`center`, is added to them.

    Args:
        data_shape: shape of one datum.
        num_params: numbers that the decoder gives for each element of a datum.
        levels: number of grey levels of discrete data in [0, 1]; None for continuous data.

    Raises:
        InvalidInput: a size below one, fewer than two levels, or decoder outputs of another shape.
    """

    offset: Tensor

    def __init__(self, data_shape: Sequence[int], num_params: int, levels: int | None) -> None:
        super().__init__()
        if any(size < 1 for size in data_shape):
            raise InvalidInput(
                "bad size", where="data_shape", value=tuple(data_shape), expected="integers >= 1"
            )
        if levels is not None and levels < 2:
            raise InvalidInput(
                "too few grey levels", where="levels", value=levels, expected="an integer >= 2"
            )
        self.data_shape = tuple(data_shape)
        self.num_params = num_params
        self.levels = levels
        self.register_buffer("offset", torch.zeros(num_params, *self.data_shape))

    @torch.no_grad()
    def center(self, x: Tensor) -> None:
        """Moves the offset, if it is still zero, so that a decoder output of zero stands for the mean of ``x``.

        Args:
            x: data (N, *data_shape).
        """
        if not bool(self.offset.any()):
            self.offset.copy_(self._centered(x))

    @abstractmethod
    def _centered(self, x: Tensor) -> Tensor:
        """Decoder outputs (num_params, *data_shape) that stand for the mean of data (N, *data_shape)."""

    @abstractmethod
    def _elements(self, raw: Tensor, index: Tensor | None) -> TorchDistribution:
        """Distribution of single elements, batch shape (...), for outputs (..., num_params) of at least float32.

        The elements are those at the flat positions ``index``, (k,), along the last batch dimension; all, in the
        last dimensions *data_shape, where it is None.
        """

    def forward(self, params: Tensor) -> Independent:
        """The distribution of x for decoder outputs ``params``, (..., num_params, *data_shape)."""
        expected = (self.num_params, *self.data_shape)
        if params.shape[-len(expected) :] != torch.Size(expected):
            raise InvalidInput(
                "wrong decoder output shape",
                where=f"{type(self).__name__} input",
                value=tuple(params.shape),
                expected=f"(..., {', '.join(map(str, expected))}): num_params, then data_shape",
            )
        raw = at_least_float32(params + self.offset).movedim(-len(expected), -1)
        return self._elements(raw, None).to_event(len(self.data_shape))

    def at(self, params: Tensor, index: Tensor) -> TorchDistribution:
        """The distribution of some elements of x alone, for their share of the decoder outputs.

        Args:
            params: outputs, (..., num_params, k).
            index: positions of the elements in a flattened datum, (k,).

        Returns:
            A distribution of batch shape (..., k) and event shape ().
        """
        raw = at_least_float32(params + self.offset.flatten(1)[:, index]).movedim(-2, -1)
        return self._elements(raw, index)


class BernoulliObservation(Observation):
    """Independent binary elements, P(x_i = 1) = sigmoid(params_i).

    Args:
        data_shape: shape of one datum.

    Raises:
        InvalidInput: see Observation.
        ValueError: from ``log_prob``, with Pyro's validation on, for values other than 0 and 1.

    Example:
        >>> observation = BernoulliObservation((1, 8, 8))
        >>> observation(torch.zeros(50, 20, 1, 1, 8, 8)).log_prob(torch.ones(20, 1, 8, 8)).shape
        torch.Size([50, 20])
    """

    def __init__(self, data_shape: Sequence[int]) -> None:
        super().__init__(data_shape, num_params=1, levels=2)

    def _centered(self, x: Tensor) -> Tensor:
        return x.mean(0).clamp(1e-3, 1 - 1e-3).logit().unsqueeze(0)

    def _elements(self, raw: Tensor, index: Tensor | None) -> Bernoulli:
        return Bernoulli(logits=raw.squeeze(-1))


class NormalObservation(Observation):
    """Independent real elements, x_i ~ Normal(params_i, scale_i), with a floor under the scale.

    By default the scale is a parameter of the module, one for each element of a datum and the same for all
    data: scale = scale_floor + exp(log_scale). With ``heteroscedastic`` the decoder gives it for every
    datum: scale = scale_floor + softplus(params[..., 1, *data]). The floor bounds the log-density of each
    element by -log(scale_floor sqrt(2 pi)): without it, one constant element would drive the bound to
    infinity.

    Args:
        data_shape: shape of one datum.
        heteroscedastic: let the decoder give the scale; ``num_params`` is then 2.
        scale_floor: the smallest scale, in units of the data.

    Raises:
        InvalidInput: see Observation; or a floor that is not positive.

    Example:
        >>> observation = NormalObservation((3,))
        >>> observation(torch.zeros(5, 1, 3)).stddev[0]
        tensor([1.0010, 1.0010, 1.0010], grad_fn=<SelectBackward0>)
    """

    def __init__(
        self, data_shape: Sequence[int], *, heteroscedastic: bool = False, scale_floor: float = 1e-3
    ) -> None:
        super().__init__(data_shape, num_params=2 if heteroscedastic else 1, levels=None)
        if not scale_floor > 0:
            raise InvalidInput("bad floor", where="scale_floor", value=scale_floor, expected="a number > 0")
        self.scale_floor = scale_floor
        self.log_scale = None if heteroscedastic else nn.Parameter(torch.zeros(self.data_shape))

    def _centered(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean(0), *torch.zeros_like(self.offset[1:])])

    def _elements(self, raw: Tensor, index: Tensor | None) -> Normal:
        if self.log_scale is None:
            loc, raw_scale = raw.unbind(-1)
            return Normal(loc, positive(raw_scale, self.scale_floor))
        log_scale = self.log_scale if index is None else self.log_scale.flatten()[index]
        return Normal(raw.squeeze(-1), self.scale_floor + at_least_float32(log_scale).exp())


class DiscretizedLogisticObservation(Observation):
    """Independent grey levels, each a logistic variable rounded to the grid k/(levels-1).

    The decoder gives loc and a raw scale, both in units of the data (black 0, white 1):
    scale = scale_floor / (levels - 1) + softplus(raw).

    Args:
        data_shape: shape of one datum.
        levels: number of grey levels, at least 2.
        scale_floor: the smallest scale of the logistic, in grey levels. At the default a level in the centre
            has probability 1 - 9e-5 at most; the darkest and the brightest level may come as near to one as
            floating point allows.

    Raises:
        InvalidInput: see Observation; or a floor that is not positive.
        ValueError: from ``log_prob``, with Pyro's validation on, for values off the grid.

    Example:
        >>> observation = DiscretizedLogisticObservation((1, 8, 8), levels=17)
        >>> observation(torch.zeros(20, 2, 1, 8, 8)).log_prob(torch.ones(20, 1, 8, 8)).shape
        torch.Size([20])
    """

    levels: int

    def __init__(self, data_shape: Sequence[int], levels: int = 256, *, scale_floor: float = 0.05) -> None:
        super().__init__(data_shape, num_params=2, levels=levels)
        if not scale_floor > 0:
            raise InvalidInput("bad floor", where="scale_floor", value=scale_floor, expected="a number > 0")
        self.scale_floor = scale_floor

    def _centered(self, x: Tensor) -> Tensor:
        mean = x.mean(0)
        return torch.stack([mean, torch.zeros_like(mean)])

    def _elements(self, raw: Tensor, index: Tensor | None) -> DiscretizedLogistic:
        loc, raw_scale = raw.unbind(-1)
        scale = positive(raw_scale, self.scale_floor / (self.levels - 1))
        return DiscretizedLogistic(loc, scale, levels=self.levels)


class BetaBinomialObservation(Observation):
    """Independent grey levels, each a beta-binomial count out of levels - 1.

    The decoder gives two raw numbers for each element; the concentrations of white and of black are
    concentration_floor + softplus(raw).

    Args:
        data_shape: shape of one datum.
        levels: number of grey levels, at least 2.
        concentration_floor: the smallest concentration, without unit.

    Raises:
        InvalidInput: see Observation; or a floor that is not positive.
        ValueError: from ``log_prob``, with Pyro's validation on, for values off the grid.

    Example:
        >>> observation = BetaBinomialObservation((1, 8, 8), levels=17)
        >>> observation(torch.zeros(20, 2, 1, 8, 8)).log_prob(torch.ones(20, 1, 8, 8)).shape
        torch.Size([20])
    """

    levels: int

    def __init__(
        self, data_shape: Sequence[int], levels: int = 256, *, concentration_floor: float = 1e-4
    ) -> None:
        super().__init__(data_shape, num_params=2, levels=levels)
        if not concentration_floor > 0:
            raise InvalidInput(
                "bad floor", where="concentration_floor", value=concentration_floor, expected="a number > 0"
            )
        self.concentration_floor = concentration_floor

    def _centered(self, x: Tensor) -> Tensor:
        white = x.mean(0).clamp(1e-3, 1 - 1e-3)
        concentrations = torch.stack([white, 1 - white]) * 2 * math.log(2)  # as much in all as at zero
        return concentrations.expm1().log()  # softplus undone

    def _elements(self, raw: Tensor, index: Tensor | None) -> GridBetaBinomial:
        white, black = positive(raw, self.concentration_floor).unbind(-1)
        return GridBetaBinomial(white, black, levels=self.levels)
