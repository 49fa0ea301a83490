"""Pyro's SVI with loss, gradients and update compiled."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from pyro.infer import ELBO, SVI, TraceTailAdaptive_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.optim import Optimizer

from pyro_dgm.errors import NonFiniteError
from pyro_dgm.objectives.nonfinite import locate_nonfinite
from pyro_dgm.objectives.schedules import weights_of
from pyro_dgm.training.agreement import Evaluation
from pyro_dgm.training.compiled_loss import CompiledLoss
from pyro_dgm.training.random_state import restore, snapshot
from pyro_dgm.training.touched import Touched, put_back
from pyro_dgm.training.updates import FusedUpdate


class CompiledSVI(SVI):
    """Drop-in for Pyro's ``SVI`` that runs Pyro's handlers once and trains on a compiled graph.

    Any pair whose shapes do not depend on values will do, with any of Pyro's ELBOs and any objective of ours. The
    first step is plain, and the second one compiles, as does the first with data of another shape; see
    :class:`CompiledLoss` for what a graph takes as constant, and for what falls back on plain steps with a warning.
    Noise follows the seed as in plain steps.

    Unlike ``SVI``, a step whose loss or gradient is not finite changes nothing and raises.

    Args:
        model: a Pyro model.
        guide: its guide.
        optim: Pyro's optimiser; Adam, AdamW, SGD and ClippedAdam move all parameters in one call.
        loss: one of Pyro's ELBOs, or ``loss(model, guide, *args)``.
        loss_and_grads: as in ``SVI``, for a loss that is no ELBO: a function that runs ``backward`` itself.

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
        loss_and_grads: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__(model, guide, optim, loss, loss_and_grads)
        self._runs_backward = isinstance(loss, ELBO) or loss_and_grads is not None
        self._objective = None if isinstance(loss, ELBO) else loss
        self._has_no_loss = isinstance(loss, TraceTailAdaptive_ELBO)  # always infinite
        self._gradient = CompiledLoss(self._differentiated, after=1)
        self._value = CompiledLoss(partial(self.loss, model, guide), gradients=False, after=1)
        self._moved: list[Tensor] = []
        self._used = optim
        self._update = FusedUpdate(self._optimizer)
        self._count = 0
        self._weights = weights_of(loss)

    def _differentiated(self, *args: Any, **kwargs: Any) -> Any:
        if not self._runs_backward:
            return self.loss(self.model, self.guide, *args, **kwargs)
        loss = self.loss_and_grads(self.model, self.guide, *args, **kwargs)
        return loss.detach() if isinstance(loss, Tensor) else loss

    def step(self, *args: Any, **kwargs: Any) -> Any:
        """Loss of a step, before its update; a tuple of losses where Pyro's step gives one.

        Args:
            args: of model and guide.
            kwargs: of model and guide.

        Raises:
            NonFiniteError: loss or gradient is not finite; parameters, buffers, optimiser and random state are as
                before.
        """
        before = self._snapshot(args)
        try:
            found = self._gradient(*args, **kwargs)
        except ValueError as error:  # by which Pyro refuses the parameters of a distribution
            self._undo(before)
            if not (site := self._site(args, kwargs)):
                raise
            raise self._refusal("number", site, str(error).splitlines()[0]) from error
        *losses, norm = found.numbers.tolist()
        loss = sum(losses)
        if not self._is_finite(loss, norm):
            self._undo(before)
            site = self._site(args, kwargs)
            is_loss = not math.isfinite(loss) and not self._has_no_loss
            raise self._refusal("loss" if is_loss else "gradient", site, loss if is_loss else norm)
        self._move(found)
        self._end_step()
        return tuple(losses) if len(losses) > 1 else loss

    def steps(self, batches: Iterable[tuple[Any, ...]]) -> list[Any]:
        """Losses of one step for each batch.

        Between these steps nothing else runs, so that only the first looks for what may have changed.

        Args:
            batches: the arguments of each step.
        """
        losses: list[Any] = []
        for batch in list(batches):
            loss = self._again(batch) if losses and self._update.is_ready else None
            losses.append(self.step(*batch) if loss is None else loss)
        return losses

    def _again(self, batch: tuple[Any, ...]) -> Any | None:
        """Loss of a step right after another one; None for one that :meth:`step` must take."""
        before = self._snapshot(batch)
        found = self._gradient.again(batch)
        if found is None:
            return None
        *losses, norm = found.numbers.tolist()
        loss = sum(losses)
        if not self._is_finite(loss, norm):
            self._undo(before)
            return None
        self._update.again(found.gradients)
        self._end_step()
        return tuple(losses) if len(losses) > 1 else loss

    def _end_step(self) -> None:
        self._count += 1
        for weight in self._weights:
            weight.advance()

    def evaluate_loss(self, *args: Any, **kwargs: Any) -> Any:
        """Loss without an update; a tuple of losses where Pyro gives one.

        Args:
            args: of model and guide.
            kwargs: of model and guide.
        """
        *losses, _ = self._value(*args, **kwargs).numbers.tolist()
        return tuple(losses) if len(losses) > 1 else losses[0]

    def _is_finite(self, loss: float, norm: float) -> bool:
        return math.isfinite(norm) and (math.isfinite(loss) or self._has_no_loss)

    def _move(self, found: Evaluation) -> None:
        parameters = self._gradient.parameters
        if parameters is not self._moved or self.optim is not self._used:
            self._moved, self._used = parameters, self.optim
            self._update = FusedUpdate(self._optimizer)
        left = self._update(parameters, found.gradients)
        for place in left:  # a copy: it may be clipped, and may be the same tensor as the data
            gradient = found.gradients[place]
            parameters[place].grad = None if gradient is None else gradient.clone()
        if left:
            self.optim([parameters[place] for place in left])
        for place in left:
            parameters[place].grad = None

    def _optimizer(self, parameter: Tensor) -> tuple[Optimizer, dict[str, Any]] | None:
        known = self.optim.optim_objs.get(parameter)
        if known is None or self.optim.grad_clip[parameter] is not None:
            return None
        optimizer = getattr(known, "optimizer", known)  # of a schedule
        return optimizer, optimizer.param_groups[0]

    def _snapshot(self, args: Any) -> Any:
        known = self._gradient.parameters or [argument for argument in args if isinstance(argument, Tensor)]
        touched = self._gradient.touched
        touched.before = {}
        noise = snapshot(known[0].device if known else torch.device("cpu"))
        return noise, {buffer: buffer.clone() for buffer in touched.written}

    def _undo(self, before: Any) -> None:
        noise, buffers = before
        restore(noise)
        put_back({**self._gradient.touched.before, **buffers})

    def _site(self, args: Any, kwargs: Any) -> str | None:
        """The first site that is not finite, where there is one."""
        model, guide = partial(self.model, **kwargs), partial(self.guide, **kwargs)
        with warnings.catch_warnings(), Touched().watched():
            warnings.simplefilter("ignore")  # of Pyro, of each NaN that is being looked for
            return locate_nonfinite(model, guide, *args, objective=self._objective)

    def _refusal(self, what: str, site: str | None, value: float | str) -> NonFiniteError:
        return NonFiniteError(
            f"non-finite {what}",
            where=f"step {self._count + 1}" + (f", {site}" if site else ""),
            value=value,
            expected="a finite number",
            cure="a lower learning rate, or a look at these data",
        )
