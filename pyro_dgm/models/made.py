"""The masked autoencoder for distribution estimation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.distributions import Autoregressive, Ensemble
from pyro_dgm.models.autoregressive import AutoregressiveModel
from pyro_dgm.nets import MaskedMLP


class MADE(AutoregressiveModel):
    r"""Masked autoencoder for distribution estimation.

    .. math:: p(x) = \prod_t p(x_{o(t)} \mid \theta_{o(t)}), \qquad \theta = \mathrm{masked\ network}(x)

    With several masks, one drawn at random is used for each batch in training, and the model is their mixture, the
    mean of the M probabilities, in evaluation mode. Drawing the number of the mask makes the loss of training an
    upper bound on that of the mixture. With ``shuffle`` the masks differ in the order of the elements too. The more
    they differ, the more a mixture gains over its members, and the longer deep networks take to learn them:
    ``num_orders`` and ``degree_noise`` make them more alike.

    Args:
        data_shape: shape of one datum.
        hidden: widths of the hidden layers.
        activation: makes one elementwise activation layer.
        order: flat positions of the elements from first to last; as they lie by default.
        num_masks: number M of masks.
        shuffle: whether the order is random, another for each mask.
        num_orders: with ``shuffle``, the number of orders that the masks take in turn; M by default.
        degree_noise: how random the masks of one order are, 0 to 1: see :class:`~pyro_dgm.nets.MaskedMLP`.
        seed: of what is random.
        direct: whether there are weights from data to outputs beside the hidden layers.
        observation: piece p(x | params); Bernoulli elements by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (features,); () for none.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel`, an order that is no permutation, more
            orders than masks, a degree_noise outside [0, 1], an observation that does not say what it takes, or,
            without direct weights, a hidden layer that is too narrow for its masks.

    Example:
        >>> import torch
        >>> made = MADE((1, 8, 8), hidden=(100,), num_masks=4, shuffle=True).eval()
        >>> made().log_prob(torch.zeros(5, 1, 8, 8)).shape, made.sample(3).shape
        (torch.Size([5]), torch.Size([3, 1, 8, 8]))

    Reference:
        Germain, Gregor, Murray and Larochelle, "MADE: masked autoencoder for distribution estimation", 2015.
    """

    network: MaskedMLP

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        hidden: Sequence[int] = (500,),
        activation: Callable[[], nn.Module] = nn.ReLU,
        order: Sequence[int] | None = None,
        num_masks: int = 1,
        shuffle: bool = False,
        num_orders: int | None = None,
        degree_noise: float | None = None,
        seed: int = 0,
        direct: bool = True,
        observation: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
    ) -> None:
        super().__init__(data_shape, observation, num_classes=num_classes, context_shape=context_shape)
        self.network = MaskedMLP(
            self.data_shape,
            self.num_params,
            hidden=hidden,
            activation=activation,
            order=order,
            num_masks=num_masks,
            shuffle=shuffle,
            num_orders=num_orders,
            degree_noise=degree_noise,
            seed=seed,
            direct=direct,
            context_features=self.context_features,
        )

    def forward(self, c: Tensor | None = None) -> Autoregressive | Ensemble:
        """The distribution p(x | c): that of one mask in training, of all in evaluation mode."""
        number = self.network.num_masks
        if number == 1:
            return self.masked(0, c)
        if self.training:
            return self.masked(torch.randint(number, ()), c)
        return Ensemble([self.masked(which, c) for which in range(number)])

    def masked(self, which: Any, c: Tensor | None = None) -> Autoregressive:
        """The distribution under one mask.

        Args:
            which: number of the mask, from 0; an integer, or a tensor for densities alone.
            c: contexts, where the model takes one.
        """
        network = self.network
        return self.of(
            partial(network, which=which), c, conditionals=partial(network.conditionals, which=which)
        )
