"""Pyro's SVI with loss, gradients and update compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro.infer import ELBO, SVI
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyro_dgm.errors import NonFiniteError
from pyro_dgm.training.compiled_loss import CompiledLoss
from pyro_dgm.training.nonfinite import locate_nonfinite
from pyro_dgm.training.random_state import restore, snapshot
from pyro_dgm.training.updates import FusedUpdate


class CompiledSVI(SVI):
    """Drop-in for :class:`pyro.infer.SVI` that runs Pyro's handlers once and trains on a compiled graph.

    Any pair whose shapes do not depend on values will do, with any of Pyro's ELBOs and any objective of ours. The
    first step with data of some shape is plain, the second compiles; see :class:`CompiledLoss` for what a graph
    takes as constant, and for what falls back on plain steps with a warning. Noise follows the seed as in plain
    steps.

    Unlike ``SVI``, a step whose loss or gradient is not finite changes nothing and raises.

    Args:
        model: a Pyro model.
        guide: its guide.
        optim: Pyro's optimiser; Adam, AdamW, SGD and ClippedAdam move all parameters in one call.
        loss: one of Pyro's ELBOs, or ``loss(model, guide, *args)``.

    Example:
        >>> import pyro, torch
        >>> from pyro_dgm.models import PPCA
        >>> ppca = PPCA(data_dim=3, latent_dim=1)
        >>> svi = CompiledSVI(ppca.model, ppca.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.randn(100, 3))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: PyroOptim,
        loss: ELBO | Callable[..., Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(model, guide, optim, loss, **kwargs)
        self._gradient = CompiledLoss(self._loss_and_grads)
        self._value = CompiledLoss(self._loss_alone, gradients=False)
        self._objective = loss
        self._update = FusedUpdate(self._optimizer)
        self._count = 0

    def _loss_and_grads(self, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self._objective, ELBO):
            return self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        return self.loss(self.model, self.guide, *args, **kwargs)

    def _loss_alone(self, *args: Any, **kwargs: Any) -> Any:
        return self.loss(self.model, self.guide, *args, **kwargs)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """Loss of a step, before its update.

        Args:
            args: of model and guide.
            kwargs: of model and guide.

        Raises:
            NonFiniteError: loss or gradient is not finite; parameters, optimiser and random state are as before.
        """
        device = args[0].device if args and isinstance(args[0], Tensor) else torch.device("cpu")
        before = snapshot(device)
        found = self._gradient(*args, **kwargs)
        loss, length = found.numbers.tolist()
        if not (abs(loss) < float("inf") and length < float("inf")):
            restore(before)
            self._refuse(loss, length, args, before)
        parameters = self._gradient.parameters
        left = self._update(parameters, found.gradients)
        if left:
            rest = [parameters[place] for place in left]
            for place in left:
                parameters[place].grad = found.gradients[place]
            self.optim(rest)
            for parameter in rest:
                parameter.grad = None
        self._count += 1
        return loss

    def steps(self, batches: Iterable[tuple[Any, ...]]) -> list[float]:
        """Losses of one step for each batch.

        Args:
            batches: the arguments of each step.
        """
        return [self.step(*batch) for batch in batches]

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> float:
        """Loss without an update.

        Args:
            args: of model and guide.
            kwargs: of model and guide.
        """
        return float(self._value(*args, **kwargs).numbers[0])

    def _optimizer(self, parameter: Tensor) -> tuple[Optimizer, dict[str, Any]] | None:
        known = self.optim.optim_objs.get(parameter)
        if known is None or self.optim.grad_clip[parameter] is not None:
            return None
        optimizer = getattr(known, "optimizer", known)  # of a schedule
        return optimizer, optimizer.param_groups[0]

    def _refuse(self, loss: float, norm: float, args: Any, before: Any) -> None:
        site = locate_nonfinite(self.model, self.guide, *args)
        restore(before)
        raise NonFiniteError(
            "non-finite loss" if not abs(loss) < float("inf") else "non-finite gradient",
            where=f"step {self._count + 1}" + (f", {site}" if site else ""),
            value=norm if abs(loss) < float("inf") else loss,
            expected="a finite number",
            cure="a lower learning rate, or a look at these data",
        )
