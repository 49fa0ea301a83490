"""The check that all tests of faults go through fails where it must."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.conftest import Outcome, fault_of

GOOD = Outcome(2, "", "error: a fault in x: 1; expected 2; try 2\n", frozenset())


@pytest.mark.parametrize(
    "change",
    [
        {"code": 0},
        {"code": 1},
        {"out": "text"},
        {"new": frozenset(["run"])},
        {"err": ""},
        {"err": GOOD.err * 2},
        {"err": GOOD.err + "more\n"},
        {"err": "Traceback (most recent call last):\n" + GOOD.err},
        {"err": "error: a fault in x: 1; expected 2\n"},
        {"err": "error: a fault in x: 1; try 2\n"},
        {"err": "error: a fault in x; expected 2; try 2\n"},
        {"err": "error: a fault\n"},
    ],
)
def test_the_check_of_a_fault_can_fail(change: dict[str, object]) -> None:
    fault_of(GOOD)
    with pytest.raises(AssertionError):
        fault_of(replace(GOOD, **change))
