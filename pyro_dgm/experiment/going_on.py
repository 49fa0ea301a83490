"""Whether a run may go on: its config, files, data and versions against those of now."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pyro_dgm.errors import IntegrityError
from pyro_dgm.experiment.config import Config
from pyro_dgm.experiment.user_files import changed_files

# A run may go on for longer, and be evaluated otherwise; what made its weights stays.
FREE = ("training.epochs", "training.steps", "training.checkpoint_seconds", "evaluation", "published", "run")
_PACKAGES = ("torch", "pyro-ppl", "numpy", "pyro-dgm")
_NOTHING = object()


def flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a config by dotted key, a mapping without keys among them.

    Example:
        >>> dict(flat({"training": {"epochs": 2, "ema": None}, "data": {}}))
        {'training.epochs': 2, 'training.ema': None, 'data': {}}
    """
    if not isinstance(value, dict) or not value:
        yield key, value
        return
    for name, part in value.items():
        yield from flat(part, f"{key}.{name}" if key else str(name))


def differences(old: Config, new: Config, *, given: Config, free: Sequence[str] = FREE) -> list[str]:
    """One text for each value that differs between the config of a run and the one given now.

    A key that the run lacks and nobody gave is the default of a newer version, and no difference.

    Args:
        old: config of the run.
        new: config of now, every value filled in.
        given: config of now as it was written and overridden.
        free: keys that may differ, and all below them.

    Example:
        >>> old, new = {"training": {"seed": 0, "epochs": 1}}, {"training": {"seed": 1, "epochs": 9, "ema": None}}
        >>> differences(old, new, given={"training": {"seed": 1, "epochs": 9}})
        ['training.seed: 0 in the run, 1 now']
    """
    values = [dict(flat(config)) for config in (old, new)]
    written = dict(flat(given))
    found: list[str] = []
    other_classes: list[str] = []
    for key in dict.fromkeys([*values[0], *values[1]]):
        was, now = (value.get(key, _NOTHING) for value in values)
        is_free = any(key == other or key.startswith(f"{other}.") for other in free)
        is_new_default = was is _NOTHING and key not in written
        # Another class has other arguments: its name says enough.
        is_said = any(key.startswith(node) for node in other_classes)
        if was == now or is_free or is_new_default or is_said:
            continue
        if key.endswith(".class_path"):
            other_classes.append(f"{key.removesuffix('class_path')}init_args")
        found.append(f"{key}: {_shown(was)} in the run, {_shown(now)} now")
    return found


def _shown(value: Any) -> str:
    return "nothing" if value is _NOTHING else json.dumps(value, ensure_ascii=False, default=str)


def check_going_on(old: Config, new: Config, *, given: Config, sources: Path) -> None:
    """Compares a run with what is to go on from it, and warns of other versions.

    Args:
        old: config of the run.
        new: config of now, every value filled in.
        given: config of now as it was written and overridden.
        sources: folder of the user's files.

    Raises:
        IntegrityError: another config, or user files or data that have changed; all differences are named.
    """
    found = differences(old, new, given=given)
    if found:
        raise IntegrityError(
            "another config",
            where="the run to go on with",
            value="; ".join(found),
            expected="the config that it began with; its length and evaluation may change",
            cure="another --out for a new run",
        )
    changed = changed_files(old["run"]["files"], sources)
    if changed:
        raise IntegrityError(
            "changed files",
            where="the run to go on with",
            value=", ".join(str(path) for path in changed),
            expected="the files that it began with",
            cure="to put them back (the run has copies), or another --out for a new run",
        )
    known = old["run"].get("data_sha256")  # older runs have none
    if known is not None and known != new["run"]["data_sha256"]:
        raise IntegrityError(
            "changed data",
            where="the run to go on with",
            value=f"sha256 {new['run']['data_sha256']}",
            expected=f"the data that it began with, sha256 {known}",
            cure="to put their files back, or another --out for a new run",
        )
    _warn_of_versions(old["run"].get("versions") or {}, new["run"]["versions"])


def _warn_of_versions(old: Mapping[str, str], new: Mapping[str, str]) -> None:
    others = [
        f"{name} {old[name]} (now {new[name]})"
        for name in _PACKAGES
        if name in old and old[name] != new[name]
    ]
    if others:
        text = f"the run began with {', '.join(others)}: it goes on, but not to the last bit as it would have"
        warnings.warn(text, stacklevel=2)
