"""Learned priors: pieces whose call returns a distribution of z that is trained with the rest."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from pyro.distributions import Independent, Normal
from torch import Tensor, nn

from pyro_dgm.distributions.mixtures import DiagonalNormalMixture
from pyro_dgm.distributions.numerics import at_least_float32, positive
from pyro_dgm.errors import InvalidInput


class MixturePrior(nn.Module):
    r"""The prior :math:`z \sim \sum_k \pi_k \mathcal N(\mu_k, \mathrm{diag}(s_k^2))` with learned parameters.

    It starts near a standard normal: equal weights, scales of one, and means that are draws of Normal(0, I).
    Equal means would stay equal, since every component would get the same gradient.

    Args:
        latent_dim: number of latent dimensions, at least 1.
        num_components: number K of components, at least 1.
        scale_floor: the smallest scale, in units of z; it keeps log p finite when a component shrinks to a point.

    Raises:
        InvalidInput: a size below one, or a floor outside (0, 1).

    Example:
        >>> prior = MixturePrior(8, 10)
        >>> z = prior().sample((5,))
        >>> prior().responsibilities(z).probs.shape
        torch.Size([5, 10])

    Reference: Variational deep embedding (Jiang, Zheng, Tan, Tang, Zhou, 2017), which trains this prior.
    """

    def __init__(self, latent_dim: int, num_components: int, *, scale_floor: float = 1e-2) -> None:
        super().__init__()
        for name, size in (("latent_dim", latent_dim), ("num_components", num_components)):
            if size < 1:
                raise InvalidInput("bad size", where=name, value=size, expected="an integer >= 1")
        if not 0 < scale_floor < 1:
            raise InvalidInput(
                "bad floor", where="scale_floor", value=scale_floor, expected="between 0 and 1"
            )
        self.scale_floor = scale_floor
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(num_components, latent_dim))
        raw_one = math.log(math.expm1(1 - scale_floor))  # positive(raw_one, scale_floor) is one
        self.raw_scale = nn.Parameter(torch.full((num_components, latent_dim), raw_one))

    def forward(self) -> DiagonalNormalMixture:
        """The distribution, of event shape (latent_dim,)."""
        logits, loc, raw = (at_least_float32(part) for part in (self.logits, self.loc, self.raw_scale))
        return DiagonalNormalMixture(logits, loc, positive(raw, self.scale_floor))


class VampPrior(nn.Module):
    r"""The prior :math:`z \sim \sum_k \pi_k \, q(z \mid u_k)`, a mixture of posteriors at learned pseudo-inputs.

    ``encoder`` and ``posterior`` are the very modules of the VAE whose prior this is, not copies: q is one network
    with one set of parameters, trained from both sides. The pseudo-inputs :math:`u_k = \min(\max(v_k, 0), 1)` are
    images of free parameters v; they start as draws of Normal(init_mean, init_std^2), dark and nearly alike. An
    element whose v left [0, 1] gets no gradient and stays black or white.

    Args:
        encoder: network from data (..., *data_shape) to features.
        posterior: piece q(z | features), a diagonal normal.
        data_shape: shape of one datum; data are in [0, 1].
        num_components: number K of pseudo-inputs, at least 1.
        init_mean: mean of the first v, between 0 and 1; near the mean of the data.
        init_std: standard deviation of the first v, above zero.
        learn_weights: whether the weights pi are parameters; else they are 1 / K.

    Raises:
        InvalidInput: a size below one, a posterior that takes other features than the encoder gives, or one that is
            no diagonal normal.

    Example:
        >>> from pyro_dgm.distributions import DiagonalNormal
        >>> from pyro_dgm.nets import FlattenEvent
        >>> encoder, posterior = nn.Sequential(FlattenEvent((1, 8, 8)), nn.Linear(64, 32)), DiagonalNormal(32, 4)
        >>> prior = VampPrior(encoder, posterior, data_shape=(1, 8, 8), num_components=20)
        >>> prior().sample((5,)).shape, prior.pseudo_inputs.shape
        (torch.Size([5, 4]), torch.Size([20, 1, 8, 8]))

    Reference: VAE with a VampPrior (Tomczak, Welling, 2018).
    """

    logits: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        posterior: nn.Module,
        *,
        data_shape: Sequence[int],
        num_components: int = 500,
        init_mean: float = 0.05,
        init_std: float = 0.01,
        learn_weights: bool = False,
    ) -> None:
        super().__init__()
        data_shape = tuple(data_shape)
        if num_components < 1 or min(data_shape, default=0) < 1:
            bad = ("num_components", num_components) if num_components < 1 else ("data_shape", data_shape)
            raise InvalidInput("bad size", where=bad[0], value=bad[1], expected="integers >= 1")
        if not 0 < init_mean < 1:
            raise InvalidInput("bad start", where="init_mean", value=init_mean, expected="between 0 and 1")
        if not init_std > 0:  # equal pseudo-inputs would stay equal
            raise InvalidInput("bad start", where="init_std", value=init_std, expected="a number > 0")
        self.encoder = encoder
        self.posterior = posterior
        self.v = nn.Parameter(init_mean + init_std * torch.randn(num_components, *data_shape))
        if learn_weights:
            self.logits = nn.Parameter(torch.zeros(num_components))
        else:
            self.register_buffer("logits", torch.zeros(num_components), persistent=False)
        _check_chain(encoder, posterior, self.v[:1].detach())

    @property
    def pseudo_inputs(self) -> Tensor:
        """The pseudo-inputs u, (num_components, *data_shape), in [0, 1]."""
        return nn.functional.hardtanh(self.v, 0.0, 1.0)

    def forward(self) -> DiagonalNormalMixture:
        """The distribution, of event shape (latent_dim,)."""
        q = _diagonal_normal(self.posterior(self.encoder(self.pseudo_inputs)))
        return DiagonalNormalMixture(at_least_float32(self.logits), q.loc, q.scale)


def _diagonal_normal(q: object) -> Normal:
    if isinstance(q, Independent) and isinstance(q.base_dist, Normal) and len(q.event_shape) == 1:
        return q.base_dist
    raise InvalidInput(
        "no diagonal normal",
        where="posterior",
        value=type(q).__name__,
        expected="a piece that returns Normal(loc, scale).to_event(1)",
        cure="DiagonalNormal(in_features, latent_dim)",
    )


@torch.no_grad()
def _check_chain(encoder: nn.Module, posterior: nn.Module, datum: Tensor) -> None:
    """Runs copies of the two once, so that sizes that do not fit are told before any training."""
    pieces = copy.deepcopy(nn.ModuleList([encoder, posterior])).eval()
    features = pieces[0](datum)
    try:
        q = pieces[1](features)
    except RuntimeError as error:
        raise InvalidInput(
            "the encoder's features do not fit",
            where="posterior",
            value=f"features {tuple(features.shape[1:])}, {error}",
            expected="a posterior that takes them",
            cure=f"DiagonalNormal(in_features={features.shape[-1]}, ...)",
        ) from error
    _diagonal_normal(q)
