"""Quality of a stochastic gradient: its noise and its bias, network by network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.diagnostics.parameter_groups import indices_of, parameters_of
from pyro_dgm.diagnostics.rows import require_data
from pyro_dgm.errors import InvalidInput, NonFiniteError
from pyro_dgm.objectives.inspection import apart


@dataclass(frozen=True)
class NetworkGradient:
    r"""Gradient g of one network, of the loss as the objective gives it: summed over the data.

    Args:
        num_parameters: numbers in the network whose gradient is not zero in every repeat.
        signal_to_noise: :math:`|\mathbb{E} g_u| / \mathrm{sd}(g_u)`, averaged over the parameters u; infinite where a
            gradient has no noise. Estimated from R repeats it is at least ``noise_floor``.
        signal_to_noise_along_mean: :math:`\mathbb{E}[g \cdot v] / \mathrm{sd}(g \cdot v)` for the mean direction v;
            v is from the first half of the repeats, the moments from the second. Negative where v is noise.
        noise_floor: what ``signal_to_noise`` is where there is no signal, :math:`\sqrt{2 / (\pi R)}`.
        norm: of the mean gradient.
        variance: sum of the variances of all parameters.
        relative_norm: norm of the mean gradient over that of the reference.
        cosine: of the angle between the two.
        relative_bias: norm of their difference over that of the reference.
        relative_bias_of_noise: what ``relative_bias`` is, as a root mean square, if there is no bias: by the noise
            that both means still have.
    """

    num_parameters: int
    signal_to_noise: float
    signal_to_noise_along_mean: float
    noise_floor: float
    norm: float
    variance: float
    relative_norm: float
    cosine: float
    relative_bias: float
    relative_bias_of_noise: float


@dataclass(frozen=True)
class GradientQuality:
    """What :func:`gradient_quality` found.

    Args:
        networks: by name. ``model``, ``guide`` and ``shared`` are the parameters that only the model's densities, only
            the guide, or both depend on, ``objective`` those of the objective; others are named parts.
        num_repeats: number of gradients.
        reference_repeats: number of gradients of the reference.
    """

    networks: dict[str, NetworkGradient]
    num_repeats: int
    reference_repeats: int


def gradient_quality(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *batch: Any,
    objective: Callable[..., Tensor],
    num_repeats: int = 100,
    reference: Callable[..., Tensor] | None = None,
    reference_repeats: int | None = None,
    networks: Mapping[str, Iterable[Tensor]] | None = None,
) -> GradientQuality:
    r"""Signal-to-noise ratio of the gradient of an objective, and its bias against a reference.

    The gradient of ``objective(model, guide, *batch)`` is taken many times on the same batch; its moments are
    accumulated in float64, so that memory is that of a few gradients. With more particles the gradient of an
    importance-weighted bound gets better for the model and worse for the guide: their ratios go as
    :math:`K^{1/2}` and :math:`K^{-1/2}`.

    The parameters, their ``.grad`` and the buffers of the modules stay as they are; modules run in the mode they are
    in. A parameter that is created on first use is created.

    Args:
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        objective: any loss, of ours, or Pyro's through :class:`~pyro_dgm.objectives.pyro_elbo.PyroELBO`.
        num_repeats: number R of gradients, at least 4.
        reference: objective with the gradient that is wanted; the same one by default, whose bias is noise.
        reference_repeats: number of its gradients, at least 2; ``num_repeats`` by default.
        networks: names for groups of parameters; by default those of :class:`GradientQuality`, and each child of the
            modules that the pair registers.

    Raises:
        InvalidInput: too few repeats, no parameters, or a group without any.
        NonFiniteError: a gradient that is NaN or infinite.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> from pyro_dgm.objectives import IWAE
        >>> vae = VAE(data_shape=(1, 2, 2), latent_dim=2, hidden=(8,))
        >>> x = torch.ones(10, 1, 2, 2)
        >>> found = gradient_quality(vae.model, vae.guide, x, objective=IWAE(num_particles=10), num_repeats=20)
        >>> sorted(found.networks)
        ['decoder', 'encoder', 'guide', 'model', 'posterior']
        >>> found.networks["model"].signal_to_noise > found.networks["guide"].signal_to_noise
        True

    Reference:
        Rainforth, Kosiorek, Le, Maddison, Igl, Wood and Teh, "Tighter variational bounds are not necessarily better",
        2018.
    """
    reference_repeats = num_repeats if reference_repeats is None else reference_repeats
    require_data(batch)
    for name, value, least in (("num_repeats", num_repeats, 4), ("reference_repeats", reference_repeats, 2)):
        if value < least:
            raise InvalidInput(
                "too few gradients", where=name, value=value, expected=f"an integer >= {least}", cure="100"
            )
    with apart(), poutine.block(), torch.enable_grad():
        leaves, groups = parameters_of(model, guide, batch, objective)
        if networks is not None:
            groups = {name: indices_of(name, tensors, leaves) for name, tensors in networks.items()}
        masks = {name: _mask(leaves, group) for name, group in groups.items()}

        def gradient(loss: Callable[..., Tensor]) -> Tensor:
            return _gradient(loss(model, guide, *batch), leaves)

        first, second, wanted = _Moments(), _Moments(), _Moments()
        along = {name: _Moments() for name in groups}
        for _ in range(num_repeats // 2):
            first.add(gradient(objective))
        for _ in range(num_repeats - num_repeats // 2):
            drawn = gradient(objective)
            second.add(drawn)
            products = first.mean * drawn
            for name, mask in masks.items():
                along[name].add(products[mask].sum())
        for _ in range(reference_repeats):
            wanted.add(gradient(reference or objective))
    moments = first.merged(second)
    found = {name: _quality(moments, wanted, along[name], mask) for name, mask in masks.items()}
    return GradientQuality(found, num_repeats, reference_repeats)


class _Moments:
    """Mean and sum of squared deviations, one value after the other (Welford's recursion)."""

    def __init__(self) -> None:
        self.count, self.mean, self.deviations = 0, torch.zeros(()), torch.zeros(())

    def add(self, value: Tensor) -> None:
        self.count += 1
        if self.count == 1:
            self.mean, self.deviations = value.clone(), torch.zeros_like(value)
            return
        change = value - self.mean
        self.mean += change / self.count
        self.deviations += change * (value - self.mean)

    def merged(self, other: _Moments) -> _Moments:
        both = _Moments()
        both.count = self.count + other.count
        change = other.mean - self.mean
        both.mean = self.mean + change * (other.count / both.count)
        both.deviations = self.deviations + other.deviations
        both.deviations += change**2 * (self.count * other.count / both.count)
        return both

    @property
    def variance(self) -> Tensor:
        return self.deviations / (self.count - 1)


def _quality(moments: _Moments, wanted: _Moments, along: _Moments, mask: Tensor) -> NetworkGradient:
    mean, variance, reference = moments.mean[mask], moments.variance[mask], wanted.mean[mask]
    alive = (mean != 0) | (variance != 0)
    # A parameter whose gradient has no noise would make the mean infinite.
    noisy = variance > 0
    ratios = mean[noisy].abs() / variance[noisy].sqrt() if noisy.any() else variance.new_tensor([math.inf])
    noise = variance.sum() / moments.count + wanted.variance[mask].sum() / wanted.count
    norm, reference_norm = mean.norm(), reference.norm()
    return NetworkGradient(
        num_parameters=int(alive.sum()),
        signal_to_noise=ratios.mean().item(),
        signal_to_noise_along_mean=(along.mean / along.variance.sqrt()).item(),
        noise_floor=math.sqrt(2 / (math.pi * moments.count)),
        norm=norm.item(),
        variance=variance.sum().item(),
        relative_norm=(norm / reference_norm).item(),
        cosine=(mean @ reference / (norm * reference_norm)).item(),
        relative_bias=((mean - reference).norm() / reference_norm).item(),
        relative_bias_of_noise=(noise.sqrt() / reference_norm).item(),
    )


def _gradient(loss: Tensor, leaves: list[Tensor]) -> Tensor:
    """Gradient by all parameters in one float64 vector; ``.grad`` is left alone."""
    if not loss.requires_grad:
        raise InvalidInput("a loss that depends on no parameter", where="the objective or the reference")
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    pieces = [
        torch.zeros_like(leaf, dtype=torch.float64) if gradient is None else gradient.double()
        for leaf, gradient in zip(leaves, gradients, strict=True)
    ]
    flat = torch.cat([piece.flatten() for piece in pieces])
    if not bool(flat.isfinite().all()):
        raise NonFiniteError(
            "a gradient that is not finite",
            where="the objective or the reference",
            cure="explain_nonfinite, which names the site",
        )
    return flat


def _mask(leaves: list[Tensor], group: set[int]) -> Tensor:
    """Which numbers of a flat gradient belong to a group of leaves."""
    return torch.cat(
        [torch.full((leaf.numel(),), index in group, device=leaf.device) for index, leaf in enumerate(leaves)]
    )
