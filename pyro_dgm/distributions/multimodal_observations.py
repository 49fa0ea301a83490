"""Pieces for data whose elements may have several modes: any pmf on grey levels, and mixtures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import Categorical, MixtureSameFamily, Normal
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.discretized_logistic import DiscretizedLogistic
from pyro_dgm.distributions.grid_categorical import GridCategorical
from pyro_dgm.distributions.numerics import draw_categories, positive
from pyro_dgm.distributions.observations import Observation
from pyro_dgm.errors import InvalidInput


class _Mixture(MixtureSameFamily):
    """A mixture with the support of its components, which is the same for all, and with draws that compile.

    Torch's own support is a union of sets, which no bijection is registered for: a latent of it would know neither NUTS
    nor autoguides.
    """

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return self.component_distribution.support

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draws of all components, of which one is taken, (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            k = draw_categories(self.mixture_distribution.logits, self._extended_shape(sample_shape))
            of_all = self.component_distribution.sample(torch.Size(sample_shape))
            return of_all.gather(-1, k.unsqueeze(-1)).squeeze(-1)


class CategoricalObservation(Observation):
    """Independent grey levels with a probability each: softmax of as many parameters as there are levels.

    :meth:`~pyro_dgm.distributions.Observation.center` starts it at the frequencies of each element's levels, with one
    count added to each.

    Args:
        data_shape: shape of one datum.
        levels: number of grey levels, at least 2.

    Raises:
        InvalidInput: see Observation.
        ValueError: from ``log_prob``, with Pyro's validation on, for values off the grid k/(levels-1).

    Example:
        >>> observation = CategoricalObservation((1, 8, 8), levels=17)
        >>> observation(torch.zeros(20, 17, 1, 8, 8)).log_prob(torch.ones(20, 1, 8, 8)).shape
        torch.Size([20])
    """

    levels: int

    def __init__(self, data_shape: Sequence[int], levels: int = 256) -> None:
        super().__init__(data_shape, num_params=levels, levels=levels)

    def _centered(self, x: Tensor) -> Tensor:
        k = (x * (self.levels - 1)).round().long().clamp(0, self.levels - 1)  # log_prob refuses others
        counts = torch.ones_like(self.offset).scatter_add_(0, k, torch.ones_like(x))
        return (counts / counts.sum(0)).log()

    def _elements(self, raw: Tensor, index: Tensor | None) -> GridCategorical:
        return GridCategorical(raw)


class _MixtureObservation(Observation):
    """Independent elements, each a mixture of K components with a location and a scale; abstract."""

    def __init__(self, data_shape: Sequence[int], num_components: int, levels: int | None) -> None:
        if num_components < 1:
            raise InvalidInput(
                "no components", where="num_components", value=num_components, expected="an integer >= 1"
            )
        super().__init__(data_shape, num_params=3 * num_components, levels=levels)
        self.num_components = num_components

    def _centered(self, x: Tensor) -> Tensor:
        mean, deviation = x.mean(0), x.std(0, correction=0)
        # Spread, since components that are equal stay equal but for the noise of the network before them.
        places = torch.linspace(-1.0, 1.0, self.num_components, dtype=x.dtype, device=x.device)
        places = places - places.mean()  # one component stands at the mean
        locs = mean + deviation * places.reshape(-1, *(1,) * mean.dim())
        raw_scales = deviation.clamp(min=1e-4).expm1().log().expand_as(locs)  # softplus undone
        return torch.cat([torch.zeros_like(locs), locs, raw_scales])


class DiscretizedLogisticMixtureObservation(_MixtureObservation):
    """Independent grey levels, each a mixture of logistic variables rounded to the grid k/(levels-1).

    The network gives K logits, K locs and K raw scales for each element, locs and scales in units of the data (black
    0, white 1): scale = scale_floor / (levels - 1) + softplus(raw).

    Args:
        data_shape: shape of one datum.
        levels: number of grey levels, at least 2; 65536 for 16-bit audio.
        num_components: number K of components.
        scale_floor: the smallest scale of a component, in grey levels.

    Raises:
        InvalidInput: see Observation; no components, or a floor that is not positive.
        ValueError: from ``log_prob``, with Pyro's validation on, for values off the grid.

    Example:
        >>> observation = DiscretizedLogisticMixtureObservation((1, 8, 8), levels=17, num_components=5)
        >>> observation(torch.zeros(20, 15, 1, 8, 8)).log_prob(torch.ones(20, 1, 8, 8)).shape
        torch.Size([20])

    Reference: PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture Likelihood and Other
    Modifications (Salimans, Karpathy, Chen, Kingma, 2017).
    """

    levels: int

    def __init__(
        self,
        data_shape: Sequence[int],
        levels: int = 256,
        *,
        num_components: int = 10,
        scale_floor: float = 0.05,
    ) -> None:
        super().__init__(data_shape, num_components, levels)
        if not scale_floor > 0:
            raise InvalidInput("bad floor", where="scale_floor", value=scale_floor, expected="a number > 0")
        self.scale_floor = scale_floor

    def _elements(self, raw: Tensor, index: Tensor | None) -> _Mixture:
        logits, loc, raw_scale = raw.chunk(3, dim=-1)
        scale = positive(raw_scale, self.scale_floor / (self.levels - 1))
        return _Mixture(Categorical(logits=logits), DiscretizedLogistic(loc, scale, levels=self.levels))


class NormalMixtureObservation(_MixtureObservation):
    """Independent real elements, each a mixture of normal variables, with a floor under the scales.

    The network gives K logits, K locs and K raw scales for each element: scale = scale_floor + softplus(raw).

    Args:
        data_shape: shape of one datum.
        num_components: number K of components.
        scale_floor: the smallest scale, in units of the data; it keeps a component from shrinking to a point.

    Raises:
        InvalidInput: see Observation; no components, or a floor that is not positive.

    Example:
        >>> observation = NormalMixtureObservation((3,), num_components=5)
        >>> observation(torch.zeros(20, 15, 3)).log_prob(torch.ones(20, 3)).shape
        torch.Size([20])

    Reference: RNADE: the real-valued neural autoregressive density-estimator (Uria, Murray, Larochelle, 2013).
    """

    def __init__(
        self, data_shape: Sequence[int], *, num_components: int = 10, scale_floor: float = 1e-3
    ) -> None:
        super().__init__(data_shape, num_components, levels=None)
        if not scale_floor > 0:
            raise InvalidInput("bad floor", where="scale_floor", value=scale_floor, expected="a number > 0")
        self.scale_floor = scale_floor

    def _elements(self, raw: Tensor, index: Tensor | None) -> _Mixture:
        logits, loc, raw_scale = raw.chunk(3, dim=-1)
        return _Mixture(Categorical(logits=logits), Normal(loc, positive(raw_scale, self.scale_floor)))
