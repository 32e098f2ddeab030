"""One goal: its end and its outcome."""

from __future__ import annotations

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_runtime.control import goal_tracker as reaching

Outcome, GoalTracker, GoalConfig = reaching.Outcome, reaching.GoalTracker, reaching.GoalConfig


GOAL_NS, STEP_NS = 7, 200_000_000


def reach(timeout_s=None):
    config = GoalConfig(
        goal_ns=GOAL_NS, threshold=None, timeout_s=timeout_s, give_up_after=2, failure_tolerance_s=2.0
    )
    goal = GoalTracker(config, now_s=100.0)
    goal.is_set = True
    return goal


def follow(goal, step=0, *, energy=5.0, stuck_count=0, reached=False):
    assert goal.matches(GOAL_NS)
    goal.update(
        stamp_ns=1_000_000_000 + round(step * STEP_NS),
        step_ns=STEP_NS,
        energy=energy,
        stuck_count=stuck_count,
        reached=reached,
    )


def test_goal_tracker_records_energies_and_steps():
    goal = reach()
    assert math.isnan(goal.energy) and math.isnan(goal.best_energy) and goal.steps == 0
    for step, energy in enumerate([5.0, 3.0, 4.0]):
        follow(goal, step, energy=energy)
        assert goal.steps == step
    assert (goal.energy, goal.best_energy, goal.steps, goal.result) == (4.0, 3.0, 2, None)


def test_goal_tracker_clock_jump_is_no_step_in_either_direction():
    goal = reach()
    for step in (0, 0.5, 1, 1_000_000_000, 1_000_000_001, -5, -4):
        follow(goal, step)
    assert goal.steps == 3


def test_goal_tracker_ends_as_reached_when_the_controller_reports_it():
    goal = reach()
    follow(goal, energy=0.5, reached=True)
    assert goal.result.outcome is Outcome.REACHED and "0.5" in goal.result.reason


def test_goal_tracker_too_many_recoveries_without_progress_is_stuck():
    goal = reach()
    follow(goal, energy=5.0, stuck_count=10)
    follow(goal, energy=4.95, stuck_count=11)
    assert goal.result is None
    follow(goal, energy=6.0, stuck_count=12)
    assert goal.result.outcome is Outcome.STUCK and "an energy of 4.95" in goal.result.reason


def test_goal_tracker_progress_resets_the_recovery_count():
    goal = reach()
    for stuck_count, energy in enumerate([5.0, 5.0, 4.0, 4.0, 3.0, 3.0]):
        follow(goal, energy=energy, stuck_count=stuck_count)
    assert goal.result is None


def test_goal_tracker_energies_that_are_not_finite_are_no_progress():
    goal = reach()
    for stuck_count in (10, 11, 12):
        assert goal.result is None
        follow(goal, energy=math.nan, stuck_count=stuck_count)
    assert goal.result.outcome is Outcome.STUCK


def test_goal_tracker_time_starts_at_acceptance():
    goal = reach(timeout_s=10.0)
    follow(goal)
    goal.check_timeouts(109.0, "")
    assert goal.result is None and goal.duration_s == 9.0
    goal.check_timeouts(110.5, "")
    assert goal.result.outcome is Outcome.TIMEOUT and "10 s" in goal.result.reason


def test_goal_tracker_lasting_hold_ends_the_goal():
    goal = reach()
    goal.check_timeouts(101.9, "no futures for 4.1 s")
    assert goal.result is None, "mostly before it was accepted"
    goal.check_timeouts(102.1, "no futures for 4.3 s")
    assert (goal.result.outcome, goal.result.reason) == (Outcome.ABORTED, "no futures for 4.3 s")


def test_goal_tracker_moved_goals_restart_the_timeout_but_not_the_time_of_a_hold():
    """A route moves its goal on more often than the tolerance, also while the robot is held."""
    goal = reach(timeout_s=1.5)
    follow(goal)
    for now_s in (101.0, 102.0):
        goal.check_timeouts(now_s, "frozen" if now_s > 102 else "")
        goal.move(GOAL_NS, is_via=True, now_s=now_s)
    assert goal.result is None
    goal.check_timeouts(102.5, "frozen")
    assert goal.result == reaching.GoalResult(Outcome.ABORTED, "frozen") and goal.duration_s == 2.5


def test_goal_tracker_world_model_without_the_goal_ends_it():
    goal = reach()
    assert not goal.matches(None) and not goal.matches(99), "futures of the previous goal"
    goal.check_timeouts(102.5, "")
    assert goal.result.outcome is Outcome.ABORTED and "no futures for this goal" in goal.result.reason


def test_goal_tracker_futures_before_the_request_belong_to_another_goal_of_the_same_stamp():
    goal = reach()
    goal.is_set = False
    assert not goal.matches(GOAL_NS) and not goal.matches(None) and not goal.is_replaced
    goal.is_set = True
    assert goal.matches(GOAL_NS) and goal.result is None


@pytest.mark.parametrize(
    ("now_sought", "reason", "replaced"),
    [(None, "the goal was cleared", False), (99, "another goal was set", True)],
)
def test_goal_tracker_ends_when_the_world_model_has_another_goal(now_sought, reason, replaced):
    goal = reach()
    follow(goal)
    assert not goal.matches(now_sought)
    assert (
        goal.result.outcome is Outcome.ABORTED
        and goal.result.reason == reason
        and goal.is_replaced is replaced
    )


def test_goal_tracker_energies_of_different_models_are_not_compared():
    goal = reach()
    follow(goal, energy=1.0, stuck_count=5)
    goal.reset_energies()
    follow(goal, energy=50.0, stuck_count=0)
    assert goal.best_energy == 50.0 and goal.result is None


def test_goal_tracker_waiting_thread_is_woken_by_the_end():
    goal, result = reach(), []
    waits = threading.Thread(target=lambda: result.append(goal.wait()))
    waits.start()
    goal.finish(Outcome.CANCELLED, "it was cancelled")
    waits.join(5.0)
    assert result == [goal.result]


@given(st.lists(st.sampled_from(list(Outcome)), min_size=1, max_size=5))
def test_goal_tracker_first_end_is_final(outcomes):
    goal = reach()
    assert [goal.finish(outcome, "") for outcome in outcomes] == [True] + [False] * (len(outcomes) - 1)
    assert goal.result.outcome is outcomes[0]
