"""Couplings of two sets of elements that are mixed in space, as the fields of a checkerboard are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyro_dgm.distributions.numerics import at_least_float32
from pyro_dgm.distributions.transforms.bijection import Bijection, sum_event
from pyro_dgm.distributions.transforms.coupling import beside, require_both
from pyro_dgm.distributions.transforms.univariate import Affine, Univariate


class MaskedCoupling(Bijection):
    r"""The map :math:`y = m \odot x + (1 - m) \odot \tau(x; \theta(m \odot x, c))` with a mask m of zeros and ones.

    The network sees all places, with zeros at those that are mapped, and gives parameters for all, of which those of
    the kept ones are not used. Where whole elements or channels are kept, :class:`Coupling` does without them.

    Args:
        kept: boolean mask, (*event_shape), true where x is kept.
        network: from (..., *event_shape), with the context as more channels where there is one, to the parameters
            (..., num_params, *event_shape).
        univariate: the map tau of one element; affine by default.
        context_features: size of a context; 0 for none.

    Raises:
        InvalidInput: a mask that keeps all or nothing.

    Example:
        >>> from pyro_dgm.distributions.transforms import checkerboard
        >>> from pyro_dgm.nets import ConvMaps
        >>> coupling = MaskedCoupling(checkerboard((1, 8, 8)), ConvMaps(1, (2, 1), channels=16))
        >>> y, log_det = coupling.forward_and_log_det(torch.randn(10, 1, 8, 8))
        >>> y.shape, log_det.shape
        (torch.Size([10, 1, 8, 8]), torch.Size([10]))

    Reference:
        Dinh, Sohl-Dickstein and Bengio, "Density estimation using Real NVP", 2017.
    """

    kept: Tensor

    def __init__(
        self,
        kept: Tensor,
        network: nn.Module,
        univariate: Univariate | None = None,
        *,
        context_features: int = 0,
    ) -> None:
        kept = torch.as_tensor(kept)
        super().__init__(kept.shape, context_shape=(context_features,) if context_features else ())
        require_both(kept, self.event_shape)
        self.register_buffer("kept", kept.clone())
        self.univariate = Affine() if univariate is None else univariate
        self.network = network

    def _forward(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._mapped(x, context, self.univariate.forward_and_log_slope)

    def _inverse(self, y: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._mapped(y, context, self.univariate.inverse_and_log_slope)

    def _mapped(
        self, x: Tensor, context: Tensor | None, univariate: Callable[..., tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        dims = len(self.event_shape)
        seen = torch.where(self.kept, x, 0.0)
        params = self.network(seen if context is None else beside(seen, context, dims))
        y, log_slopes = univariate(x, at_least_float32(params).movedim(-1 - dims, -1))
        log_slopes = torch.where(self.kept, 0.0, log_slopes)
        return torch.where(self.kept, x, y), sum_event(log_slopes, self.event_shape)
