"""Everything that training holds between two steps, for a checkpoint and back from it, to the last bit."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pyro_dgm.errors import IntegrityError, InvalidInput
from pyro_dgm.training.callbacks import Callback
from pyro_dgm.training.checkpoint import load_tree
from pyro_dgm.training.learner import Learner
from pyro_dgm.training.random_state import random_state, set_random_state
from pyro_dgm.training.tree import states_of

if TYPE_CHECKING:
    from pyro_dgm.training.loop import Loop

# What may come in place of a value that training has now.
_KINDS: dict[type, Any] = {
    bool: bool,
    int: int,
    float: (int, float),
    str: str,
    dict: Mapping,
    list: list,
    tuple: tuple,
    NoneType: (NoneType, int, float),
    Tensor: Tensor,
}

logger = logging.getLogger(__name__)


def parts_of(loop: Loop) -> dict[str, Any]:
    """Named parts of a checkpoint.

    ``program``, ``objective``, ``optimizer`` (by player), ``scheduler``, ``ema``, ``rng``, ``data`` (order and
    position) and ``callbacks`` are what their names say; ``loop`` counts, ``means`` and ``watch`` are the epoch's.

    Args:
        loop: between two steps; of several processes all must call at once, since ``rng`` has the state of each.
    """
    return {
        **_stateful(loop),
        "rng": {
            name: loop.processes.gather(value) for name, value in random_state(loop.processes.device).items()
        },
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


def was_compiled(tree: Mapping[str, Any]) -> bool:
    """Whether the steps of the run that left a checkpoint were compiled.

    Args:
        tree: what the checkpoint holds.
    """
    settings = tree.get("settings")
    return isinstance(settings, Mapping) and settings.get("compile") is True


def require_saved(learner: Learner) -> None:
    """Raises InvalidInput for a trained parameter that no checkpoint would hold.

    Args:
        learner: of a run with a folder.
    """
    if learner.program is None:  # a step of the user's own, of which nothing is saved
        return
    owned = {id(p) for module in learner.modules.values() for p in module.parameters()}
    for name, optimizer in learner.step.optimizers.items():
        if any(id(p) not in owned for group in optimizer.param_groups for p in group["params"]):
            raise InvalidInput(
                "a trained parameter that no checkpoint would hold",
                where=f"player {name!r}",
                expected="parameters of the program or the objective",
                cure="an objective that is an nn.Module with its networks as submodules",
            )


def go_on(loop: Loop, tree: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Puts a loop where a checkpoint was taken.

    Args:
        loop: a new one, of the same program, objective and settings.
        tree: what the checkpoint holds.
        rows: the history until then.

    Raises:
        IntegrityError: it is the checkpoint of another run; the differences are named.
    """
    # A manifest is no signature: what it vouches for may have been made by another program.
    try:
        _compare_settings(loop.settings, tree["settings"])
        own = states_of(parts_of(loop))
        _compare_kinds("rng", own["rng"], tree["rng"])
        rest = load_tree(tree, _stateful(loop))
        _put_back(loop, rest, rows)
        # Compared when it is loaded: optimisers give what an older torch did not save the value that it had.
        now = states_of(parts_of(loop))
        for name in ("loop", "optimizer", "data", "watch"):  # schedules may change their types
            _compare_kinds(name, own[name], now[name])
    except IntegrityError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        value = f"{type(error).__name__}: {error}"
        raise IntegrityError("checkpoint that is none of fit's", value=value) from error
    logger.info("resumed after step %d of %d", loop.count, loop.num_steps)


def _put_back(loop: Loop, rest: dict[str, Any], rows: list[dict[str, Any]]) -> None:
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
    own = {name: values[loop.processes.rank] for name, values in rest["rng"].items()}
    set_random_state(own, loop.processes.device)


def _compare_settings(own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    differences = [
        f"{name}: {state.get(name)} in the run, {value} now"
        for name, value in own.items()
        if state.get(name) != value
    ]
    if differences:
        raise IntegrityError(
            "checkpoint of a run with other settings",
            value="; ".join(differences),
            cure="the settings of that run, or init_from for a new one",
        )


def _compare_kinds(where: str, own: Any, state: Any) -> None:
    """Refuses state of another form than training has now: it would fail much later, or never end.

    None may have become a number, and what was empty may hold anything; no count goes below zero. A learning rate of
    1 may have become 0.5.
    """
    kinds = _KINDS.get(type(own), object)
    if kinds is int and where.startswith("optimizer"):
        kinds = (int, float)
    same = isinstance(state, kinds) and isinstance(state, bool) <= isinstance(own, bool)
    if same and type(own) is int:
        same = state >= min(own, 0)
    inner, other = _inside(own), _inside(state)
    if not same or not inner.keys() <= other.keys():
        raise IntegrityError(
            "checkpoint that is none of fit's",
            where=where,
            value=f"{type(state).__name__} {str(state)[:40]}",
            expected=f"{type(own).__name__} {', '.join(map(str, inner))}",
        )
    for name, value in inner.items():
        _compare_kinds(f"{where}/{name}", value, other[name])


def _inside(value: Any) -> Mapping[Any, Any]:
    if isinstance(value, Tensor):
        return {f"of shape {tuple(value.shape)} and {value.dtype}": None}
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value))
    return value if isinstance(value, Mapping) else {}


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
