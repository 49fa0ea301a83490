"""Mixtures of many diagonal normals, with densities by matrix products."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import Categorical, MixtureSameFamily, Normal, constraints
from torch import Tensor


class DiagonalNormalMixture(MixtureSameFamily):
    r"""Mixture of normals with diagonal covariances.

    .. math:: p(z) = \sum_{k=1}^K \pi_k \prod_{d=1}^D \mathcal N(z_d \mid \mu_{kd}, s_{kd}^2)

    It is ``MixtureSameFamily`` of ``Categorical`` and ``Normal(...).to_event(1)``, made for hundreds of components.
    A single mixture (parameters without batch shape) never forms the (..., K, D) differences: the quadratic form is

    .. math:: \sum_d (z_d - \mu_{kd})^2 / s_{kd}^2
              = \sum_d z_d^2 / s_{kd}^2 - 2 \sum_d z_d \mu_{kd} / s_{kd}^2 + \sum_d \mu_{kd}^2 / s_{kd}^2,

    two matrix products. Its terms cancel where scales are small, so it is computed in float64; the sum over
    components is in the type of the arguments. ``expand``, which Pyro's plates call, keeps this. Mixtures whose
    parameters have a batch shape use the plain formula.

    Args:
        logits: unnormalised log pi, (..., K).
        loc: means mu, (..., K, D).
        scale: standard deviations s > 0, (..., K, D).
        validate_args: whether arguments and values are checked; as set in Pyro by default.

    Raises:
        ValueError: with validation on, shapes that do not fit, or arguments outside their constraints.

    Example:
        >>> mixture = DiagonalNormalMixture(torch.zeros(500), torch.randn(500, 40), torch.ones(500, 40))
        >>> mixture.log_prob(torch.zeros(50, 20, 40)).shape  # (particles, batch, latent)
        torch.Size([50, 20])
        >>> mixture.responsibilities(torch.zeros(20, 40)).probs.shape
        torch.Size([20, 500])
    """

    support = constraints.real_vector
    _single: tuple[Tensor, Tensor, Tensor] | None

    def __init__(
        self, logits: Tensor, loc: Tensor, scale: Tensor, *, validate_args: bool | None = None
    ) -> None:
        components = Normal(loc, scale, validate_args=validate_args).to_event(1)
        super().__init__(Categorical(logits=logits, validate_args=validate_args), components, validate_args)
        is_single = logits.dim() == 1 and components.batch_shape == logits.shape
        self._single = (self.mixture_distribution.logits, loc, scale) if is_single else None

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiagonalNormalMixture:
        new = super().expand(batch_shape, self._get_checked_instance(DiagonalNormalMixture, _instance))
        new._single = self._single
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(z), ``value`` (..., D) to (...)."""
        if self._validate_args:
            self._validate_sample(value)
        return self._log_joint(value).logsumexp(-1)

    def responsibilities(self, value: Tensor) -> Categorical:
        """The distribution p(k | z) of the component, ``value`` (..., D) to batch shape (...)."""
        return Categorical(logits=self._log_joint(value), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """Draws z, (*sample_shape, *batch_shape, D): a component each, then a normal of that component."""
        if self._single is None:
            return super().sample(sample_shape)
        _, loc, scale = self._single
        with torch.no_grad():
            k = self.mixture_distribution.sample(sample_shape)
            return torch.normal(loc[k], scale[k])

    def __repr__(self) -> str:
        shapes = f"batch_shape: {tuple(self.batch_shape)}, event_shape: {tuple(self.event_shape)}"
        return f"{type(self).__name__}(num_components: {self._num_component}, {shapes})"

    def _log_joint(self, value: Tensor) -> Tensor:
        """log p(z, k), (..., K)."""
        if self._single is None:
            log_weights = self.mixture_distribution.logits
            return self.component_distribution.log_prob(value.unsqueeze(-2)) + log_weights
        log_weights, loc, scale = (part.double() for part in self._single)
        precision = scale.square().reciprocal()  # (K, D)
        constant = log_weights - (0.5 * loc.square() * precision + scale.log()).sum(-1)
        constant = constant - 0.5 * math.log(2 * math.pi) * loc.shape[-1]
        z = value.double()
        log_joint = z.square() @ (-0.5 * precision).T + z @ (loc * precision).T + constant
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return log_joint.to(torch.result_type(value, self._single[1])).expand(*shape, -1)
