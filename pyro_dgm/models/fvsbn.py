"""The fully visible sigmoid belief network: a logistic regression for each element."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pyro_dgm.models.autoregressive import AutoregressiveModel
from pyro_dgm.nets import MaskedMLP


class FVSBN(AutoregressiveModel):
    r"""Fully visible sigmoid belief network.

    .. math:: p(x) = \prod_t p(x_{o(t)} \mid x_{o(1)}, \dots, x_{o(t-1)}), \qquad
              p(x_{o(t)} = 1 \mid \dots) = \sigma\Big(b_{o(t)} + \sum_{s < t} A_{o(t) o(s)} x_{o(s)}\Big)

    With another observation each conditional is its generalised linear regression.

    Args:
        data_shape: shape of one datum.
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
        >>> fvsbn = FVSBN((1, 8, 8))
        >>> fvsbn().log_prob(torch.zeros(5, 1, 8, 8)).shape, fvsbn.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))

    Reference:
        Neal, "Connectionist learning of belief networks", 1992. Frey, Hinton and Dayan, "Does the wake-sleep
        algorithm produce good density estimators?", 1996.
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        order: Sequence[int] | None = None,
        shuffle: bool = False,
        seed: int = 0,
        observation: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, observation, num_classes=num_classes, context_shape=context_shape)
        self.network = MaskedMLP(
            self.data_shape,
            self.num_params,
            hidden=(),
            order=order,
            shuffle=shuffle,
            seed=seed,
            context_features=self.context_features,
        )
