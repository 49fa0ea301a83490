"""The neural autoregressive distribution estimator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from pyro_dgm.models.autoregressive import AutoregressiveModel
from pyro_dgm.nets import SharedWeights


class NADE(AutoregressiveModel):
    r"""Neural autoregressive distribution estimator; RNADE with a mixture of normals as observation.

    .. math:: p(x) = \prod_t p(x_{o(t)} \mid \theta_t), \quad \theta_t = b'_t + V_t h_t, \quad
              h_t = a\Big(b + \sum_{s < t} W_{o(s)} x_{o(s)}\Big)

    Args:
        data_shape: shape of one datum.
        hidden: width of the hidden layers, which share their weights.
        activation: makes the activation layer.
        order: flat positions of the elements from first to last; as they lie by default.
        shuffle: whether the order is random.
        seed: of a random order.
        observation: piece p(x | params); Bernoulli elements by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel`, an order that is no permutation, or an
            observation that does not say what it takes.

    Example:
        >>> import torch
        >>> from pyro_dgm.distributions import NormalMixtureObservation
        >>> rnade = NADE((5,), hidden=16, observation=NormalMixtureObservation((5,), num_components=3))
        >>> rnade().log_prob(torch.zeros(7, 5)).shape, rnade.sample(3).shape
        (torch.Size([7]), torch.Size([3, 5]))

    Reference:
        Larochelle and Murray, "The neural autoregressive distribution estimator", 2011. Uria, Murray and Larochelle,
        "RNADE: the real-valued neural autoregressive density-estimator", 2013.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        hidden: int = 500,
        activation: Callable[[], nn.Module] = nn.Sigmoid,
        order: Sequence[int] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        observation: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, observation, num_classes=num_classes, context_shape=context_shape)
        self.network = SharedWeights(
            self.data_shape,
            self.num_params,
            hidden=hidden,
            activation=activation,
            order=order,
            shuffle=shuffle,
            seed=seed,
            context_features=self.context_features,
        )
