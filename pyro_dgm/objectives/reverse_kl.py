"""The reverse Kullback-Leibler divergence, for targets that one can evaluate but not sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_dgm.errors import IncompatibleModel, InvalidInput
from pyro_dgm.objectives.checks import require_particles
from pyro_dgm.objectives.reporting import Reporting
from pyro_dgm.objectives.sites import sample_sites


class ReverseKL(Reporting):
    r"""Divergence of a model without latents from an unnormalised target, by the model's own draws.

    .. math:: \mathrm{KL}(p \,\|\, \pi) - \log Z = \mathbb{E}_{x \sim p} [\log p(x) - \log \tilde\pi(x)], \qquad
              \pi = \tilde\pi / Z

    It is minus the evidence lower bound on log Z of which the model is the guide, so that its best value is
    -log Z. Gradients go through the draws, which must be reparameterised, as those of a flow are. Of data only their
    number is used: as many draws are made, and the loss is summed over them; ``fit`` does not start a program from
    them. The forward divergence, for data, is :class:`~pyro_dgm.objectives.ELBO` itself, minus the likelihood.

    Args:
        log_density: function from x (n, *data_shape) to log pi~(x), (n,), in nats: a density of your own, or
            ``lambda x: teacher().log_prob(x)`` of another model, for distillation. It is not trained.
        num_particles: draws for each datum.

    Raises:
        InvalidInput: no particles; or, at the first call, a target of another shape, or draws without a gradient.
        IncompatibleModel: a model with latent variables, or without a density of x.

    Example:
        >>> import torch
        >>> from pyro_dgm.models import iaf
        >>> flow = iaf((2,), hidden=(8,))
        >>> ReverseKL(lambda x: -0.5 * x.square().sum(-1))(flow.model, flow.guide, torch.zeros(100, 2)).shape
        torch.Size([])

    Reference:
        Papamakarios, Nalisnick, Rezende, Mohamed and Lakshminarayanan, "Normalizing flows for probabilistic modeling
        and inference", 2021, section 2.3.
    """

    starts_from_data = False

    def __init__(self, log_density: Callable[[Tensor], Tensor], *, num_particles: int = 1) -> None:
        super().__init__()
        # Hidden from the modules, so that a target is not trained or saved with the objective.
        self._target = (log_density,)
        self.num_particles = require_particles(num_particles)

    def report(self, model: Callable[..., Any], guide: Callable[..., Any], *batch: Any) -> dict[str, Tensor]:
        """``loss`` in nats, summed over the data."""
        if not batch:
            raise InvalidInput("no data", where="batch", expected="data, whose number is that of draws")
        number = len(batch[0]) * self.num_particles
        found = sample_sites(poutine.trace(model).get_trace(n=number))
        if set(found) != {"x"}:
            raise IncompatibleModel(
                "no density of its own draws",
                where="ReverseKL",
                value=f"sites {', '.join(found)}",
                expected="a model whose one site is x, as a flow's",
                cure="ELBO for a model with latents",
            )
        x, fn = found["x"]["value"], found["x"]["fn"]
        if torch.is_grad_enabled() and not x.requires_grad:
            raise InvalidInput(
                "draws without a gradient",
                where="site 'x'",
                value=type(fn).__name__,
                expected="reparameterised draws, as a flow's",
            )
        own, target = fn.log_prob(x), self._target[0](x)
        for where, found_shape in (("site 'x'", own.shape), ("log_density", target.shape)):
            if found_shape != (number,):
                raise InvalidInput(
                    "a log-density of another shape",
                    where=where,
                    value=tuple(found_shape),
                    expected=f"({number},), one for each draw",
                    cure=".to_event(1) in a model whose x is a vector",
                )
        return {"loss": (own - target).sum() / self.num_particles}
