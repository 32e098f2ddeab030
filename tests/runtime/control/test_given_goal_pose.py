"""A goal whose pose the client states, such as the route node from odometry: the model reads nothing here."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest

from jepa_runtime.control.given_goal_pose import GivenPoseCheck
from jepa_runtime.control.goal_pose import SentCommands
from jepa_runtime.control.goal_tracker import GoalTracker, Outcome
from jepa_runtime.control.safety_monitor import StopCause
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.util.poses import Pose, compose, relative
from tests.runtime.control.steering_robot import CONFIG, GOAL_NS, TICK_S, SteeredRobot

GOAL = np.array([2.0, 0.8, 0.5])
PERIOD_S = 0.1


def no_reading(_pose: RelativePose) -> None:
    return None


def wrong_reading(_pose: RelativePose) -> RelativePose:
    return RelativePose(1.0, -1.0, -1.0, 0.02, 0.02)


def requested(
    reading: Callable[[RelativePose], RelativePose | None] = no_reading,
) -> tuple[SteeredRobot, GoalTracker]:
    robot = SteeredRobot(np.zeros(3), GOAL, reading=reading, latency_s=0.1)
    return robot, robot.request_goal(pose_is_given=True)


def drive(robot: SteeredRobot, duration_s: float, *, age_s: float = 0.15) -> SteeredRobot:
    """Drive while the client states the pose of earlier images, ten times per second."""
    for _ in range(round(duration_s / PERIOD_S)):
        robot.drive(PERIOD_S)
        robot.give_pose(age_s=min(age_s, robot.now_s - 100.1))
    return robot


@pytest.mark.parametrize("reading", [no_reading, wrong_reading])
@pytest.mark.parametrize("age_s", [0.0, 0.3])
def test_robot_drives_to_the_given_pose_whatever_the_model_reads(
    reading: Callable[[RelativePose], RelativePose | None], age_s: float
) -> None:
    robot, goal = requested(reading)
    drive(robot, 8.0, age_s=age_s)
    assert robot.is_at_goal and np.hypot(*(robot.pose - GOAL)[:2]) < 0.15
    assert goal.result is None and not goal.is_reached, "the client decides when the goal is reached"


def test_old_pose_is_advanced_by_the_commands_sent_since_then() -> None:
    """Without that, the robot would overshoot a goal by what it drives meanwhile."""
    furthest = {}
    for age_s in (0.0, 0.45):
        robot, _ = requested()
        robot.goal = np.array([1.5, 0.0, 0.0])
        drive(robot, 6.0, age_s=age_s)
        furthest[age_s] = max(pose[0] for pose in robot.path)
    assert furthest[0.45] < furthest[0.0] + 0.08


def test_robot_stands_when_no_pose_arrives_any_more_and_its_goal_is_aborted() -> None:
    robot, goal = requested()
    drive(robot, 2.0)
    assert robot.command[0] > 0.1
    # The timeout, and the age of an image.
    robot.drive(CONFIG.futures_timeout_s + 0.4)
    assert robot.cause is StopCause.NO_POSE and not robot.command.any()
    at = robot.pose
    robot.drive(6.0)
    np.testing.assert_array_equal(robot.pose, at)
    assert goal.result is not None and goal.result.outcome is Outcome.ABORTED
    assert "has not published its pose" in goal.result.reason


def test_robot_goes_on_when_poses_arrive_again() -> None:
    robot, goal = requested()
    drive(robot, 2.0)
    robot.drive(2.0)
    assert robot.cause is StopCause.NO_POSE
    assert drive(robot, 8.0).is_at_goal and goal.result is None


def test_poses_of_another_goal_and_old_ones_are_ignored() -> None:
    robot, _ = requested()
    for _ in range(20):
        robot.goal_ns = GOAL_NS + 1
        robot.give_pose()
        robot.goal_ns = GOAL_NS
        robot.drive(PERIOD_S)
    assert not np.any(robot.commands) and robot.cause is StopCause.NO_POSE
    for _ in range(20):
        robot.give_pose(age_s=CONFIG.futures_timeout_s + 0.3)
        robot.drive(PERIOD_S)
    assert not np.any(robot.commands)
    assert drive(robot, 8.0).is_at_goal


def test_given_pose_that_is_not_finite_is_ignored() -> None:
    robot, _ = requested()
    for _ in range(20):
        pose = RelativePose(np.nan, 0.0, 0.0, 0.1, 0.1)
        robot.controller.set_goal_pose(pose, goal_ns=GOAL_NS, stamp_ns=round(robot.now_s * 1e9))
        robot.drive(PERIOD_S)
    assert not np.any(robot.commands) and robot.cause is StopCause.NO_POSE


def test_goals_with_given_poses_move_on_without_a_stop() -> None:
    robot, _ = requested()
    robot.goal = np.array([1.2, 0.0, 0.0])
    drive(robot, 1.0)
    began = len(robot.commands)
    for sub_goal in range(8):
        robot.move_goal(np.array([1.5 + 0.3 * sub_goal, 0.0, 0.0]))
        drive(robot, 0.6)
    assert np.array(robot.commands[began:])[:, 0].min() > 0.2


def test_goal_without_a_given_pose_is_driven_to_by_the_readings() -> None:
    robot = SteeredRobot(np.zeros(3), GOAL)
    robot.request_goal()
    for _ in range(80):
        robot.drive(PERIOD_S)
        robot.controller.set_goal_pose(
            RelativePose(1.0, -1.0, 0.0, 0.02, 0.02), goal_ns=GOAL_NS, stamp_ns=round(robot.now_s * 1e9)
        )
    assert robot.is_at_goal


def drive_by(
    robot: SteeredRobot, poses: Callable[[int, RelativePose], RelativePose], duration_s: float
) -> None:
    """Drive while the client publishes what ``poses`` makes of the number and the true pose of each image."""
    for number in range(round(duration_s / PERIOD_S)):
        robot.drive(PERIOD_S)
        true = RelativePose(*relative(robot.pose, robot.goal).tolist(), 0.05, 0.05)
        robot.controller.set_goal_pose(
            poses(number, true), goal_ns=robot.goal_ns, stamp_ns=round(robot.now_s * 1e9)
        )


def hanging(_number: int, _true: RelativePose) -> RelativePose:
    return RelativePose(1.0, 0.2, 0.1, 0.05, 0.05)


def noisy(number: int, _true: RelativePose) -> RelativePose:
    noise = np.random.default_rng(number).normal(0, 0.03, 3)
    return RelativePose(1.0 + noise[0], 0.2 + noise[1], 0.1 + noise[2], 0.05, 0.05)


def behind(_number: int, _true: RelativePose) -> RelativePose:
    return RelativePose(-2.0, 0.5, 0.0, 0.05, 0.05)


@pytest.mark.parametrize("poses", [hanging, noisy, behind])
def test_goal_is_aborted_when_new_poses_do_not_show_the_commanded_motion(
    poses: Callable[[int, RelativePose], RelativePose],
) -> None:
    robot, goal = requested()
    drive_by(robot, poses, 15.0)
    assert goal.result is not None and goal.result.outcome is Outcome.ABORTED
    assert "do not show" in goal.result.reason
    assert sum(abs(command[0]) for command in robot.commands) * TICK_S < 1.6
    assert not np.any(robot.commands[-100:])


def test_goal_is_aborted_when_the_pose_is_reset_every_second() -> None:
    robot, goal = requested()
    offset = [np.zeros(3)]

    def reset(number: int, _true: RelativePose) -> RelativePose:
        if number % 10 == 0:
            offset[0] = robot.pose
        pose = relative(relative(offset[0], robot.pose), GOAL)
        return RelativePose(*pose.tolist(), 0.05, 0.05)

    drive_by(robot, reset, 15.0)
    assert goal.result is not None and goal.result.outcome is Outcome.ABORTED
    assert sum(abs(command[0]) for command in robot.commands) * TICK_S < 2.5


def test_goal_whose_pose_is_noisy_and_corrected_once_is_not_aborted() -> None:
    def corrected(number: int, true: RelativePose) -> RelativePose:
        noise = np.random.default_rng(number).normal(0, 0.05, 3)
        jump = 0.6 if number < 15 else 0.0
        return RelativePose(
            true.x_m + noise[0] + jump, true.y_m + noise[1], true.yaw_rad + noise[2], 0.1, 0.1
        )

    robot, goal = requested()
    robot.goal = np.array([5.0, 0.0, 0.0])
    drive_by(robot, corrected, 15.0)
    assert np.hypot(*(robot.pose - robot.goal)[:2]) < 0.2 and goal.result is None


def test_goal_of_a_blocked_robot_is_not_aborted_by_its_poses() -> None:
    """The safety monitor stops it, and a route waits and tries again."""
    robot, goal = requested()
    robot.blocked = True
    with patch.object(type(robot.controller.safety_monitor), "unconfirmed_ratio", 0.5):
        drive_by(robot, hanging, 8.0)
    assert goal.result is None


def test_next_goal_after_an_aborted_one_is_driven_to() -> None:
    robot, _ = requested()
    drive_by(robot, hanging, 6.0)
    robot.goal_ns += 1
    robot.goal = relative(np.zeros(3), robot.pose) + np.array([0.8, 0.0, 0.0])
    goal = robot.request_goal(pose_is_given=True)
    assert drive(robot, 10.0).is_at_goal and goal.result is None


def driven_until_noticed_m(
    poses: Callable[[int, Pose], tuple[int, Pose]], *, speed_mps: float, duration_s: float = 60.0
) -> float | None:
    """Return after which distance given poses, and the numbers of their goals, are noticed; None: never."""
    model, check = DifferentialDrive.of(("linear.x", "angular.z")), GivenPoseCheck()
    commands, robot = SentCommands(model), np.zeros(3)
    command = np.array([speed_mps, 0.1 * speed_mps])
    commands.add(command, 100.0)
    for number in range(round(duration_s / PERIOD_S)):
        goal, pose = poses(number, robot)
        problem = check.add(
            RelativePose(*pose.tolist(), 0.05, 0.05),
            GOAL_NS + goal,
            time_s=100 + number * PERIOD_S,
            commands=commands,
            is_blocked=False,
        )
        if problem:
            return number * PERIOD_S * speed_mps
        robot = compose(robot, model.motion(command, PERIOD_S))
    return None


@pytest.mark.parametrize("speed_mps", [0.1, 0.22, 0.5])
@pytest.mark.parametrize("images_per_goal", [4, 17, 1000])
def test_hanging_poses_are_noticed_also_when_the_client_renews_its_goal(
    speed_mps: float, images_per_goal: int
) -> None:
    stopped_m = driven_until_noticed_m(
        lambda number, _: (number // images_per_goal, np.array([1.0, 0.2, 0.1])), speed_mps=speed_mps
    )
    assert stopped_m is not None and stopped_m < 2.0


@pytest.mark.parametrize("speed_mps", [0.1, 0.22, 0.3, 0.5])
@pytest.mark.parametrize("reset_m", [0.04, 0.1, 0.2, 0.35, 0.6])
def test_poses_that_are_reset_again_and_again_are_noticed(speed_mps: float, reset_m: float) -> None:
    reset = {0: np.zeros(3)}

    def pose(number: int, robot: Pose) -> tuple[int, Pose]:
        since = reset.setdefault(int(number * PERIOD_S * speed_mps / reset_m), robot)
        noise = np.random.default_rng(number).normal(0, 0.03, 3)
        return 0, relative(relative(since, robot), GOAL) + noise

    stopped_m = driven_until_noticed_m(pose, speed_mps=speed_mps)
    assert stopped_m is not None and stopped_m < 2.5


@pytest.mark.parametrize("speed_mps", [0.1, 0.5])
def test_poses_of_a_robot_that_moves_less_than_commanded_are_not_taken_for_hanging(speed_mps: float) -> None:
    """Its wheels slip, or its motors lag behind."""

    def slow(number: int, robot: Pose) -> tuple[int, Pose]:
        noise = np.random.default_rng(number).normal(0, 0.03, 3)
        yaw = 0.65 * robot[2]
        here = np.array([10 * np.sin(yaw), 10 * (1 - np.cos(yaw)), yaw])
        return 0, relative(here, np.array([9.0, 3.0, 0.4])) + noise

    assert driven_until_noticed_m(slow, speed_mps=speed_mps) is None


@pytest.mark.parametrize("speed_mps", [0.1, 0.5])
def test_true_poses_of_goals_along_a_route_are_not_taken_for_hanging(speed_mps: float) -> None:
    rng = np.random.default_rng(0)

    def ahead(_number: int, robot: Pose) -> tuple[int, Pose]:
        goal = 2 + int(robot[0] / 0.5)
        return goal, relative(robot, np.array([0.5 * goal, 0.0, 0.0])) + rng.normal(0, 0.03, 3)

    def renewed(number: int, robot: Pose) -> tuple[int, Pose]:
        return number // 17, relative(robot, np.array([9.0, 3.0, 0.4])) + rng.normal(0, 0.03, 3)

    assert driven_until_noticed_m(ahead, speed_mps=speed_mps, duration_s=20) is None
    assert driven_until_noticed_m(renewed, speed_mps=speed_mps) is None


def test_poses_of_another_goal_do_not_replace_those_of_the_present_one() -> None:
    robot, _ = requested()
    for _ in range(80):
        robot.give_pose()
        robot.goal_ns = GOAL_NS + 1
        robot.give_pose()
        robot.goal_ns = GOAL_NS
        robot.drive(PERIOD_S)
    assert robot.is_at_goal


@pytest.mark.parametrize("speed_mps", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("jump_m", [0.7, 1.0, 3.0])
def test_one_correction_of_any_size_is_accepted(speed_mps: float, jump_m: float) -> None:
    def corrected(number: int, robot: Pose) -> tuple[int, Pose]:
        noise = np.random.default_rng(number).normal(0, 0.03, 3)
        jump = jump_m if number < 40 else 0.0
        return 0, relative(robot, np.array([9.0, 3.0 + jump, 0.4])) + noise

    assert driven_until_noticed_m(corrected, speed_mps=speed_mps, duration_s=30) is None


@pytest.mark.parametrize("far_m", [2.0, 4.0, 8.0])
def test_noise_of_the_robot_pose_is_accepted_however_far_the_goal_is(far_m: float) -> None:
    """The heading of the robot moves a far goal sideways."""

    def noisy_robot(number: int, robot: Pose) -> tuple[int, Pose]:
        noise = np.random.default_rng(number).normal(0, 0.05, 3)
        return 0, relative(robot + noise, np.array([far_m, 1.0, 0.4]))

    assert driven_until_noticed_m(noisy_robot, speed_mps=0.3, duration_s=20) is None


def test_poses_out_of_order_do_not_hide_that_they_hang() -> None:
    """The client publishes each stamp twice, the second one a millisecond earlier by the robot's clock."""
    model, check = DifferentialDrive.of(("linear.x", "angular.z")), GivenPoseCheck()
    commands, command = SentCommands(model), np.array([0.3, 0.0])
    commands.add(command, 100.0)
    for number in range(200):
        for earlier_s in (0.0, 0.001):
            problem = check.add(
                RelativePose(1.0, 0.2, 0.1, 0.05, 0.05),
                GOAL_NS,
                time_s=100 + number * PERIOD_S - earlier_s,
                commands=commands,
                is_blocked=False,
            )
            if problem:
                assert number * PERIOD_S * command[0] < 1.6
                return
    pytest.fail("hanging poses were not noticed")


def test_hanging_client_that_requests_its_goal_again_and_again_is_noticed() -> None:
    robot, goal = requested()
    for _ in range(10):
        drive_by(robot, hanging, 2.0)
        if goal.result is not None:
            break
        robot.goal_ns += 1
        goal = robot.request_goal(pose_is_given=True)
    assert goal.result is not None and "do not show" in goal.result.reason
    assert sum(abs(command[0]) for command in robot.commands) * TICK_S < 2.5
