"""Checkpoints: tensors in safetensors, the rest as JSON, written whole or not at all; no pickles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pyro_dgm.errors import IntegrityError, InvalidInput
from pyro_dgm.training.averaging import WeightAverage
from pyro_dgm.training.checkpoint_files import STATE, TENSORS, read, read_state, write
from pyro_dgm.training.tree import flatten, unflatten


class Stateful(Protocol):
    """Step with a state: :class:`~pyro_dgm.training.Players`."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save_checkpoint(
    folder: str | Path,
    *,
    program: nn.Module,
    objective: Any = None,
    step: Stateful | None = None,
    average: WeightAverage | None = None,
    state: Mapping[str, Any],
) -> None:
    """Everything that training holds, in one folder.

    ``tensors.safetensors`` has the keys ``program/NAME``, ``objective/NAME``, ``optimizer/PLAYER/...``,
    ``ema/NAME`` and ``rng/torch``; ``state.json`` has the rest. Both are written to a temporary folder beside
    the final one, flushed to the disk and renamed.

    Args:
        folder: where; replaced if it exists.
        program: weights and buffers.
        objective: its weights, if it is a module.
        step: the players, for their optimisers.
        average: the moving average, if there is one.
        state: plain data of the caller.

    Raises:
        InvalidInput: ``state`` or an optimiser holds something else than plain data and tensors.
        ResourceError: the disk is full or cannot be written; an older checkpoint is then still there.
    """
    tensors = named_tensors(program, "program") | named_tensors(objective, "objective")
    tensors["rng/torch"] = torch.get_rng_state()
    plain: dict[str, Any] = {"state": dict(state), "step": None, "ema": None}
    if step is not None:
        step_state = step.state_dict()
        optimizer, more = flatten(step_state.pop("optimizer"), "optimizer")
        rest, others = flatten(step_state, "step")
        plain["step"] = {"optimizer": optimizer, "rest": rest}
        tensors |= more | others
    if average is not None:
        plain["ema"] = {"count": average.count}
        tensors |= {f"ema/{name}": value for name, value in average.values.items()}
    write(Path(folder), tensors, plain)


def load_checkpoint(
    folder: str | Path,
    *,
    program: nn.Module,
    objective: Any = None,
    step: Stateful | None = None,
    average: WeightAverage | None = None,
) -> dict[str, Any]:
    """Puts everything back where :func:`save_checkpoint` found it, torch's random state included.

    Args:
        folder: a checkpoint.
        program: takes the weights and buffers.
        objective: takes its weights.
        step: takes the state of the optimisers.
        average: takes the moving average.

    Returns:
        The plain data of the caller that saved.

    Raises:
        IntegrityError: the files are damaged, of a newer format, or their names and shapes are not those of
            the objects given.
        InvalidInput: the folder is no checkpoint.
    """
    tensors, plain = read(Path(folder))
    _load_into(program, tensors, "program")
    _load_into(objective, tensors, "objective")
    if step is not None:
        if plain["step"] is None:
            raise IntegrityError("no state of a step", where=str(folder), expected="one saved with its step")
        try:
            rest = unflatten(plain["step"]["rest"], tensors)
            step.load_state_dict({**rest, "optimizer": unflatten(plain["step"]["optimizer"], tensors)})
        except (KeyError, ValueError) as error:
            raise IntegrityError(f"state of another optimizer ({error})", where=str(folder)) from error
    if average is not None:
        if plain["ema"] is None:
            raise IntegrityError("no moving average", where=str(folder), expected="a run with ema")
        _compare("ema", average.values, _part(tensors, "ema"))
        for name, value in average.values.items():
            value.copy_(tensors[f"ema/{name}"])
        average.count = plain["ema"]["count"]
    if "rng/torch" in tensors:  # the best weights of a run are saved without
        torch.set_rng_state(tensors["rng/torch"])
    state: dict[str, Any] = plain["state"]
    return state


def load_weights(program: nn.Module, path: str | Path) -> None:
    """Puts the weights of a run into a program: those that ``fit`` left in it.

    These are the best validated ones if the run had early stopping, else the last ones, averaged if the run
    averaged.

    Args:
        program: takes the weights, by name.
        path: run directory or checkpoint folder.

    Raises:
        IntegrityError: damaged files; or names and shapes that differ, all of them listed.
        InvalidInput: there is no checkpoint.
    """
    tensors, _ = read(find_checkpoint(path))
    averages = {f"program/{name}": value for name, value in _part(tensors, "ema").items()}
    _load_into(program, tensors | averages, "program")


def find_checkpoint(path: str | Path) -> Path:
    """Folder of the weights that a run ended with, or the checkpoint folder itself.

    Args:
        path: run directory or checkpoint folder.

    Raises:
        InvalidInput: there is no checkpoint.
    """
    path = Path(path)
    if (path / TENSORS).is_file():
        return path
    last, best = path / "checkpoints" / "last", path / "checkpoints" / "best"
    if not (last / TENSORS).is_file():
        raise InvalidInput(
            "no checkpoint", where=str(path), expected=f"{TENSORS} and {STATE} there or in checkpoints/last"
        )
    wanted = best if read_state(last)["state"].get("weights") == "best" else last
    return wanted if (wanted / TENSORS).is_file() else last


def named_tensors(module: Any, prefix: str) -> dict[str, Tensor]:
    """State of a module by prefixed name; nothing for what is no module.

    Args:
        module: a module, or anything else.
        prefix: first part of the keys.
    """
    if not isinstance(module, nn.Module):
        return {}
    return {f"{prefix}/{name}": value.detach() for name, value in module.state_dict().items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{prefix}/"): v for k, v in tensors.items() if k.startswith(f"{prefix}/")}


def _load_into(module: Any, tensors: Mapping[str, Tensor], prefix: str) -> None:
    state = _part(tensors, prefix)
    own = {} if not isinstance(module, nn.Module) else module.state_dict()
    _compare(prefix, own, state)
    if isinstance(module, nn.Module):
        module.load_state_dict(state)


def _compare(what: str, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    problems = [f"missing {_some(own.keys() - state.keys())}"] if own.keys() - state.keys() else []
    problems += [f"unexpected {_some(state.keys() - own.keys())}"] if state.keys() - own.keys() else []
    problems += [
        f"{name} has shape {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & state.keys())
        if state[name].shape != own[name].shape
    ]
    if problems:
        raise IntegrityError(
            f"weights of another {what}", value="; ".join(problems), cure="the config of that run"
        )


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
