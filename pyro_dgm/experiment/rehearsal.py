"""One rehearsed step before training: what does not go together is found now, with nothing written."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from jsonargparse import Namespace
from pyro import poutine
from torch import nn

from pyro_dgm.data import Split
from pyro_dgm.errors import Fault, IncompatibleModel, InvalidInput
from pyro_dgm.evaluation.likelihood import log_likelihood
from pyro_dgm.experiment.build import naming
from pyro_dgm.experiment.config import Config
from pyro_dgm.experiment.memory import bounded
from pyro_dgm.objectives.player import HasPlayers, adam
from pyro_dgm.program import Program
from pyro_dgm.training.fields import require_fields
from pyro_dgm.training.random_state import forked
from pyro_dgm.training.steps import Players, require_loss, split_loss
from pyro_dgm.training.supports import require_supported

_FEW = 4  # data in the rehearsed batch: enough for a plate, few enough for the largest model
_TABLE = "Trace Shapes:"  # Pyro's table of all sites, which it adds to errors of a model, fits on no line


def rehearse(objects: Namespace, config: Config) -> None:
    """Runs program, objective, optimiser and schedule once, and leaves random state and weights as they were.

    Args:
        objects: what ``build`` made.
        config: what it was made of, to name the key that is at fault.

    Raises:
        InvalidInput: data that the observation cannot have given, options that exclude each other, a learning
            rate that is not positive.
        IncompatibleModel: an objective that means nothing for this model.
    """
    program, objective, data = objects.program, objects.objective, objects.data
    with forked(torch.device("cpu")):
        # No more data than training will have in a batch: batch normalisation refuses a single one.
        batch_size = min(_FEW, len(data.train), max(1, objects.training.batch_size))
        require_fields(data.train, (program.model, program.guide))
        with bounded():
            batch = data.train.batch(torch.arange(batch_size))
            _run("program", program.materialize, *batch)
        # A bound takes as long as the model itself: it is for the first run, and for the particles of the objective.
        parts = {f"data.{part}": getattr(data, part) for part in ("train", "val", "test")}
        check_observations(program, parts, device=torch.device("cpu"), batch_size=batch_size)
        modules = [module for module in (program, objective) if isinstance(module, nn.Module)]
        kept = [copy.deepcopy(module.state_dict()) for module in modules]
        if isinstance(objective, HasPlayers):
            with bounded():
                _rehearse_players(objects, batch)
        else:
            pair = (program.model, program.guide)
            with bounded():
                loss = require_loss(_run("objective", objective, *pair, *batch), "objective")
                _run("objective", loss.backward)
            with naming(config):
                _check_optimizer(objects, config)
            with suppress(IncompatibleModel):  # an objective that trains it needs no density of it
                _run("evaluation", log_likelihood, *pair, *batch, num_particles=1)
        for module, state in zip(modules, kept, strict=True):
            module.zero_grad(set_to_none=True)
            module.load_state_dict(state)


def _rehearse_players(objects: Namespace, batch: tuple[Any, ...]) -> None:
    """Every player's loss and gradient. What players train may have no density: nothing is evaluated."""
    if objects.optimizer is not None:
        raise InvalidInput(
            "an optimizer beside those of the players",
            where="optimizer",
            expected=f"none with {type(objects.objective).__name__}, whose players have their own",
            cure="the optimizer argument of the objective",
        )
    players = _run("objective", objects.objective.players, objects.program)
    steps = _run("objective", Players, players)  # makes the optimisers, which check their learning rates
    for optimizer in steps.optimizers.values():
        _require_no_closure(type(optimizer), "objective")
    for player in players:
        loss, _ = split_loss(_run("objective", player.loss, *batch), player.name)
        _run("objective", loss.backward, inputs=[p for p in player.parameters if p.requires_grad])


def _run(key: str, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except Fault as fault:
        if _TABLE not in fault.what:
            raise
        raise type(fault)(fault.what.partition(_TABLE)[0], where=fault.where) from fault
    except (OSError, MemoryError, torch.OutOfMemoryError):
        raise
    except (
        Exception
    ) as error:  # whatever the user's networks raise; Pyro's warnings too, where they are errors
        text = str(error).partition(_TABLE)[0]
        if "allocate memory" in text:  # torch's RuntimeError where there is no more of it
            raise
        value = f"{type(error).__name__}: {text}"
        expected = f"a step on {_FEW} data, or on a batch if that is less"
        cure = "another objective, a program that fits the data, or a larger batch_size"
        raise InvalidInput(
            "a first step fails", where=key, value=value[:500], expected=expected, cure=cure
        ) from error


def check_observations(
    program: Program, parts: Mapping[str, Split], *, device: torch.device, batch_size: int
) -> None:
    """Each element of the data must be one that its observation can give; else the bound is of no model.

    Args:
        program: the program.
        parts: of the data, by what to call them.
        device: where the program and these parts are.
        batch_size: the most data that the program is run with.

    Raises:
        InvalidInput: a value outside the support of its observation, by name and place.
    """

    def density(*batch: Any) -> None:
        guide_trace = poutine.trace(program.guide).get_trace(*batch)
        trace = poutine.trace(poutine.replay(program.model, trace=guide_trace)).get_trace(*batch)
        trace.compute_log_prob()

    pair = (program.model, program.guide)
    require_supported(parts, pair, refuses=density, device=device, batch_size=batch_size)


def _check_optimizer(objects: Namespace, config: Config) -> None:
    given = config.get("optimizer") or {}
    rate = (given.get("init_args") or {}).get("lr")  # optimizers refuse a bad one without its key
    if rate is not None and not 0 < float(rate) < math.inf:
        raise InvalidInput(
            "bad learning rate",
            where="optimizer.init_args.lr",
            value=rate,
            expected="a positive number",
            cure="1e-3",
        )
    optimizer = (objects.optimizer or adam)(list(objects.program.parameters()))
    _require_no_closure(type(optimizer), "optimizer")
    if objects.scheduler is not None:
        objects.scheduler(optimizer)


def needs_closure(optimizer: type[torch.optim.Optimizer]) -> bool:
    """Whether the step of an optimiser must be given the loss, which it runs itself, as often as it likes.

    Example:
        >>> needs_closure(torch.optim.LBFGS), needs_closure(torch.optim.Adam)
        (True, False)
    """
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def _require_no_closure(optimizer: type[torch.optim.Optimizer], key: str) -> None:
    if needs_closure(optimizer):
        raise InvalidInput(
            "an optimizer that runs the loss itself",
            where=key,
            value=optimizer.__name__,
            expected="one that steps along a gradient",
            cure="torch.optim.Adam",
        )
