"""A requested goal that moves on while the robot drives to it."""

from __future__ import annotations

import numpy as np

from jepa_runtime.control.safety_monitor import StopCause
from tests.runtime.control.controllers import OTHER_NS, Outcome, State, World

NEXT_NS, LAST_NS = OTHER_NS + 1, OTHER_NS + 2


def driving(*, is_via: bool = True) -> tuple[World, object]:
    world = World()
    goal = world.begin(is_via=is_via)
    world.sought = OTHER_NS
    world.images(8)
    assert world.decision.command is not None
    return world, goal


def test_moved_goal_continues_without_a_stop() -> None:
    world, goal = driving()
    speed = np.linalg.norm(world.last_command)
    for next_ns in (NEXT_NS, LAST_NS):
        assert world.controller.move_goal(next_ns, is_via=True)
        # Futures for the earlier goal still arrive, then those for the new one.
        for sought in (world.sought, next_ns, next_ns):
            world.sought, world.sought_by_service = sought, True
            world.image()
            assert world.decision.command is not None and world.controller.may_move
            assert np.linalg.norm(world.last_command) > speed / 2
    assert goal.result is None


def test_other_goal_restarts_the_plan() -> None:
    """The contrast to a moved goal: a goal that is not announced begins from a standstill."""
    world, _ = driving()
    world.begin(NEXT_NS)
    world.sought = NEXT_NS
    world.image()
    assert world.decision.command is None


def test_moved_goal_on_the_way_is_passed_and_the_last_one_ends() -> None:
    world, goal = driving()
    world.energy = 0.5
    world.images(3)
    assert world.decision.state is State.REACHED and goal.result is None and goal.is_reached
    world.controller.move_goal(NEXT_NS, is_via=False)
    world.images(3)
    assert goal.result is None and not goal.is_reached, "these futures belong to the earlier goal"
    world.sought, world.sought_by_service, world.energy = NEXT_NS, True, 10.0
    world.images(3)
    assert world.decision.command is not None
    world.energy = 0.5
    world.images(3)
    assert goal.result is not None and goal.result.outcome is Outcome.REACHED


def test_moved_goal_earlier_futures_after_new_ones_end_it() -> None:
    world, goal = driving()
    world.controller.move_goal(NEXT_NS, is_via=True)
    world.sought, world.sought_by_service = NEXT_NS, True
    world.image()
    world.sought = OTHER_NS
    world.image()
    assert goal.result is not None and goal.result.outcome is Outcome.ABORTED


def test_moved_goal_timeout_starts_again() -> None:
    world = World()
    goal = world.begin(is_via=True, timeout_s=0.5)
    world.sought = OTHER_NS
    world.images(12)
    world.controller.move_goal(NEXT_NS, is_via=True)
    world.sought, world.sought_by_service = NEXT_NS, True
    world.images(12)
    assert goal.result is None
    world.images(5)
    assert goal.result is not None and goal.result.outcome is Outcome.TIMEOUT


def test_moved_goal_does_not_release_the_safety_monitor() -> None:
    world, _ = driving()
    world.monitor.hold(StopCause.SURPRISE, "surprised")
    world.controller.move_goal(NEXT_NS, is_via=True)
    world.sought, world.sought_by_service = NEXT_NS, True
    world.image()
    assert world.decision.state is State.HELD and not world.controller.may_move
    assert world.monitor.cause is StopCause.SURPRISE


def test_moved_goal_without_a_goal_in_progress_is_reported() -> None:
    assert not World().controller.move_goal(NEXT_NS, is_via=True)
