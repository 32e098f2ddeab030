"""When a robot counts as stuck."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.control.progress_checker import ProgressChecker


def told(detector: ProgressChecker, *energies: float) -> list[bool]:
    return [detector.is_stuck(energy) for energy in energies]


def test_a_robot_without_progress_for_its_patience_is_stuck_and_begins_anew() -> None:
    assert told(ProgressChecker(3), 1, 1, 1, 1, 1, 1, 1, 1) == [False, False, False, True] * 2


def test_progress_of_less_than_two_percent_is_none() -> None:
    assert told(ProgressChecker(2), 1, 0.99, 0.985) == [False, False, True]
    assert told(ProgressChecker(2), 1, 0.99, 0.97) == [False, False, False]


def test_a_new_goal_is_no_step_back() -> None:
    detector = ProgressChecker(2)
    told(detector, 0.1, 5)
    detector.reset()
    assert told(detector, 5, 5) == [False, False]


@given(st.lists(st.floats(0, 100), max_size=50))
def test_without_patience_to_lose_a_robot_is_never_stuck(energies: list[float]) -> None:
    assert not any(told(ProgressChecker(None), *energies))


@given(st.integers(1, 5), st.lists(st.floats(0, 100), max_size=50))
def test_a_robot_is_stuck_at_most_once_in_its_patience_and_a_step(
    patience: int, energies: list[float]
) -> None:
    stuck = [step for step, now in enumerate(told(ProgressChecker(patience), *energies)) if now]
    assert all(later - earlier > patience for earlier, later in pairwise(stuck))


@pytest.mark.parametrize("energy", [float("nan"), float("inf")])
def test_energies_that_are_not_numbers_are_no_progress(energy: float) -> None:
    assert told(ProgressChecker(2), energy, energy) == [False, True]
