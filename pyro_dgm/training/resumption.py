"""Everything that training holds between two steps, for a checkpoint and back from it, to the last bit."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from pyro_dgm.errors import IntegrityError
from pyro_dgm.training.callbacks import Callback
from pyro_dgm.training.checkpoint import load_tree
from pyro_dgm.training.random_state import random_state, set_random_state

if TYPE_CHECKING:
    from pyro_dgm.training.loop import Loop

logger = logging.getLogger(__name__)


def parts_of(loop: Loop) -> dict[str, Any]:
    """Named parts of a checkpoint.

    ``program``, ``objective``, ``optimizer`` (by player), ``scheduler``, ``ema``, ``rng``, ``data`` (order and
    position) and ``callbacks`` are what their names say; ``loop`` counts, ``means`` and ``watch`` are the epoch's.

    Args:
        loop: between two steps.
    """
    return {
        **_stateful(loop),
        "rng": random_state(loop.batches.device),
        "callbacks": {name: callback.state_dict() for name, callback in _named(loop.callbacks)},
        "settings": loop.settings,
        "loop": {
            "count": loop.count,
            "epoch": loop.epoch,
            "inside": loop.inside,
            "main": loop.learner.main,
            "averaged": loop.learner.average.count if loop.learner.average else 0,
            "seconds": loop.seconds + time.monotonic() - loop.started,
            "stopped_by": loop.history.stopped_by,
        },
    }


def resume(loop: Loop, tree: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Puts a loop where a checkpoint was taken.

    Args:
        loop: a new one, of the same program, objective and settings.
        tree: what the checkpoint holds.
        rows: the history until then.

    Raises:
        IntegrityError: it is the checkpoint of another run; the differences are named.
    """
    differences = [
        f"{name}: {tree['settings'].get(name)} in the run, {value} now"
        for name, value in loop.settings.items()
        if tree["settings"].get(name) != value
    ]
    if differences:
        raise IntegrityError(
            "checkpoint of a run with other settings",
            value="; ".join(differences),
            cure="the settings of that run, or init_from for a new one",
        )
    rest = load_tree(tree, _stateful(loop))
    state, best = rest["loop"], rest["best"]
    loop.count = loop.learner.step.count = state["count"]
    loop.epoch, loop.inside = state["epoch"], state["inside"]
    loop.learner.main, loop.seconds = state["main"], state["seconds"]
    if loop.learner.average is not None:
        loop.learner.average.count = state["averaged"]
    loop.history.rows, loop.history.stopped_by = rows, state["stopped_by"]
    loop.best.waited = best["waited"]
    if best["folder"] is not None:
        loop.best.loss, loop.best.states = best["loss"], best["states"]
    for name, callback in _named(loop.callbacks):
        if name in rest["callbacks"]:  # another set of callbacks is no fault
            callback.load_state_dict(rest["callbacks"][name])
    set_random_state(rest["rng"], loop.batches.device)
    logger.info("resumed after step %d of %d", loop.count, loop.num_steps)


def _named(callbacks: Sequence[Callback]) -> Iterator[tuple[str, Callback]]:
    """Callbacks by the name of their class, with a number where it comes again."""
    seen: Counter[str] = Counter()
    for callback in callbacks:
        name = type(callback).__name__
        seen[name] += 1
        yield f"{name} {seen[name]}", callback


def _stateful(loop: Loop) -> dict[str, Any]:
    learner = loop.learner
    average = {} if learner.average is None else {"ema": learner.average.values}
    objective = {"objective": learner.objective} if isinstance(learner.objective, nn.Module) else {}
    return {
        "program": learner.program,
        **objective,
        "optimizer": learner.step.optimizers,
        "scheduler": list(learner.schedulers),
        **average,
        "data": loop.batches,
        "means": loop.means,
        "watch": loop.watch,
    }
