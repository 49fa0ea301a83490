"""The best member of a guide's family for each datum: the guide's own distributions, moved by free offsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_dgm.diagnostics.moved import moved, zero_offsets
from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.elbo import ELBO
from pyro_dgm.objectives.sites import EXACT, sample_sites

_CHECK_EVERY = 25  # steps
_STALLED = 1e-3  # nats per datum between two checks
_LEARNING_RATES = (0.05, 0.015, 0.005, 0.0015)  # the next one whenever the last has stalled
_PARTICLES = 8  # of a step


class LocalGuide(Messenger):
    r"""Context in which the sites of a guide have free offsets, one for each parameter of each datum.

    A site with the distribution :math:`q(\cdot; \lambda)` has :math:`q(\cdot; T(T^{-1}(\lambda) + \delta))` instead,
    where T maps the real numbers to where the parameter lives (exp for a scale). With :math:`\delta = 0` it is the
    guide itself. Offsets belong to a datum, not to a draw; what the guide's networks make of earlier draws, and the
    transforms of a flow, stay as they are. So for a mean-field guide the offsets reach all of its family; for a
    structured guide or a flow they reach a part of it, and the best they find is a lower bound on the best member.

    Densities are those of fixed parameters: gradients take the path through the draws alone, which leaves out a term of
    mean zero ("sticking the landing"). A site that is not reparameterised keeps its score-function term.

    Enter it outside everything that runs the guide; sites that were given their values are left alone.

    Args:
        guide: Pyro guide.
        batch: positional arguments of the guide.
        plate: name of the plate of the data, to leave alone what lies outside it; None moves every site.

    Raises:
        InvalidInput: a site whose family cannot be rebuilt from its parameters, or none to move at all.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import VAE
        >>> vae, x = VAE(data_shape=(4,), latent_dim=2), torch.zeros(3, 4)
        >>> local = LocalGuide(vae.guide, (x,), plate="data")
        >>> {name: tuple(offset.shape) for name, offset in local.offsets["z"].items()}
        {'loc': (3, 2), 'scale': (3, 2)}

    Reference:
        Cremer, Li and Duvenaud, "Inference suboptimality in variational autoencoders", 2018.
        Roeder, Wu and Duvenaud, "Sticking the landing", 2017.
    """

    def __init__(
        self, guide: Callable[..., Any], batch: tuple[Any, ...], *, plate: str | None = None
    ) -> None:
        super().__init__()
        self.offsets: dict[str, dict[str, Tensor]] = {}
        with torch.no_grad(), poutine.block():
            sites = sample_sites(poutine.trace(guide).get_trace(*batch))
        for name, site in sites.items():
            if site["infer"].get(EXACT):
                continue  # the model's own conditional, which has no better
            if plate is not None and all(frame.name != plate for frame in site["cond_indep_stack"]):
                continue
            offsets = zero_offsets(site)
            if offsets:
                self.offsets[name] = offsets
        if not self.offsets and not all(site["infer"].get(EXACT) for site in sites.values()):
            raise InvalidInput(
                "no guide site with parameters to move",
                where="guide",
                value=", ".join(f"{name!r} ({site['fn']})" for name, site in sites.items()),
                expected="a distribution with free parameters, Normal for one",
            )

    def parameters(self) -> list[Tensor]:
        """All offsets."""
        return [offset for offsets in self.offsets.values() for offset in offsets.values()]

    def _pyro_sample(self, msg: Any) -> None:
        offsets = self.offsets.get(msg["name"])
        if offsets is None or msg["done"] or msg["is_observed"] or site_is_subsample(msg):
            return
        if msg["fn"].has_rsample:
            msg["value"] = moved(msg["fn"], offsets).rsample()
            offsets = {name: offset.detach() for name, offset in offsets.items()}
            msg["fn"], msg["done"] = moved(msg["fn"], offsets), True
        else:
            msg["fn"] = moved(msg["fn"], offsets)


def fit_local_guide(
    local: LocalGuide,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    *,
    steps: int,
    bound: Callable[[], np.ndarray],
) -> int:
    """Ascends the bound of every datum in its offsets, by Adam; the parameters of model and guide stay as they are.

    Scales (subsampling, annealing) do not count, as in the weights. The learning rate falls each time that the mean
    bound, on the same noise as at the check before, has gained less than 0.001 nats in 25 steps, and then it stops.

    Args:
        local: the offsets, changed in place.
        model: Pyro model, called with the batch.
        guide: Pyro guide, called with the batch.
        batch: positional arguments of both.
        steps: largest number of steps.
        bound: the bound of each datum with the offsets as they are, in nats, by the same noise in each call.

    Returns:
        Number of steps taken.
    """
    objective, offsets = ELBO(_PARTICLES), local.parameters()
    for offset in offsets:
        offset.requires_grad_()
    optimizer = torch.optim.Adam(offsets)
    rates, last = list(_LEARNING_RATES), bound()
    try:
        for step in range(1, steps + 1):
            # A short run has all the rates too.
            while len(rates) > 1 and step > steps * (len(_LEARNING_RATES) - len(rates) + 1) / len(
                _LEARNING_RATES
            ):
                rates.pop(0)
            optimizer.param_groups[0]["lr"] = rates[0]
            with torch.enable_grad(), _Unscaled(), local:
                loss = objective(model, guide, *batch)
                gradients = torch.autograd.grad(loss, offsets, allow_unused=True)
            for offset, gradient in zip(offsets, gradients, strict=True):
                offset.grad = torch.zeros_like(offset) if gradient is None else gradient.nan_to_num()
            optimizer.step()
            if step % _CHECK_EVERY == 0:
                now = bound()
                with np.errstate(invalid="ignore"):
                    gain = now - last
                last = now
                if not gain[np.isfinite(gain)].sum() / len(gain) > _STALLED:
                    rates.pop(0)
                if not rates:
                    return step
        return steps
    finally:
        for offset in offsets:
            offset.requires_grad_(False)
            offset.grad = None


class _Unscaled(Messenger):
    """Context in which every site has scale one; the outermost, so that it has the last word."""

    def _pyro_sample(self, msg: Any) -> None:
        msg["scale"] = 1.0
