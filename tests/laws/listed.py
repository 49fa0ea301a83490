"""Laws with their implementations and their mutants, as parameters of the two tests that a file of laws ends with."""

import contextlib
from unittest import mock

import pytest


def true_and_mutants(laws):
    """Parameters (law, implementation) of what must hold and of what must not.

    Args:
        laws: triples of a law, its true implementations by name, and its mutants by name.
    """
    return tuple(
        [
            pytest.param(law, found, id=f"{law.__name__}-{name}")
            for law, *kinds in laws
            for name, found in kinds[place].items()
        ]
        for place in (0, 1)
    )


def planted(implementation, where, **replacements):
    """An implementation that runs with parts of a module or class replaced."""

    def mutant(*args, **kwargs):
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(where, **replacements))
            return implementation(*args, **kwargs)

    return mutant
