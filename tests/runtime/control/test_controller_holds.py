"""Holds of the controller, their duration, and when they end a goal."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.runtime.control.controllers import (
    FAILURE_TOLERANCE_S,
    FRAME_NS,
    HORIZON,
    LATCHED_NS,
    LIMITS,
    OTHER_NS,
    SAMPLES,
    STEP_S,
    TIMEOUT_S,
    Level,
    Outcome,
    State,
    World,
)


def test_timeouts_expire_without_messages(world):
    reach = world.begin(timeout_s=0.3)
    world.now_s += 0.4
    world.controller.check_timeouts()
    assert reach.result.outcome is Outcome.TIMEOUT and not world.controller.may_move


def test_silence_stops_the_robot_and_aborts_an_action_goal_if_it_lasts(world):
    world.sought = OTHER_NS
    reach = world.begin()
    world.images()
    world.now_s += TIMEOUT_S + 0.1
    world.controller.check_timeouts()
    assert not world.controller.may_move and world.controller.verdict().level is Level.STALE
    assert reach.result is None
    world.now_s += FAILURE_TOLERANCE_S + 0.1
    world.controller.check_timeouts()
    assert reach.result.outcome is Outcome.ABORTED and "no futures for" in reach.result.reason
    world.sought = None
    world.images(1)
    assert world.controller.verdict().level is Level.OK


def test_goal_has_its_own_time_after_any_standstill(world):
    # As while the world model loads.
    for _ in range(2):
        world.now_s += FAILURE_TOLERANCE_S + 1.0
        world.controller.check_timeouts()
    reach = world.begin()
    world.now_s += FAILURE_TOLERANCE_S - 0.1
    world.controller.check_timeouts()
    assert reach.result is None
    world.sought = OTHER_NS
    assert world.images().command is not None and reach.result is None


def test_old_images_stop_the_robot(world):
    world.images()
    assert world.image(age_s=0.6).command is None
    assert (
        world.controller.verdict().level is Level.WARN and "0.60 s old" in world.controller.verdict().message
    )
    assert world.images().command is not None


def test_image_that_grows_too_old_stops_the_robot_despite_new_futures(world):
    assert world.images(age_s=0.3).command is not None
    for passed_s, drives in ((TIMEOUT_S - 0.31, True), (0.02, False)):
        world.now_s += passed_s
        world.controller.check_timeouts()
        assert world.controller.may_move is drives
    assert "no futures for 0.21 s" in world.controller.verdict().message
    assert "0.51 s old" in world.controller.verdict().message
    assert world.images(age_s=0.3).command is not None


def test_images_of_unknown_age_stop_the_robot(world):
    world.images()
    assert world.images(age_s=-0.3).command is not None, "clocks always differ slightly"
    assert world.image(age_s=-0.6).command is None
    assert (
        world.controller.verdict().level is Level.WARN
        and "0.60 s ahead" in world.controller.verdict().message
    )
    assert world.images().command is not None


def test_image_ahead_of_the_clock_gains_no_time(world):
    assert world.images(age_s=-0.4).command is not None
    world.now_s += TIMEOUT_S + 0.01
    world.controller.check_timeouts()
    assert not world.controller.may_move


def test_clock_set_forward_between_images_is_not_time_without_progress(world):
    reach = world.begin()
    world.sought = OTHER_NS
    assert world.images().command is not None
    for _ in range(3):
        world.frame += 10_000
        assert world.image().command is None, "the next command is not known yet"
        assert world.images().state is State.SEEKING and world.decision.command is not None
    assert reach.result is None and world.controller.may_move


def test_images_that_are_always_late_abort_an_action_goal(world):
    world.sought = OTHER_NS
    reach = world.begin()
    for _ in range(5):
        assert reach.result is None and world.image().command is None
        world.now_s += TIMEOUT_S + 0.1
        world.controller.check_timeouts()
    assert reach.result.outcome is Outcome.ABORTED and "no futures for" in reach.result.reason


@pytest.mark.parametrize(("every", "ends"), [(2, True), (5, False)])
def test_intermittent_hold_aborts_an_action_goal_if_the_robot_never_drives(world, every, ends):
    world.sought = OTHER_NS
    reach = world.begin()
    commands = 0
    for frame in range(90):
        world.energy *= 0.99
        commands += world.image(age_s=0.01 if frame % every else 0.6).command is not None
    assert bool(commands) is not ends and (reach.result is not None) is ends
    assert not ends or "s old when its futures arrived" in reach.result.reason


def test_surprises_stop_the_robot_until_they_end(world):
    world.images()
    for _ in range(5):
        world.image()
        world.monitor.add_surprise(True)
    assert not world.controller.may_move
    for _ in range(35):
        assert world.image().command is None, "for at least one second"
        world.monitor.add_surprise(False)
        if not world.monitor.holds:
            break
    assert world.images().command is not None


@pytest.mark.parametrize(("broken", "words"), [("nan", "not finite"), ("leaps", "beyond the limits")])
def test_forbidden_command_is_replaced_by_another_plan(world, broken, words):
    world.images()
    world.search.broken = broken
    decisions = [world.image() for _ in range(8)]
    assert decisions[-1].command is None
    assert all(LIMITS.forbids(d.command) == "" for d in decisions if d.command is not None)
    verdict = world.controller.verdict()
    assert verdict.level is Level.ERROR and words in verdict.message
    world.search.broken = ""
    assert world.images().command is not None and not world.monitor.holds


def test_failure_stops_the_robot_until_it_ends(world):
    world.images()
    world.search.broken = "fails"
    world.images()
    assert world.controller.state is State.HELD
    assert not world.controller.may_move and "RuntimeError: no memory" in world.controller.verdict().message
    world.search.broken = ""
    assert world.images().command is not None


def test_robot_restarts_from_standstill_after_a_failure(world):
    world.images(60)
    assert np.abs(world.last_command).max() > 0.4
    world.search.broken = "fails"
    while world.image() is not None:
        pass
    world.search.broken = ""
    while (decision := world.image()).command is None:
        pass
    assert np.abs(decision.command).max() <= LIMITS.max_change[0] * FRAME_NS / 1e9 / STEP_S + 1e-6


def test_commands_that_can_never_be_published_abort_an_action_goal(world):
    def obey(command, stamp_ns):
        if command is not None:
            raise RuntimeError("no room to publish")
        return np.zeros(2)

    world.obey, world.sought = obey, OTHER_NS
    reach = world.begin()
    for _ in range(80):
        world.energy *= 0.99
        world.image()
    assert reach.result.outcome is Outcome.ABORTED and "no room to publish" in reach.result.reason
    assert world.monitor.counts["fault"] == 1


@pytest.mark.parametrize("of", ["the image", "the candidates"])
def test_energies_that_are_not_finite_stop_the_robot(world, of):
    world.images()
    if of == "the image":
        world.energy = math.nan
    else:
        world.energies = np.full((SAMPLES, HORIZON), np.nan, np.float32)
    # Longer than the time without progress before a recovery motion.
    assert [decision for decision in (world.image() for _ in range(90)) if decision.command is not None] == []
    assert not world.controller.may_move and "not finite" in world.controller.verdict().message
    world.sought = None
    assert world.images().state is State.IDLE and not world.monitor.holds, "without a goal there are none"
    world.sought, world.energy, world.energies = LATCHED_NS, 10.0, None
    assert world.images().command is not None and not world.monitor.holds
    world.energies = np.full((SAMPLES, HORIZON), np.nan, np.float32)
    world.energies[1] = 1.0
    assert world.images().command is not None, "one candidate has finite energies"


def test_plans_without_evaluation_stop_the_robot_with_a_message_until_evaluated(world):
    world.answers, world.sought = False, OTHER_NS
    reach = world.begin()
    decisions = [world.image() for _ in range(60)]
    assert all(decision.command is None for decision in decisions) and decisions[-1].state is State.HELD
    verdict = world.controller.verdict()
    assert verdict.level is Level.WARN and "candidates arrived within a model step" in verdict.message
    world.answers = True
    assert world.images().command is not None and not world.monitor.holds
    world.answers = False
    world.images(150)
    assert (
        reach.result.outcome is Outcome.ABORTED
        and "candidates arrived within a model step" in reach.result.reason
    )


def test_robot_at_its_goal_needs_no_plan(world):
    world.answers = False
    world.images(60)
    world.energy = 0.5
    assert world.images().state is State.REACHED and world.controller.verdict().level is Level.OK


@pytest.mark.parametrize("goal_stamp", [None, OTHER_NS])
def test_old_failure_does_not_abort_the_next_goal(world, goal_stamp):
    world.search.broken = "fails"
    world.images()
    world.search.broken, world.sought = "", goal_stamp
    if goal_stamp is None:
        world.images()
        assert world.controller.verdict().level is Level.OK, "no action is required"
    world.now_s += FAILURE_TOLERANCE_S + 1.0
    reach = world.begin()
    assert not world.monitor.holds, "and it is not reported as the cause of the present hold"
    world.sought = OTHER_NS
    assert world.images().command is not None and reach.result is None


@pytest.mark.parametrize("ways", [(1, 1), (1, 0), (0, 1)])
def test_repeated_images_while_driving_stop_the_robot_and_abort_an_action_goal(ways):
    world = World(frozen_after_s=1.0)
    world.obey = lambda command, stamp_ns: np.zeros(2) if command is None else command * ways
    world.sought = OTHER_NS
    reach = world.begin()
    world.images(25)
    assert world.last_command.any() and world.controller.verdict().level is Level.OK
    world.images(15)
    assert not world.last_command.any() and world.controller.verdict().level is Level.ERROR
    while reach.result is None:
        world.image()
    assert reach.result.outcome is Outcome.ABORTED
    assert reach.duration_s <= FAILURE_TOLERANCE_S + 2.0, "releases in between do not prolong it"
    assert "the camera is frozen" in reach.result.reason


def test_robot_standing_during_a_silence_may_see_the_same_image_after_it():
    world = World(frozen_after_s=1.0)
    world.images()
    assert world.last_command.any()
    for _ in range(100):
        world.now_s += 0.05
        world.controller.check_timeouts()
    assert not world.controller.may_move
    world.images()
    assert world.last_command.any()


class Seen(World):
    """Pass images that show the motion, or not."""

    response = 1.0

    def image(self, **kwargs):
        executed = np.array(self.last_command, np.float32)
        self.energy -= 1e-3
        decision = super().image(**kwargs)
        self.controller.add_surprise(
            False, executed=executed, response=self.response if executed.any() else np.nan
        )
        return decision

    def drive(self, seconds):
        """Return the path, in units of the greatest norm times seconds."""
        path = 0.0
        for _ in range(round(seconds * 1e9 / FRAME_NS)):
            self.image()
            path += float(np.linalg.norm(self.last_command)) * FRAME_NS / 1e9
        return path


def test_robot_without_visible_motion_is_released_once_and_then_held_until_another_goal():
    world = Seen(frozen_after_s=1.0)
    assert world.drive(5.0) > 3.0
    world.response = 0.0
    assert world.drive(15.0) <= 2.0
    assert world.drive(60.0) == 0.0
    world.sought = LATCHED_NS + 1
    assert 0 < world.drive(60.0) <= 0.5, "one more attempt"
    world.receive_stop_message(stop=True)
    world.receive_stop_message(stop=False)
    world.sought = world.now_ns + 1
    assert 0 < world.drive(60.0) <= 0.5
    world.begin()
    world.sought = OTHER_NS
    assert 0 < world.drive(60.0) <= 0.5


def test_robot_that_did_not_move_as_commanded_tries_another_direction():
    world = Seen(frozen_after_s=1.0)
    world.drive(2.0)
    before, world.response = np.array(world.last_command), 0.0
    across = np.array([-before[1], before[0]])
    while not world.monitor.holds:
        world.image()
    world.response = 1.0
    while not world.last_command.any():
        world.image()
    assert world.last_command @ before <= abs(world.last_command @ across)


def test_blocked_robot_tries_another_direction_before_it_is_held():
    """A world whose images do not show motion into a wall."""
    world = Seen(frozen_after_s=1.0)
    world.drive(2.0)
    wall = np.array(world.last_command)
    across = np.array([-wall[1], wall[0]])
    for _ in range(60):
        pushes = world.last_command @ wall > abs(world.last_command @ across)
        world.response = 0.0 if pushes else 1.0
        world.image()
        assert not world.monitor.holds
    assert world.last_command.any()


def test_image_that_shows_motion_lets_the_robot_continue():
    world = Seen(frozen_after_s=1.0)
    world.drive(2.0)
    world.response = 0.0
    world.drive(3.0)
    assert world.monitor.counts["frozen"]
    world.response = 1.0
    assert world.drive(5.0) > 1.0 and not world.monitor.holds
