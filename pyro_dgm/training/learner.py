"""Learner: what the loop of ``fit`` drives, made of a program and an objective or of a user's own step."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from pyro.infer import SVI
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_dgm.errors import InvalidInput
from pyro_dgm.objectives.player import HasPlayers, OptimizerFactory, Player, adam
from pyro_dgm.objectives.reporting import Reports
from pyro_dgm.training.adapters import CheckedStep, Evaluates, checked
from pyro_dgm.training.averaging import WeightAverage
from pyro_dgm.training.batches import Batches, Split
from pyro_dgm.training.checkpoint import load_weights
from pyro_dgm.training.fields import require_fields
from pyro_dgm.training.processes import Processes
from pyro_dgm.training.random_state import forked
from pyro_dgm.training.steps import Players, Step

_INITIAL_DATA = 10_000  # enough for a mean of each pixel

SchedulerFactory = Callable[[torch.optim.Optimizer], LRScheduler]


@runtime_checkable
class _Prepares(Protocol):
    def materialize(self, *batch: Any) -> None: ...

    def initialize(self, *batch: Any) -> None: ...


@dataclass
class Learner:
    """A checked step with all that is known of what stands behind it.

    Args:
        step: the step.
        pair: model and guide, to be run again when a number goes bad; None for a step that hides them.
        program: the program; None for a user's own step.
        objective: the objective; None for a user's own step.
        average: moving average of the program's parameters.
        schedulers: of the learning rates, stepped once an epoch.
        main: name of the loss that is shown; empty for the first one that the step tells.
    """

    step: CheckedStep
    pair: tuple[Callable[..., Any], Callable[..., Any]] | None
    program: nn.Module | None = None
    objective: Any = None
    average: WeightAverage | None = None
    schedulers: Sequence[LRScheduler] = field(default_factory=list)
    main: str = ""

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Program and objective, where they are modules, by the first part of their checkpoint keys."""
        known = {"program": self.program, "objective": self.objective}
        return {name: module for name, module in known.items() if isinstance(module, nn.Module)}

    def end_epoch(self, val_loss: float | None) -> None:
        """Moves the learning rates; a plateau scheduler moves only after a validation.

        Args:
            val_loss: of this epoch, if there was a validation.
        """
        for scheduler in self.schedulers:
            if not isinstance(scheduler, ReduceLROnPlateau):
                scheduler.step()
            elif val_loss is not None:
                scheduler.step(val_loss)


def learner_of_step(step: Any, *, max_loss: float | None, validated: bool, processes: Processes) -> Learner:
    """A user's own step, checked.

    Args:
        step: anything with ``.step(*batch)``.
        max_loss: largest acceptable loss per datum.
        validated: whether it must tell its loss without an update.
        processes: those that train together, which takes an objective.

    Raises:
        InvalidInput: it cannot do what it must.
    """
    if not isinstance(step, Step):
        raise InvalidInput(
            "neither a step nor a program with an objective",
            where="fit",
            value=type(step).__name__,
            expected="a program and an objective, or an object with .step(*batch)",
            cure="fit(program, ELBO(), data, ...)",
        )
    if processes.size > 1:
        raise InvalidInput(
            "a step of one's own in several processes, which would drift apart",
            where="fit",
            value=type(step).__name__,
            expected="a program and an objective",
            cure="fit(program, ELBO(), data, ...), or one process",
        )
    if validated and not isinstance(step, Evaluates):
        raise InvalidInput(
            "validation of a step that cannot evaluate",
            where="fit",
            value=type(step).__name__,
            expected="a method evaluate_loss(*batch)",
            cure="data without a validation split (data.train)",
        )
    pair = (step.model, step.guide) if isinstance(step, SVI) else None
    return Learner(step=checked(step, max_loss=max_loss), pair=pair)


def require_program(program: Any, objective: Any) -> None:
    """Raises InvalidInput for what is no program, or no objective."""
    is_objective = callable(objective) or isinstance(objective, HasPlayers)
    if not isinstance(program, nn.Module) or not is_objective:
        raise InvalidInput(
            "not a program and an objective",
            where="fit",
            value=f"{type(program).__name__} and {type(objective).__name__}",
            expected="a Program and loss(model, guide, *batch)",
            cure="Pair(model, guide) and ELBO() or PyroELBO(...); fit(step, data=...) for a Step",
        )


