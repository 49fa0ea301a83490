"""What a network of discrete variables is made of, checked: names, parents without a cycle, sizes, values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter

import torch
from torch import Tensor

from pyro_dgm.errors import InvalidInput

_MOST_CELLS = 2**27  # of all tables: half a gigabyte of float32, which gradients and Adam take four times


def checked_parents(
    cardinalities: Mapping[str, int], parents: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """The parents of every variable, once they are known to make a network.

    Args:
        cardinalities: number of values of each variable by its name.
        parents: names of the parents of each variable that has any.

    Raises:
        InvalidInput: no variables, a variable of fewer than two values, a parent that is none of the variables or is
            named twice, a cycle, or tables of more than 2^27 cells.

    Example:
        >>> checked_parents({"rain": 2, "wet": 2}, {"wet": ["rain"]})
        {'rain': (), 'wet': ('rain',)}
        >>> checked_parents({"rain": 2, "wet": 2}, {"wet": ["rain"], "rain": ["wet"]})
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: a cycle in parents: rain -> wet -> rain; expected arrows that never lead back
    """
    if not cardinalities:
        raise InvalidInput("no variables", where="cardinalities", expected="a name and a number for each")
    for name, size in cardinalities.items():
        if size != int(size) or size < 2:
            where, expected = f"cardinalities, variable {name!r}", "an integer >= 2: how many values it has"
            raise InvalidInput("bad number of values", where=where, value=size, expected=expected)
    for name, own in parents.items():
        check_name(name, cardinalities, "parents")
        where = f"parents of {name!r}"
        if isinstance(own, str):
            raise InvalidInput("one name", where=where, value=own, expected="a list", cure=f"[{own}]")
        for place, parent in enumerate(own):
            check_name(parent, cardinalities, where)
            if parent in own[:place]:
                raise InvalidInput("a parent named twice", where=where, value=parent, expected="each once")
    found = {name: tuple(parents.get(name, ())) for name in cardinalities}
    try:
        TopologicalSorter(found).prepare()
    except CycleError as error:
        cycle = _from_the_first(error.args[1][:-1], list(cardinalities))
        raise InvalidInput(
            "a cycle",
            where="parents",
            value=" -> ".join([*cycle, cycle[0]]),
            expected="arrows that never lead back",
        ) from None
    cells = {name: math.prod(cardinalities[u] for u in (*own, name)) for name, own in found.items()}
    if sum(cells.values()) > _MOST_CELLS:
        largest = max(cells, key=lambda name: cells[name])
        raise InvalidInput(
            "tables too large",
            where=f"parents, the largest that of {largest!r}",
            value=f"{sum(cells.values())} cells",
            expected=f"at most {_MOST_CELLS}: each is a product of the numbers of values of a variable and its parents",
            cure="fewer parents, or MADE, whose conditionals are a network",
        )
    return found


def _from_the_first(cycle: list[str], order: list[str]) -> list[str]:
    """The same cycle from the variable that was named first."""
    start = cycle.index(min(cycle, key=order.index))
    return cycle[start:] + cycle[:start]


def check_name(name: str, names: Collection[str], where: str) -> None:
    """Refuses a name that is none of the variables'.

    Args:
        name: what was given.
        names: the variables.
        where: the argument, for the message.

    Raises:
        InvalidInput: with the nearest name, or the first few.
    """
    if name not in names:
        known = [str(other) for other in names]
        near = get_close_matches(str(name), known, 1)
        some = f"one of {', '.join(known[:8])}{', ...' * (len(known) > 8)}"
        cure = near[0] if near else ""
        raise InvalidInput("no such variable", where=where, value=repr(name), expected=some, cure=cure)


def check_values(x: Tensor, cardinalities: Mapping[str, int], where: str) -> None:
    """Refuses a value that its variable does not have.

    Args:
        x: (rows, variables), of any type.
        cardinalities: number of values of each variable by its name, in the order of the columns.
        where: the argument, for the message.

    Raises:
        InvalidInput: anything but 0, 1, ..., number of values - 1.

    Example:
        >>> check_values(torch.tensor([[0.0, 1.0], [1.0, 2.0]]), {"rain": 2, "wet": 2}, "x")
        Traceback (most recent call last):
        pyro_dgm.errors.InvalidInput: a value that 'wet' does not have in x, row 1: 2.0; expected a whole number ...
    """
    sizes = torch.tensor(list(cardinalities.values()), device=x.device)
    wrong = ~((x >= 0) & (x < sizes) & (x == x.long()))
    if bool(wrong.any()):
        row, column = wrong.nonzero()[0].tolist()
        raise InvalidInput(
            f"a value that {list(cardinalities)[column]!r} does not have",
            where=f"{where}, row {row}" if len(x) > 1 else where,
            value=x[row, column].item(),
            expected=f"a whole number from 0 to {int(sizes[column]) - 1}",
        )
