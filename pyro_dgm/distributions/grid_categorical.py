"""Grey levels with a probability each."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints

from pyro_dgm.distributions.grid import GridDistribution
from pyro_dgm.distributions.numerics import draw_categories


class GridCategorical(GridDistribution):
    """A categorical variable whose K categories are the grey levels k/(K-1), k = 0 ... K-1.

    P(x = k/(K-1)) = softmax(logits)_k.

    Args:
        logits: unnormalised log-probabilities, (..., K).
        validate_args: check parameters and values; Pyro's global setting if None.

    Raises:
        InvalidInput: fewer than two levels.
        ValueError: with validation, logits that are not finite, or a value off the grid.

    Example:
        >>> pmf = GridCategorical(torch.tensor([0.0, 0.0, 0.0]))
        >>> pmf.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.3333, 0.3333, 0.3333])

    Reference: Pixel recurrent neural networks (van den Oord, Kalchbrenner, Kavukcuoglu, 2016), section 3.4.
    """

    arg_constraints = {"logits": constraints.real_vector}  # noqa: RUF012

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape[-1], logits.shape[:-1], validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability of grey levels; values are rounded to the grid."""
        if self._validate_args:
            self._validate_sample(value)
        k = (value * (self.levels - 1)).round().long().clamp(0, self.levels - 1).unsqueeze(-1)
        shape = torch.broadcast_shapes(k.shape[:-1], self.batch_shape)
        chosen = self.logits.expand(*shape, -1).gather(-1, k.expand(*shape, 1)).squeeze(-1)
        return chosen - self.logits.logsumexp(-1)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Grey levels, (*sample_shape, *batch_shape)."""
        with torch.no_grad():
            k = draw_categories(self.logits, self._extended_shape(sample_shape))
            return k.to(self.logits.dtype) / (self.levels - 1)

    @property
    def mean(self) -> Tensor:
        """The exact mean."""
        steps = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        return self.logits.softmax(-1) @ steps / (self.levels - 1)

    def expand(self, batch_shape: torch.Size, _instance: GridCategorical | None = None) -> GridCategorical:
        """The same distribution with a larger batch shape, sharing memory."""
        new = self._get_checked_instance(GridCategorical, _instance)
        new.logits = self.logits.expand(*batch_shape, -1)
        GridDistribution.__init__(new, self.levels, torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def enumerate_support(self, expand: bool = True) -> Tensor:
        """The grid along a new first dimension, (levels, *batch_shape) or (levels, 1, ..., 1)."""
        grid = torch.arange(self.levels, dtype=self.logits.dtype, device=self.logits.device)
        grid = (grid / (self.levels - 1)).reshape(-1, *(1,) * len(self.batch_shape))
        return grid.expand(-1, *self.batch_shape) if expand else grid