def learner_of_program(
    program: Any,
    objective: Any,
    *,
    batches: Batches,
    dtype: torch.dtype,
    autocast: bool,
    optimizer: OptimizerFactory,
    scheduler: SchedulerFactory | None,
    clip_norm: float | None,
    max_loss: float | None,
    ema: float | None,
    init_from: str | Path | None,
) -> Learner:
    """Players of a program under an objective: the objective's own, or one for all parameters.

    Args:
        program: module with ``model`` and ``guide``; moved to device and type, after its parameters were
            made.
        objective: ``objective(model, guide, *batch)``, or one that names its players.
        batches: training batches; they say where, and with which other processes, to train.
        dtype: of the parameters.
        autocast: whether networks compute in bfloat16.
        optimizer: of the one player.
        scheduler: of each player's learning rate.
        clip_norm: see :class:`Players`.
        max_loss: see :class:`Players`.
        ema: decay of the average, see :class:`WeightAverage`.
        init_from: run or checkpoint whose weights the program starts from.

    Raises:
        InvalidInput: something in them is wrong, model or guide do not take the data's fields, or an optimiser was
            given to an objective that has its own.
    """
    model, guide = getattr(program, "model"), getattr(program, "guide")  # noqa: B009  # mypy: any module's
    if isinstance(program, _Prepares):
        require_fields(batches.split, (model, guide))
    starts = bool(getattr(objective, "starts_from_data", True))
    _prepare(program, batches.split, batches.batch_size, starts_from_data=starts)
    if init_from is not None:
        load_weights(program, init_from)
    device, processes = batches.device, batches.processes
    modules = [module for module in (program, objective) if isinstance(module, nn.Module)]
    for module in modules:
        module.to(device=device, dtype=dtype)
        module.train()
    if isinstance(objective, HasPlayers):
        if optimizer is not adam:
            raise InvalidInput(
                "an optimizer beside those of the players",
                where="optimizer",
                expected=f"none with {type(objective).__name__}, whose players have their own",
                cure="the optimizer argument of the objective",
            )
        players = objective.players(program)
    else:
        parameters = [p for module in modules for p in module.parameters()]
        tells = objective.report if isinstance(objective, Reports) else objective
        loss = functools.partial(tells, model, guide)
        players = [Player("program", loss, parameters, optimizer)]
    if autocast:
        players = [replace(player, loss=_autocast(player.loss, device)) for player in players]
    # Each process may have drawn first weights of its own.
    processes.align(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
    step = Players(
        players,
        clip_norm=clip_norm,
        max_loss=max_loss,
        processes=processes,
        batch_size=None if batches.split is None else batches.batch_size,
        modules=modules,
    )
    # Tied parameters under each of their names, as in state_dict: load_weights replaces all of these.
    named = program.named_parameters(remove_duplicate=False)
    return Learner(
        step=step,
        pair=(model, guide),
        program=program,
        objective=objective,
        average=None if ema is None else WeightAverage(named, decay=ema),
        schedulers=[scheduler(each) for each in step.optimizers.values()] if scheduler else [],
        main=players[0].name,
    )


def _prepare(program: nn.Module, train: Split | None, batch_size: int, *, starts_from_data: bool) -> None:
    """Makes lazy parameters, on the device and in the type that the program has now, and starts them from data."""
    if not isinstance(program, _Prepares):
        return
    try:
        leaf = next(iter(program.parameters()), torch.empty(0))
    except InvalidInput:  # a Pair, which has no parameters yet
        leaf = torch.empty(0)
    with forked(leaf.device):
        batch: tuple[Any, ...] = ()
        if train is not None:
            few = train[:batch_size].to(leaf.device, leaf.dtype)
            batch = few.batch(torch.arange(len(few), device=leaf.device))
        # Bad values are for the first step to find, which names the data and the site.
        with pyro.validation_enabled(False):
            program.materialize(*batch)
        if train is not None and starts_from_data:
            many = train[:_INITIAL_DATA].to(leaf.device, leaf.dtype)
            program.initialize(*many.batch(torch.arange(len(many), device=leaf.device)))


def _autocast(loss: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    def run(*batch: Any) -> Any:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            return loss(*batch)

    return run
