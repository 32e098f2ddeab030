"""When a robot counts as stuck."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.control.progress_checker import ProgressChecker


def stuck(checker: ProgressChecker, *energies: float, period_ns: int = 1) -> list[bool]:
    """Return whether the robot is stuck at each of these energies, ``period_ns`` apart."""
    result = []
    for energy in energies:
        checker.add_time(period_ns)
        result.append(not checker.makes_progress(energy) and checker.is_stuck(energy))
    return result


def test_progress_checker_without_progress_is_stuck_after_the_allowance_and_starts_again() -> None:
    assert stuck(ProgressChecker(2), 1, 1, 1, 1, 1, 1, 1) == [False, False, False, True, False, False, True]


def test_progress_checker_progress_below_two_percent_does_not_count() -> None:
    assert stuck(ProgressChecker(1), 1, 0.99, 0.985) == [False, False, True]
    assert stuck(ProgressChecker(1), 1, 0.99, 0.97) == [False, False, False]


def test_progress_checker_reset_forgets_the_best_energy() -> None:
    checker = ProgressChecker(1)
    stuck(checker, 0.1, 5)
    checker.reset()
    assert stuck(checker, 5, 5) == [False, False]


def test_progress_checker_granted_time_does_not_count() -> None:
    checker = ProgressChecker(1)
    stuck(checker, 1, 1)
    checker.grant(3)
    assert stuck(checker, *[1] * 5) == [False, False, False, False, True]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_progress_checker_without_driving_time_is_never_stuck(energies: list[float]) -> None:
    assert not any(stuck(ProgressChecker(0), *energies, period_ns=0))


@pytest.mark.parametrize("energy", [math.nan, math.inf])
def test_progress_checker_energies_that_are_not_finite_are_no_progress(energy: float) -> None:
    assert stuck(ProgressChecker(1), energy, energy) == [False, True]
