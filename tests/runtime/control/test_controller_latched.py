"""Expiry of a latched goal: its timeout, and stop messages."""

from __future__ import annotations

import pytest

from tests.runtime.control.controllers import LATCHED_NS, OTHER_NS, Level, Outcome, State, World

# By the clock of the publisher of the goal, which is not the robot's.
AHEAD_NS = 10**13


@pytest.mark.parametrize("asked_for", [False, True])
def test_goal_from_before_a_stop_is_over(world, asked_for):
    if asked_for:
        world.begin()
        world.sought = OTHER_NS
    assert world.images().command is not None
    world.receive_stop_message(stop=True)
    assert not world.controller.may_move and world.controller.verdict().level is Level.WARN
    assert world.images().command is None and world.controller.state is State.HELD
    assert [(reach.result.outcome, reach.result.reason) for reach in world.reaches] == [
        (Outcome.ABORTED, "stop requested")
    ] * asked_for
    world.receive_stop_message(stop=False)
    for _ in range(2):
        assert world.images(20).command is None and world.controller.state is State.IDLE
        world.swap_model()
    world.sought = world.now_ns + 1
    assert world.images().command is not None and world.controller.verdict().level is Level.OK


@pytest.mark.parametrize("goal_stamp", [LATCHED_NS, AHEAD_NS])
def test_stop_between_two_images_is_detected(world, goal_stamp):
    world.sought = goal_stamp
    assert world.images().command is not None
    world.receive_stop_message(stop=True)
    world.receive_stop_message(stop=False)
    assert world.images().command is None
    assert world.controller.verdict().message == "idle: the latched goal has expired, waiting for a new one"
    reach = world.begin()
    world.sought = OTHER_NS
    assert world.images().command is not None and reach.result is None


@pytest.mark.parametrize("goal_stamp", [8, AHEAD_NS])
def test_goals_received_during_a_stop_are_over(world, goal_stamp):
    world.receive_stop_message(stop=True)
    reach = world.begin()
    assert reach.result.outcome is Outcome.ABORTED and world.controller.goal is None
    world.images()
    world.sought = goal_stamp
    world.images()
    world.receive_stop_message(stop=False)
    assert world.images(20).command is None
    world.sought = world.now_ns + 1
    assert world.images().command is not None


@pytest.mark.parametrize("stamp_ns", [0, 8, 10**12])
def test_goal_without_images_before_the_release_is_over_by_its_stamp(world, stamp_ns):
    world.receive_stop_message(stop=True)
    world.receive_stop_message(stop=False)
    world.sought = stamp_ns
    assert world.images(20).command is None
    assert world.controller.verdict().message == "idle: the latched goal has expired, waiting for a new one"
    world.sought = 10**12 + 1
    assert world.images().command is not None


@pytest.mark.parametrize("goal_stamp", [None, LATCHED_NS])
def test_goals_of_a_clock_set_back_are_driven_to(world, goal_stamp):
    world.receive_stop_message(stop=True)
    world.receive_stop_message(stop=False)
    world.frame = -1000
    world.sought = goal_stamp
    world.images(20)
    world.sought = world.now_ns
    assert world.images().command is not None


def test_goals_without_a_stamp_are_driven_to_without_a_stop(world):
    world.receive_stop_message(stop=False)
    world.sought = 0
    assert world.images().command is not None


def test_silence_of_a_required_release_topic_stops_the_robot():
    world = World(stop_timeout_s=0.2)
    assert (
        world.images(20).command is None and "no stop message for 0.2 s" in world.controller.verdict().message
    )
    world.receive_stop_message(stop=False)
    world.sought = world.now_ns + 1
    assert world.images().command is not None
    world.now_s += 0.1
    world.controller.check_timeouts()
    assert not world.controller.may_move, "no message has arrived since"
    world.receive_stop_message(stop=False)
    assert world.images().command is None and world.controller.state is State.IDLE


def test_restarted_planner_with_a_release_topic_drives_to_no_earlier_goal():
    world = World(stop_timeout_s=0.2)
    world.receive_stop_message(stop=False)
    assert world.images().command is None


def test_latched_goal_expires_until_there_is_another():
    world = World(goal_timeout_s=1.0)
    assert world.images(30).command is not None
    world.images(1)
    assert world.image().command is None and world.controller.state is State.IDLE
    assert world.controller.verdict().message == "idle: the latched goal has expired, waiting for a new one"
    for goal_stamp in (None, LATCHED_NS):
        world.sought = goal_stamp
        assert world.images(20).command is None, "another client may set it again"
    world.sought = OTHER_NS
    assert world.images(30).command is not None


def test_reached_latched_goal_is_not_driven_to_forever():
    world = World(goal_timeout_s=1.0)
    world.energy = 0.5
    assert world.images(30).state is State.REACHED
    world.images(2)
    world.energy = 10.0
    assert world.images(20).command is None


def test_action_goal_has_the_requested_time():
    world = World(goal_timeout_s=1.0)
    world.begin(timeout_s=3.0)
    world.sought = OTHER_NS
    world.images(60)
    assert world.reaches[0].result is None
    world.images(40)
    assert world.reaches[0].result is not None


def test_latched_goal_expires_between_images():
    world = World(goal_timeout_s=1.0)
    world.controller.timeout_s = 60.0
    world.images(20)
    world.now_s += 0.5
    world.controller.check_timeouts()
    assert not world.controller.may_move
    world.begin()
    world.sought = OTHER_NS
    assert world.images().command is not None
    world.now_s += 0.5
    world.controller.check_timeouts()
    assert world.controller.may_move, "it does not apply to an earlier goal"
