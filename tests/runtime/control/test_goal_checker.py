"""When a goal counts as reached."""

from __future__ import annotations

import math

import pytest

from jepa_runtime.control.goal_checker import GoalChecker


def reached(checker: GoalChecker, *energies: float) -> list[bool]:
    return [checker.update(energy) for energy in energies]


def test_goal_checker_needs_consecutive_images_at_or_below_the_threshold() -> None:
    assert reached(GoalChecker(1.0, images=2), 1.0, 1.1, 1.0, 0.5) == [False, False, False, True]


def test_goal_checker_leaves_a_goal_only_by_a_clear_margin() -> None:
    checker = GoalChecker(1.0, images=2)
    assert reached(checker, 1, 1, 1.9, 2.0, 2.1, 1.9) == [False, True, True, True, False, False]


def test_goal_is_reached_only_within_the_tolerance_of_its_pose() -> None:
    checker = GoalChecker(1.0, images=2)
    assert [checker.update(0.5, ratio) for ratio in (1.1, 1.0, 0.5)] == [False, False, True]
    # It is left by a clear margin, too.
    assert [checker.update(0.5, ratio) for ratio in (1.9, 2.1)] == [True, False]


def test_goal_checker_reset_forgets_all_images() -> None:
    checker = GoalChecker(1.0, images=2)
    reached(checker, 1, 1)
    checker.reset()
    assert not checker.is_reached and reached(checker, 1, 1) == [False, True]


@pytest.mark.parametrize("energy", [math.nan, math.inf])
def test_goal_checker_energy_that_is_not_finite_does_not_count(energy: float) -> None:
    assert reached(GoalChecker(1.0, images=1), energy) == [False]
