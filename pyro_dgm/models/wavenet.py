"""WaveNet: waveforms, one sample after the other."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.distributions import Autoregressive, CategoricalObservation, Observation
from pyro_dgm.distributions.conditionals import Conditionals
from pyro_dgm.errors import InvalidInput
from pyro_dgm.models.autoregressive import AutoregressiveModel
from pyro_dgm.models.compiled_draws import CompiledSteps, Drawn
from pyro_dgm.nets.wavenet import WaveNetStack

_MOST_POOLED = 2**20  # samples that the marginal distribution at the start is made of, or half of them


class WaveNet(AutoregressiveModel):
    r"""Autoregressive model of waveforms, by stacks of dilated causal convolutions.

    .. math:: p(x \mid c) = \prod_{t=1}^T p(x_t \mid \theta_t), \qquad \theta_t = f(x_{t-R}, \dots, x_{t-1}, c)

    Data are in [0, 1]: mu-law levels of 8 bits for the default observation, a probability for each level, or, say,
    16 bits for ``DiscretizedLogisticMixtureObservation(data_shape, 65536)``. Given y is a class, one vector for a
    waveform (context_shape (F,)) or one for each sample (context_shape (F, T)); labels beside local features are
    given as features themselves.

    Args:
        data_shape: (T,), the number of samples of one waveform.
        channels: residual channels.
        gate_channels: channels of the gated units; as many as residual ones by default.
        skip_channels: channels of the skip connections; twice as many as residual ones by default.
        num_layers: layers of a stack, of dilations 1, 2, 4, ..., 2^(num_layers - 1) samples.
        num_stacks: number of stacks.
        kernel_size: samples that each convolution sees.
        input_levels: number of levels of the data, each of which then enters the network as a vector of its own, as if
            by a unit vector; by default the numbers enter.
        observation: piece p(x | params); a probability for each of 256 levels by default.
        num_classes: number of classes, for p(x | y) given labels y.
        context_shape: shape of a context, (F,) or (F, T), or what ``context_network`` takes; () for none.
        context_network: network from contexts (..., *context_shape), or labels' unit vectors, to features (..., F') or
            (..., F', T), such as :class:`~pyro_dgm.nets.Upsampling`.

    Raises:
        InvalidInput: see :class:`~pyro_dgm.models.tractable.TractableModel` and
            :class:`~pyro_dgm.nets.WaveNetStack`, an observation that does not say what it takes, or features that are
            neither one vector nor one for each sample.

    Example:
        >>> wavenet = WaveNet((160,), channels=8, num_layers=4, num_stacks=2)
        >>> wavenet.network.receptive_field  # samples
        31
        >>> wavenet().log_prob(torch.zeros(5, 160)).shape, wavenet.sample(3).shape
        (torch.Size([5]), torch.Size([3, 160]))

    Reference:
        van den Oord, Dieleman, Zen, Simonyan, Vinyals, Graves, Kalchbrenner, Senior and Kavukcuoglu, "WaveNet: a
        generative model for raw audio", 2016.
    """

    network: WaveNetStack

    def __init__(
        self,
        data_shape: Sequence[int],
        *,
        channels: int = 32,
        gate_channels: int | None = None,
        skip_channels: int | None = None,
        num_layers: int = 10,
        num_stacks: int = 1,
        kernel_size: int = 2,
        input_levels: int | None = None,
        observation: nn.Module | None = None,
        num_classes: int | None = None,
        context_shape: Sequence[int] = (),
        context_network: nn.Module | None = None,
    ) -> None:
        observation = CategoricalObservation(data_shape) if observation is None else observation
        super().__init__(data_shape, observation, num_classes=num_classes, context_shape=context_shape)
        levels = getattr(self.observation, "levels", input_levels)
        if input_levels is not None and input_levels != levels:
            raise InvalidInput(
                "other levels than those of the observation",
                where="input_levels",
                value=input_levels,
                expected="None, for samples as they are" if levels is None else f"{levels}, or None",
            )
        self.context_network = context_network
        features = self._features_shape()
        self.network = WaveNetStack(
            self.data_shape,
            self.num_params,
            channels=channels,
            gate_channels=gate_channels,
            skip_channels=skip_channels,
            num_layers=num_layers,
            num_stacks=num_stacks,
            kernel_size=kernel_size,
            input_levels=input_levels,
            context_features=features[0] if features else 0,
            local=len(features) == 2,
        )
        self._steps = CompiledSteps()

    @torch.no_grad()
    def _features_shape(self) -> tuple[int, ...]:
        """Shape of what the network is given of one context: (), (F,) or (F, T)."""
        shape = self.context_shape
        if self.context_network is not None:
            shape = tuple(self.context_network(torch.zeros(1, *shape)).shape[1:])
        if len(shape) > 2 or shape[1:] not in ((), self.data_shape):
            where = "context_shape" if self.context_network is None else "context_network"
            expected = f"(F,), or (F, {self.data_shape[0]}) for features at each sample"
            raise InvalidInput("features of another shape", where=where, value=shape, expected=expected)
        return shape

    def forward(self, c: Tensor | None = None) -> Autoregressive:
        """The distribution p(x | c)."""
        return self._joint(c, self.observation, self.network.conditionals)

    def _joint(
        self, c: Tensor | None, observation: Any, conditionals: Callable[..., Conditionals]
    ) -> Autoregressive:
        self.check_context(c)
        if c is not None and self.context_network is not None:
            c = self.context_network(c)
        dims = 2 if self.network.local else 1
        return Autoregressive(
            self.network,
            observation,
            c,
            event_shape=self.data_shape,
            context_dims=dims,
            conditionals=conditionals,
        )

    def initialize(self, x: Tensor, y: Tensor | None = None, *rest: Any) -> None:
        """Checks every y, and starts the observation at the marginal of all samples, the same at each time."""
        piece = self.observation
        if isinstance(piece, Observation) and not bool(piece.offset.any()) and x.shape[1:] == self.data_shape:
            single = copy.deepcopy(piece)
            single.data_shape, single.offset = (1,), piece.offset[:, :1].clone()
            single.center(x[:: x.numel() // _MOST_POOLED + 1].reshape(-1, 1))
            piece.offset.copy_(single.offset)
        super().initialize(x, y, *rest)

    @torch.no_grad()
    def sample(self, num: int, *, y: Tensor | int | None = None, compiled: bool = False) -> Tensor:
        """``num`` draws of x, (num, *data_shape).

        A compiled step from one sample to the next is several times as quick as a plain one; it takes half a minute to
        compile, once for each number of draws. The same seed gives the same draws either way, but for rounding, which
        may move a level and then all that follow.

        Args:
            num: number of draws.
            y: what is given: one for all draws, or one for each; labels are drawn by default.
            compiled: whether to compile the step, the draw with it.

        Raises:
            InvalidInput: another number of y, or an observation that cannot draw single elements, if compiled.
        """
        if not compiled:
            return super().sample(num, y=y)
        c = self.contexts(num, y)
        p = self._joint(c, Drawn(self.data_shape), self._drawn)
        return p.sample((num,) if c is None else ())

    def _drawn(self, number: int, context: Tensor | None) -> Conditionals:
        """Draws, by a compiled step, where :class:`Autoregressive` takes parameters."""
        return self.network.conditionals(number, context, step=self._steps.of(self.observation))
