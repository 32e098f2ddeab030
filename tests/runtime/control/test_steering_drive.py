"""Closed loop with steering: success with noisy and late readings, and every fault of the readings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from jepa_runtime.control.goal_tracker import Outcome
from jepa_runtime.control.receding_horizon import State
from jepa_runtime.control.safety_monitor import StopCause
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.util.poses import Pose
from tests.runtime.control.steering_robot import CONFIG, TICK_S, Noise, Reading, SteeredRobot

EPISODES = 16
ORIGIN = np.zeros(3)

Goals = Callable[[np.random.Generator], Pose]


def around(near_m: float, far_m: float, bearings: tuple[float, float], max_yaw: float) -> Goals:
    """Return goals at these distances, bearings to either side [degrees], and headings [degrees]."""

    def draw(rng: np.random.Generator) -> Pose:
        distance, yaw = rng.uniform(near_m, far_m), math.radians(rng.uniform(-max_yaw, max_yaw))
        bearing = math.radians(rng.uniform(*bearings)) * rng.choice((-1, 1))
        return np.array([distance * math.cos(bearing), distance * math.sin(bearing), yaw])

    return draw


GOALS: dict[str, Goals] = {
    "ahead": around(0.4, 3.0, (0, 60), 60),
    "at 90 degrees": around(0.4, 3.0, (80, 100), 90),
    "behind": around(0.3, 2.0, (150, 180), 60),
    "displaced": lambda rng: np.array([*rng.normal(0, 0.12, 2), rng.normal(0, 0.15)]),
}


with_and_without_odometry = pytest.mark.parametrize("has_odometry", [False, True])


@with_and_without_odometry
@pytest.mark.parametrize("latency_s", [0.0, 0.3])
@pytest.mark.parametrize("goals", GOALS)
def test_steering_reaches_goals_with_noisy_and_late_readings(
    goals: str, latency_s: float, has_odometry: bool
) -> None:
    """Errors of 10 degrees and 20 %, half of which last for some images."""
    rng = np.random.default_rng(1)
    reached = 0
    for seed in range(EPISODES):
        robot = SteeredRobot(
            ORIGIN,
            GOALS[goals](rng),
            latency_s=latency_s,
            noise=Noise(),
            has_odometry=has_odometry,
            seed=seed,
        )
        robot.drive(24.0, until=State.REACHED)
        reached += robot.state is State.REACHED and robot.is_at_goal
    print(f"{goals}, {latency_s:g} s: {reached} of {EPISODES}")
    assert reached >= 0.95 * EPISODES


def test_latency_is_compensated() -> None:
    """A robot that turns for as long as its images are late turns too far, and turns back too far."""
    durations = {}
    for compensates in (True, False):
        config = replace(CONFIG, compensate_latency=compensates)
        robot = SteeredRobot(ORIGIN, np.array([0.0, 1.5, 1.0]), latency_s=0.6, config=config)
        durations[compensates] = robot.drive(30.0, until=State.REACHED).now_s
    assert durations[True] < durations[False] - 5


def test_blocked_robot_becomes_stuck_and_recovers() -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), config=replace(CONFIG, recovery_s=0.6))
    robot.drive(2.0)
    robot.blocked = True
    began = len(robot.commands)
    robot.drive(8.0, until=State.STUCK)
    assert robot.state is State.STUCK
    robot.drive(2.0)
    slow = 0.3 * np.array([0.5, 1.5]) + 1e-6
    moves = [each for each in robot.commands[began:] if each.any() and (np.abs(each) <= slow).all()]
    assert len(moves) * TICK_S == pytest.approx(0.6, abs=0.1)
    robot.blocked = False
    assert robot.drive(15.0, until=State.REACHED).is_at_goal


def test_requested_goal_of_a_blocked_robot_ends_as_stuck() -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]))
    robot.blocked = True
    tracker = robot.request_goal()
    robot.drive(20.0)
    assert tracker.result is not None and tracker.result.outcome is Outcome.STUCK
    assert not robot.command.any()


def no_reading(_pose: RelativePose) -> None:
    return None


def not_finite(pose: RelativePose) -> RelativePose:
    return replace(pose, x_m=math.nan)


@with_and_without_odometry
@pytest.mark.parametrize("fault", [no_reading, not_finite])
def test_robot_without_readings_drives_on_briefly_and_then_stands(fault: Reading, has_odometry: bool) -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), has_odometry=has_odometry)
    robot.drive(2.0)
    robot.reading = fault
    robot.drive(0.4)
    assert robot.command[0] > 0.1 and robot.cause is None
    robot.drive(0.6)
    assert robot.cause is StopCause.NO_POSE and not robot.command.any()
    at = robot.pose
    robot.drive(3.0)
    np.testing.assert_array_equal(robot.pose, at)
    robot.reading = lambda pose: pose
    assert robot.drive(10.0, until=State.REACHED).is_at_goal


def test_robot_that_never_reads_a_pose_stands_and_its_goal_is_aborted() -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), reading=no_reading)
    tracker = robot.request_goal()
    robot.drive(8.0)
    assert not np.any(robot.commands)
    assert tracker.result is not None and tracker.result.outcome is Outcome.ABORTED
    assert "pose" in tracker.result.reason


@with_and_without_odometry
def test_single_wrong_reading_does_not_turn_the_robot_away(has_odometry: bool) -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), has_odometry=has_odometry)
    robot.drive(2.0)
    robot.reading = lambda pose: replace(pose, y_m=pose.y_m + 1.0)
    robot.drive(0.1)
    robot.reading = lambda pose: pose
    began = len(robot.commands)
    robot.drive(1.0)
    assert np.abs(np.array(robot.commands[began:])[:, 1]).max() < 0.3
    assert robot.drive(10.0, until=State.REACHED).is_at_goal


@with_and_without_odometry
def test_goal_that_jumps_for_good_is_followed(has_odometry: bool) -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), has_odometry=has_odometry)
    robot.drive(2.0)
    robot.goal = np.array([2.5, 1.0, 0.5])
    assert robot.drive(15.0, until=State.REACHED).is_at_goal


def test_another_goal_stops_the_robot_until_its_plan_is_predicted() -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]))
    robot.drive(2.0)
    robot.goal, robot.goal_ns = np.array([0.0, 1.0, 2.0]), robot.goal_ns + 1
    began = len(robot.commands)
    robot.drive(0.5)
    assert not all(each.any() for each in robot.commands[began:])
    assert robot.drive(15.0, until=State.REACHED).is_at_goal


@pytest.mark.parametrize("unread_s", [0.0, 0.3])
def test_goals_that_move_on_do_not_stop_the_robot(unread_s: float) -> None:
    """Even if the poses of the next goals are read late."""
    robot = SteeredRobot(ORIGIN, np.array([1.2, 0.0, 0.0]), latency_s=0.1)
    robot.request_goal()
    robot.drive(1.0)
    began = len(robot.commands)
    for sub_goal in range(8):
        robot.move_goal(np.array([1.5 + 0.3 * sub_goal, 0.0, 0.0]))
        robot.reading = no_reading
        robot.drive(unread_s)
        robot.reading = lambda pose: pose
        robot.drive(0.6 - unread_s)
    assert np.array(robot.commands[began:])[:, 0].min() > 0.2
    assert robot.drive(10.0, until=State.REACHED).is_at_goal


@with_and_without_odometry
def test_robot_never_drives_on_uncertain_readings(has_odometry: bool) -> None:
    robot = SteeredRobot(
        ORIGIN,
        np.array([2.0, 0.0, 0.0]),
        reading=lambda pose: replace(pose, position_std_m=5.0),
        has_odometry=has_odometry,
    )
    robot.drive(10.0)
    commands = np.array(robot.commands)
    assert not commands[:, 0].any() and 0 < np.abs(commands[:, 1]).max() < 0.45


def test_robot_looks_around_until_it_sees_its_goal() -> None:
    def in_view(pose: RelativePose) -> RelativePose:
        is_in_view = abs(math.atan2(pose.y_m, pose.x_m)) < math.radians(50)
        return pose if is_in_view else RelativePose(1.0, 0.0, 0.0, 5.0, 3.0)

    robot = SteeredRobot(
        ORIGIN, np.array([-1.0, 1.5, 1.5]), reading=in_view, config=replace(CONFIG, stuck_after_s=20.0)
    )
    assert robot.drive(20.0, until=State.REACHED).is_at_goal


def test_stopped_robot_continues_from_where_it_stands() -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), latency_s=0.3)
    robot.drive(2.0)
    robot.controller.set_stop(True, now_ns=round(robot.now_s * 1e9))
    robot.drive(2.0)
    assert robot.cause is StopCause.STOPPED and not robot.command.any()
    robot.pose = robot.pose + np.array([-0.5, 0.4, 0.5])
    robot.controller.set_stop(False, now_ns=round(robot.now_s * 1e9))
    robot.goal_ns = round(robot.now_s * 1e9) + 1
    assert robot.drive(15.0, until=State.REACHED).is_at_goal


def test_direction_in_which_the_robot_did_not_move_is_avoided() -> None:
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]))
    robot.drive(2.0)
    assert robot.command[0] > 0.5
    robot.planner.avoid(np.array([0.6, 0.0]))
    robot.drive(0.4)
    assert robot.command[0] <= 0 and robot.command.any()
    robot.planner.confirm_motion()
    assert robot.drive(20.0, until=State.REACHED).is_at_goal


def test_goal_that_moves_on_without_a_reading_is_aborted_too() -> None:
    """As on a route: the client renews its goal, also while the robot stands."""
    robot = SteeredRobot(ORIGIN, np.array([3.0, 0.0, 0.0]), reading=no_reading)
    tracker = robot.request_goal()
    for _ in range(8):
        robot.drive(1.6)
        if tracker.result is None:
            robot.move_goal(np.array([3.0, 0.0, 0.0]))
    assert not np.any(robot.commands)
    assert tracker.result is not None and tracker.result.outcome is Outcome.ABORTED
    assert "pose" in tracker.result.reason
