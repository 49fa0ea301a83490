"""Gradients along the paths of a guide's draws, without those of its density at fixed draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.sites import is_point
from pyro_dgm.objectives.traces import Given


class Paths:
    r"""A guide run twice: once to draw z along its paths, once more for its densities at those draws.

    All densities, of model and guide, are functions of :math:`z` and of parameters at fixed :math:`z`; the draws are
    functions :math:`z_\phi(\epsilon)`, each one of the draws before it too. A gradient then has two parts,
    :math:`\partial_\phi` at fixed z and :math:`\partial_z \cdot \partial_\phi z_\phi`, and :meth:`along` leaves out the
    first, whose expectation is zero for :math:`\log q`. What the guide writes while it runs (the running statistics of
    a batch norm) is written twice.

    Args:
        guide: a Pyro guide.

    Raises:
        InvalidInput: a guide that draws and replays in one (``GuideMessenger``).

    Reference:
        Roeder, Wu and Duvenaud, "Sticking the landing: simple, lower-variance gradient estimators for variational
        inference", 2017.
    """

    def __init__(self, guide: Callable[..., Any]) -> None:
        if isinstance(poutine.unwrap(guide), Messenger):
            raise InvalidInput(
                "a guide that is an effect handler",
                where=type(poutine.unwrap(guide)).__name__,
                expected="a guide that can be run again at given draws",
                cure="gradient='pathwise' (of IWAE, 'standard')",
            )
        self._guide = guide
        self.drawn = poutine.Trace()  # of the first run
        self._points: dict[str, Tensor] = {}
        # Hooks hold this and no more: a hook that holds its own graph would never be collected.
        self._factors: dict[str, Tensor] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with poutine.block():
            self.drawn = poutine.trace(self._guide).get_trace(*args, **kwargs)
        self._points = {
            name: self._forked(name, site["value"])
            for name, site in self.drawn.nodes.items()
            if site["type"] == "sample" and not site["is_observed"] and not is_point(site)
        }
        with Given(self._points):
            return self._guide(*args, **kwargs)

    def _forked(self, name: str, value: Tensor) -> Tensor:
        """The draw as densities see it; what they send back to it is multiplied by the factor."""
        if not value.requires_grad:
            return value
        seen = value.view_as(value)
        factors = self._factors
        seen.register_hook(lambda gradient: gradient * factors[name] if name in factors else gradient)
        return seen.view_as(seen)  # one node further, at which a gradient can be taken without the factor

    def scale(self, factors: Mapping[str, Tensor]) -> None:
        """Sets what gradients along the paths are multiplied by, before they are taken.

        Args:
            factors: by the name of a site, detached tensors that broadcast with its draws.
        """
        self._factors.update(factors)

    def along(self, log_q: Tensor) -> Tensor:
        """A density of the guide with its gradient along the paths alone.

        Args:
            log_q: a scalar function of the draws.
        """
        points = [point for point in self._points.values() if point.requires_grad]
        if not points or not log_q.requires_grad:
            return log_q.detach()
        found = torch.autograd.grad(log_q, points, retain_graph=True, allow_unused=True)
        result = log_q.detach()
        for point, gradient in zip(points, found, strict=True):
            if gradient is not None:
                result = result + (gradient.detach() * (point - point.detach())).sum()
        return result
