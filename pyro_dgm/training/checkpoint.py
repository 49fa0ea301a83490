"""Checkpoints: whatever has a state, by name; tensors in safetensors, the rest as JSON, no pickles."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn

from pyro_dgm.errors import IntegrityError, InvalidInput
from pyro_dgm.training.checkpoint_files import (
    BEST,
    CHECKPOINTS,
    STATE,
    TENSORS,
    current,
    is_name,
    read,
    saved,
    write,
)
from pyro_dgm.training.manifest import MANIFEST, damaged
from pyro_dgm.training.tree import Stateful, flatten, states_of, unflatten


def save_checkpoint(folder: str | Path, parts: Mapping[str, Any]) -> None:
    """Named parts of a training run, in one folder.

    ``tensors.safetensors`` holds the tensors under names such as ``program/decoder.0.weight``, ``state.json`` the
    rest and ``manifest.json`` the sha256 of both. They are written to a temporary folder beside the final one,
    flushed to the disk and renamed.

    Args:
        folder: where; replaced if it exists.
        parts: by name, what has ``state_dict`` and ``load_state_dict``; dicts and lists of such; tensors; plain data.

    Raises:
        InvalidInput: something in it is neither plain data nor a tensor.
        ResourceError: the disk is full or cannot be written; an older checkpoint is then still there.

    Example:
        >>> import pathlib, tempfile, torch
        >>> layer = torch.nn.Linear(2, 1)
        >>> with tempfile.TemporaryDirectory() as name:
        ...     save_checkpoint(pathlib.Path(name) / "one", {"layer": layer, "epoch": 3})
        ...     load_checkpoint(pathlib.Path(name) / "one", {"layer": layer})
        {'epoch': 3}
    """
    plain, tensors = flatten(states_of(parts))
    write(Path(folder), tensors, plain)


def load_checkpoint(folder: str | Path, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Puts the state of named parts back.

    Args:
        folder: a checkpoint.
        parts: by name, what takes its state back: as they were given to :func:`save_checkpoint`. Tensors are
            filled in place.

    Returns:
        What else was saved, by name.

    Raises:
        IntegrityError: the files are damaged or of a newer format, or their names and shapes are not those of
            the parts given.
        InvalidInput: the folder is no checkpoint.
    """
    with _at(folder):
        return load_tree(read_tree(folder), parts)


def read_tree(folder: str | Path) -> dict[str, Any]:
    """Everything that a checkpoint holds, as nested plain data and tensors; raises as :func:`load_checkpoint`."""
    tensors, plain = read(Path(folder))
    # Also what a manifest vouches for may be something else: it is no signature.
    try:
        tree = unflatten(plain, tensors)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        value = f"{type(error).__name__}: {error}"
        raise damaged(Path(folder), value=value) from error
    if not isinstance(tree, dict) or not all(isinstance(name, str) for name in tree):
        raise damaged(Path(folder), expected="named parts")
    return tree


def load_tree(tree: Mapping[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    """Puts what :func:`read_tree` gave into the parts; returns the rest."""
    _refuse("checkpoint", _strangers(tree.keys() | parts.keys(), tree.keys()))
    for name, part in parts.items():
        _load(name, part, tree[name])
    return {name: value for name, value in tree.items() if name not in parts}


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
    folder = find_checkpoint(path)
    tree = read_tree(folder)
    if folder != Path(path) and "best" in tree:
        best = best_of(folder, tree)
        if best["restored"] and best["folder"] is not None:
            tree = read_tree(folder.with_name(best["folder"]))
    weights = {}
    for part in ("program", "ema"):
        if not isinstance(tree.get(part, {}), Mapping):
            raise damaged(folder, expected=f"tensors in {part}")
        weights.update(tree.get(part, {}))
    with _at(folder):
        _load("program", program, weights)


def best_of(folder: Path, tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a checkpoint of a run says of the best weights, checked: ``folder``, ``loss``, ``waited``, ``restored``.

    Args:
        folder: the checkpoint, for the message.
        tree: what it holds.

    Raises:
        IntegrityError: it says something else, as a folder that is none of this run's.
    """
    best = tree.get("best")
    expected: dict[str, Any] = {
        "folder": (str, NoneType),
        "loss": (float, int, NoneType),
        "waited": int,
        "restored": bool,
    }
    if (
        isinstance(best, Mapping)
        and best.keys() == expected.keys()
        and all(isinstance(best[name], kinds) for name, kinds in expected.items())
        and (best["folder"] is None or (is_name(BEST, best["folder"]) and best["loss"] is not None))
    ):
        return best
    raise damaged(folder, expected="the name of a folder of best weights beside it")


def find_checkpoint(path: str | Path) -> Path:
    """Newest checkpoint of a run, or the checkpoint folder itself.

    Args:
        path: run directory or checkpoint folder.

    Raises:
        InvalidInput: there is no checkpoint.
    """
    path = Path(path)
    if any((current(path) / name).exists() for name in (MANIFEST, TENSORS, STATE)):
        return path
    folders = saved(path)
    if not folders:
        raise InvalidInput(
            "no checkpoint", where=str(path), expected=f"{MANIFEST} there, or folders in {CHECKPOINTS}/"
        )
    return folders[0]


@contextlib.contextmanager
def _at(folder: str | Path) -> Iterator[None]:
    """Block whose faults name the checkpoint."""
    try:
        yield
    except IntegrityError as fault:
        if fault.where:
            raise
        raise IntegrityError(
            fault.what, where=str(folder), value=fault.value, expected=fault.expected, cure=fault.cure
        ) from fault


def _load(name: str, part: Any, state: Any) -> None:
    if isinstance(part, Stateful):
        try:
            if isinstance(part, nn.Module):
                _compare(name, part.state_dict(), state)
            part.load_state_dict(state)
        except IntegrityError:
            raise
        except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            value = f"{type(error).__name__}: {error}".splitlines()[0]
            raise IntegrityError(f"state of another {name}", value=value) from error
    elif isinstance(part, Mapping):
        _refuse(name, _strangers(part.keys(), state.keys() if isinstance(state, Mapping) else ()))
        for key, value in part.items():
            _load(f"{name}/{key}", value, state[key])
    elif isinstance(part, Sequence):
        if not isinstance(state, list) or len(state) != len(part):
            raise IntegrityError(f"state of another {name}", expected=f"{len(part)} of them")
        for index, value in enumerate(part):
            _load(f"{name}/{index}", value, state[index])
    else:
        _compare(name, {name: part}, {name: state})
        with torch.no_grad():
            part.copy_(state)


def _compare(what: str, own: Mapping[str, Any], state: Any) -> None:
    """Raises IntegrityError for names and shapes that differ, all of them listed."""
    state = state if isinstance(state, Mapping) else {}
    problems = _strangers(own.keys(), state.keys())
    for name in sorted(own.keys() & state.keys()):
        expected, found = _shape(own[name]), _shape(state[name])
        if expected != found:
            problems.append(f"{name} has shape {found} instead of {expected}")
    _refuse(what, problems)


def _shape(value: Any) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _strangers(own: Iterable[str], state: Iterable[str]) -> list[str]:
    own, state = {str(name) for name in own}, {str(name) for name in state}
    problems = [f"missing {', '.join(sorted(own - state))}"] if own - state else []
    return problems + ([f"unexpected {', '.join(sorted(state - own))}"] if state - own else [])


def _refuse(what: str, problems: list[str]) -> None:
    if problems:
        raise IntegrityError(
            f"state of another {what}", value="; ".join(problems), cure="the config of that run"
        )
