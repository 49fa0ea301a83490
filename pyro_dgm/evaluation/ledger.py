"""The ledger of a result: everything a number needs to be believed, as one JSON file."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pyro_dgm.atomic import write_text
from pyro_dgm.errors import InvalidInput

SCHEMA = 1


@dataclass(frozen=True)
class Published:
    """Published number that a result is held against.

    Args:
        nats: negative log-likelihood per datum, in nats.
        source: where it was published.
    """

    nats: float
    source: str


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """One result, or the promise of one.

    Values are averages per datum, in nats, of log p(x) and its bound: higher is better.

    Args:
        config: name of the config.
        config_sha256: hash of the config as it was written and overridden.
        status: ``"done"``, or ``"not yet run"``; what belongs to a result alone is then missing.
        published: number to compare with.
        estimated_hours: of the whole run on two cores, where it is not yet run.
        data_set: name of the data set.
        preprocessing: what was done to the data, splits included.
        split: part of the data that was evaluated.
        split_size: number of data in it.
        given: fields of the data that the model conditions on; ``log_likelihood`` is then log p(x | those).
        estimator: what ``log_likelihood`` is.
        num_particles: draws from the guide per datum.
        log_likelihood: estimate of log p(x).
        standard_error: its standard error over the data.
        bits_per_dim: the same in bits per dimension: lower is better.
        elbo: bound on log p(x).
        elbo_standard_error: its standard error over the data.
        active_units: by latent site.
        num_parameters: number of trained parameters.
        seed: seed of the training.
        training_seconds: time the training took.
        evaluation_seconds: time the evaluation took.
        versions: of Python and of the packages that the numbers depend on; ``commit`` of a checkout.
        reliable: whether the checks of the posterior found nothing against the numbers; None if not checked.
        reasons: what they found.
        schema: version of this list.

    Example:
        >>> Ledger(config="vae", config_sha256="", status="not yet run", estimated_hours=2.0).data_set is None
        True
    """

    config: str
    config_sha256: str
    status: Literal["done", "not yet run"] = "done"
    published: Published | None = None
    estimated_hours: float | None = None
    data_set: str | None = None
    preprocessing: dict[str, Any] | None = None
    split: str | None = None
    split_size: int | None = None
    given: list[str] | None = None
    estimator: str | None = None
    num_particles: int | None = None
    log_likelihood: float | None = None
    standard_error: float | None = None
    bits_per_dim: float | None = None
    elbo: float | None = None
    elbo_standard_error: float | None = None
    active_units: dict[str, int] | None = None
    num_parameters: int | None = None
    seed: int | None = None
    training_seconds: float | None = None
    evaluation_seconds: float | None = None
    versions: dict[str, str] | None = None
    reliable: bool | None = None
    reasons: list[str] | None = None
    schema: int = SCHEMA

    @property
    def quantity(self) -> str:
        """What ``log_likelihood`` estimates, as ``log p(x)`` or ``log p(x | y)``."""
        return quantity_of(self.given)


def quantity_of(given: Sequence[str] | None) -> str:
    """What a likelihood is called: ``log p(x)``, or ``log p(x | y)`` where fields of the data are given."""
    return f"log p(x | {', '.join(given)})" if given else "log p(x)"


_ALWAYS = {"config", "config_sha256", "status", "schema"}
_MAY_LACK = {
    *("published", "estimated_hours", "training_seconds", "preprocessing", "active_units"),
    *("reliable", "reasons", "given"),
}


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a number depends on, and of this package its commit, if known."""
    found = {"python": platform.python_version()}
    for package in ("torch", "pyro-ppl", "numpy", "pyro-dgm"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    commit = _commit()
    return {**found, "commit": commit} if commit else found


@functools.cache
def _commit() -> str | None:
    """Commit of the checkout that the package runs from, with ``-dirty`` where files have changed since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # a checkout that merely contains an installed package is not ours
        return None
    command = ["git", "--no-optional-locks", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def write_json(path: Path, value: Any) -> None:
    """Writes JSON, whole or not at all.

    Raises:
        InvalidInput: NaN or an infinity in it, which JSON does not have.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError:
        bad = [name for name, part in _leaves(value) if type(part) is float and not math.isfinite(part)]
        expected = "finite numbers"
        raise InvalidInput("not finite", where=path.name, value=", ".join(bad), expected=expected) from None
    write_text(path, text + "\n")


def _leaves(value: Any, key: str = "") -> list[tuple[str, Any]]:
    match value:
        case dict():
            parts = list(value.items())
        case list():
            parts = list(enumerate(value))
        case _:
            return [(key, value)]
    return [leaf for name, part in parts for leaf in _leaves(part, f"{key}.{name}" if key else str(name))]


def write_ledger(path: Path, ledger: Ledger) -> None:
    """Writes a ledger atomically.

    Raises:
        InvalidInput: a value that is not finite.
    """
    write_json(path, {name: value for name, value in dataclasses.asdict(ledger).items() if value is not None})


def read_ledger(path: Path) -> Ledger:
    """Ledger of a file, its fields and their types checked.

    Raises:
        InvalidInput: not a ledger; the first thing that is wrong.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except OSError as error:
        raise InvalidInput("cannot read the ledger", where=str(path), value=error.strerror) from None
    except (ValueError, RecursionError) as error:
        raise InvalidInput("no JSON", where=str(path), value=error, expected="a ledger") from None
    return parse_ledger(found, where=str(path))


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def parse_ledger(found: Any, *, where: str) -> Ledger:
    """Ledger that plain data stand for; see :func:`read_ledger`."""
    if not isinstance(found, dict):
        raise InvalidInput("not a ledger", where=where, value=type(found).__name__, expected="a mapping")
    hints = get_type_hints(Ledger)
    if found.get("schema") != SCHEMA:
        raise InvalidInput("unknown schema", where=where, value=found.get("schema"), expected=str(SCHEMA))
    needed = set(hints) - (_MAY_LACK if found.get("status", "done") == "done" else set(hints) - _ALWAYS)
    if found.get("status") == "not yet run":
        needed |= {"estimated_hours"}
    for name in (*sorted(needed - found.keys()), *sorted(found.keys() - hints.keys())):
        what = "unknown field" if name in found else "missing field"
        raise InvalidInput(what, where=where, value=name, expected="the fields of a ledger")
    for name, value in found.items():
        if not _fits(value, hints[name]):
            expected = str(hints[name]).replace("typing.", "").replace("<class '", "").replace("'>", "")
            raise InvalidInput("wrong field", where=f"{where}, {name}", value=repr(value), expected=expected)
    published = found.get("published")
    return Ledger(**{**found, "published": Published(**published) if published else None})


_PLAIN: dict[Any, tuple[type, ...]] = {
    float: (float, int),
    int: (int,),
    bool: (bool,),
    str: (str,),
    type(None): (type(None),),
}


def _fits(value: Any, hint: Any) -> bool:
    """Whether JSON data fit a type of the ledger; by exact types, since a bool is no number."""
    if hint in _PLAIN:
        return type(value) in _PLAIN[hint]
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return value in parts
    if get_origin(hint) is dict:
        return type(value) is dict and all(_fits(part, parts[1]) for part in value.values())
    if get_origin(hint) is list:
        return type(value) is list and all(_fits(part, parts[0]) for part in value)
    if hint is Published:
        return type(value) is dict and {name: type(part) for name, part in value.items()} in _PUBLISHED
    return hint is Any or any(_fits(value, part) for part in parts)


_PUBLISHED = [{"nats": number, "source": str} for number in (int, float)]
