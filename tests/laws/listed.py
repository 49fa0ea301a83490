"""The two tests that a file of laws ends with, made from its table of laws, and faults that are planted for them."""

import contextlib
from unittest import mock

import pytest


def as_tests(laws, *, slow=lambda law, name: False):
    """The two tests of a table of laws: each holds for what is true, and fails for its mutants.

    Args:
        laws: triples of a law, its true implementations by name, and its mutants by name.
        slow: says of a law and the name of an implementation whether the two take minutes.
    """

    def listed(place):
        return [
            pytest.param(
                law,
                found,
                id=f"{law.__name__}-{name}",
                marks=[pytest.mark.slow] if slow(law, name) else [],
            )
            for law, *kinds in laws
            for name, found in kinds[place].items()
        ]

    @pytest.mark.parametrize(("law", "implementation"), listed(0))
    def test_law_holds(law, implementation):
        law(implementation)

    @pytest.mark.parametrize(("law", "mutant"), listed(1))
    def test_law_catches_mutant(law, mutant):
        with pytest.raises(AssertionError):
            law(mutant)

    return test_law_holds, test_law_catches_mutant


def as_tests_in_place(laws, stated=()):
    """The two tests of laws without arguments, whose mutants are contexts that put a fault in place.

    Args:
        laws: pairs of a law, and functions that make such contexts by name.
        stated: pairs of the same kind whose law is a test elsewhere, so that only its mutants are tested here.
    """

    @pytest.mark.parametrize("law", [pytest.param(law, id=law.__name__) for law, _ in laws])
    def test_law_holds(law):
        law()

    @pytest.mark.parametrize(
        ("law", "mutant"),
        [
            pytest.param(law, mutant, id=f"{law.__name__}-{name}")
            for law, mutants in [*laws, *stated]
            for name, mutant in mutants.items()
        ],
    )
    def test_law_catches_mutant(law, mutant):
        with mutant(), pytest.raises(AssertionError):
            law()

    return test_law_holds, test_law_catches_mutant


def planted(implementation, where, **replacements):
    """An implementation that runs with parts of a module or class replaced."""

    def mutant(*args, **kwargs):
        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.multiple(where, **replacements))
            return implementation(*args, **kwargs)

    return mutant
