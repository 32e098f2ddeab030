"""The pose of the goal at the time of the command: advanced by the commands, averaged over readings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from jepa_runtime.control.goal_pose import GoalPoseEstimator, SentCommands
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.util.odometry_history import OdometryPose
from jepa_runtime.util.poses import compose, relative

DRIVE = DifferentialDrive.of(("linear.x", "angular.z"))
GOAL_NS, NEXT_NS, OTHER_NS = 5, 6, 7
READING = RelativePose(2.0, 0.5, 0.4, 0.1, 0.05)
PERIOD_S = 0.05


@pytest.fixture
def estimator() -> GoalPoseEstimator:
    return GoalPoseEstimator(DRIVE)


def update(
    estimator: GoalPoseEstimator,
    reading: RelativePose | None,
    image_s: float,
    *,
    goal_ns: int = GOAL_NS,
    effect_s: float | None = None,
    odometry: np.ndarray | None = None,
    part: int = 0,
) -> RelativePose | None:
    effect_s = image_s if effect_s is None else effect_s
    located = None if odometry is None else replace(OdometryPose.of(odometry), part=part)
    return estimator.update(reading, goal_ns, image_s=image_s, effect_s=effect_s, odometry=located)


def place(pose: RelativePose | None) -> np.ndarray:
    assert pose is not None
    return np.array([pose.x_m, pose.y_m, pose.yaw_rad])


def test_commands_of_different_durations_add_up() -> None:
    commands = SentCommands(DRIVE)
    commands.add(np.array([0.5, 0.0]), 1.0)
    commands.add(np.array([0.2, 1.0]), 1.4)
    commands.add(np.array([0.0, 0.0]), 1.9)
    turned = compose(DRIVE.motion(np.array([0.5, 0.0]), 0.3), DRIVE.motion(np.array([0.2, 1.0]), 0.5))
    np.testing.assert_allclose(commands.motion(1.1, 5.0), turned)
    np.testing.assert_allclose(commands.motion(0.0, 1.2), [0.1, 0.0, 0.0])
    np.testing.assert_allclose(commands.motion(1.5, 1.5), np.zeros(3))


def test_commands_sent_before_the_clock_was_set_back_are_replaced() -> None:
    commands = SentCommands(DRIVE)
    commands.add(np.array([0.5, 0.0]), 10.0)
    commands.add(np.array([0.1, 0.0]), 9.0)
    np.testing.assert_allclose(commands.motion(9.0, 11.0), [0.2, 0.0, 0.0])


def test_first_reading_is_the_estimate(estimator: GoalPoseEstimator) -> None:
    np.testing.assert_allclose(place(update(estimator, READING, 10.0)), place(READING))
    assert estimator.read_s == 10.0


def test_estimate_is_advanced_by_the_commands_sent_since_the_image(estimator: GoalPoseEstimator) -> None:
    estimator.commands.add(np.array([0.4, 0.5]), 9.5)
    estimator.commands.add(np.array([0.6, -0.5]), 10.1)
    moved = compose(DRIVE.motion(np.array([0.4, 0.5]), 0.1), DRIVE.motion(np.array([0.6, -0.5]), 0.2))
    estimate = update(estimator, READING, 10.0, effect_s=10.3)
    np.testing.assert_allclose(place(estimate), relative(moved, place(READING)))


def test_estimate_between_readings_follows_the_commands_and_becomes_less_certain(
    estimator: GoalPoseEstimator,
) -> None:
    before = update(estimator, READING, 10.0)
    estimator.commands.add(np.array([0.5, 0.3]), 10.0)
    estimate = update(estimator, None, 10.4)
    moved = DRIVE.motion(np.array([0.5, 0.3]), 0.4)
    np.testing.assert_allclose(place(estimate), relative(moved, place(READING)))
    assert before is not None and estimate is not None
    assert estimate.position_std_m > 1.5 * before.position_std_m
    assert estimate.yaw_std_rad > 1.5 * before.yaw_std_rad
    assert estimator.read_s == 10.0


def test_average_of_noisy_readings_is_more_accurate_and_as_certain_as_they_are(
    estimator: GoalPoseEstimator,
) -> None:
    rng = np.random.default_rng(0)
    errors = []
    for image in range(400):
        error = rng.normal(0, 0.1, 2)
        reading = RelativePose(2.0 + error[0], 0.5 + error[1], 0.4, 0.1, 0.05)
        estimate = update(estimator, reading, 10 + image * PERIOD_S)
        errors.append(np.hypot(*(place(estimate) - place(READING))[:2]))
    assert np.mean(errors[20:]) < 0.5 * 0.1 * math.sqrt(math.pi / 2)
    assert estimate is not None and estimate.position_std_m == pytest.approx(0.1, rel=0.1)


def test_certain_readings_weigh_more(estimator: GoalPoseEstimator) -> None:
    for image in range(40):
        vague, certain = RelativePose(2.2, 0.0, 0.0, 0.4, 0.3), RelativePose(2.0, 0.0, 0.0, 0.1, 0.3)
        estimate = update(estimator, vague if image % 2 else certain, 10 + image * PERIOD_S)
    assert place(estimate)[0] < 2.05


def test_yaw_is_averaged_around_the_circle(estimator: GoalPoseEstimator) -> None:
    for image in range(20):
        reading = RelativePose(1.0, 0.0, (math.pi - 0.05) * (-1) ** image, 0.1, 0.1)
        estimate = update(estimator, reading, 10 + image * PERIOD_S)
    assert abs(abs(place(estimate)[2]) - math.pi) < 0.06


def test_single_wrong_reading_hardly_moves_the_estimate(estimator: GoalPoseEstimator) -> None:
    for image in range(10):
        update(estimator, READING, 10 + image * PERIOD_S)
    wrong = RelativePose(3.0, -0.5, -0.6, 0.1, 0.05)
    estimate = update(estimator, wrong, 10 + 10 * PERIOD_S)
    assert np.hypot(*(place(estimate) - place(READING))[:2]) < 0.05


def test_lasting_jump_is_followed_within_two_seconds(estimator: GoalPoseEstimator) -> None:
    for image in range(10):
        update(estimator, READING, 10 + image * PERIOD_S)
    elsewhere = RelativePose(3.0, -0.5, -0.6, 0.1, 0.05)
    uncertain = 0.0
    for image in range(10, 50):
        estimate = update(estimator, elsewhere, 10 + image * PERIOD_S)
        assert estimate is not None
        uncertain = max(uncertain, estimate.position_std_m)
    np.testing.assert_allclose(place(estimate), place(elsewhere), atol=0.1)
    assert uncertain > 0.3


@pytest.mark.parametrize(
    "invalid",
    [
        RelativePose(math.nan, 0.5, 0.4, 0.1, 0.05),
        RelativePose(2.0, math.inf, 0.4, 0.1, 0.05),
        RelativePose(2.0, 0.5, 0.4, math.nan, 0.05),
        RelativePose(2.0, 0.5, 0.4, math.inf, 0.05),
        RelativePose(2.0, 0.5, 0.4, 0.0, 0.05),
        RelativePose(2.0, 0.5, 0.4, 0.1, -0.05),
    ],
)
def test_reading_that_is_not_valid_counts_as_not_read(
    estimator: GoalPoseEstimator, invalid: RelativePose
) -> None:
    assert update(estimator, invalid, 10.0) is None
    update(estimator, READING, 10.1)
    np.testing.assert_allclose(place(update(estimator, invalid, 10.2)), place(READING))
    assert estimator.read_s == 10.1


def test_another_goal_begins_without_an_estimate(estimator: GoalPoseEstimator) -> None:
    update(estimator, READING, 10.0)
    assert update(estimator, None, 10.1, goal_ns=OTHER_NS) is None
    assert estimator.read_s == 10.1


def test_another_goal_is_not_averaged_with_the_last(estimator: GoalPoseEstimator) -> None:
    update(estimator, READING, 10.0)
    other = RelativePose(0.5, 0.0, 0.0, 0.5, 0.5)
    np.testing.assert_allclose(place(update(estimator, other, 10.1, goal_ns=OTHER_NS)), place(other))


def test_goal_beyond_the_present_one_is_driven_to_through_that_until_it_is_read(
    estimator: GoalPoseEstimator,
) -> None:
    update(estimator, READING, 10.0)
    estimator.continue_to(NEXT_NS)
    np.testing.assert_allclose(place(update(estimator, None, 10.1, goal_ns=NEXT_NS)), place(READING))
    assert estimator.read_s == 10.0
    beyond = RelativePose(3.0, 0.6, 0.5, 0.3, 0.1)
    np.testing.assert_allclose(place(update(estimator, beyond, 10.2, goal_ns=NEXT_NS)), place(beyond))


def test_estimate_is_forgotten_after_a_long_pause(estimator: GoalPoseEstimator) -> None:
    update(estimator, READING, 10.0)
    assert update(estimator, None, 1000.0) is None
    other = RelativePose(0.5, 0.0, 0.0, 0.5, 0.5)
    np.testing.assert_allclose(place(update(estimator, other, 1000.1)), place(other))


def test_repeated_image_adds_nothing(estimator: GoalPoseEstimator) -> None:
    first = update(estimator, READING, 10.0)
    assert update(estimator, RelativePose(2.5, 0.5, 0.4, 0.1, 0.05), 10.0) == first


def test_odometry_replaces_the_commands_between_images(estimator: GoalPoseEstimator) -> None:
    # The robot is commanded to drive, and is held by an obstacle.
    estimator.commands.add(np.array([0.5, 0.0]), 9.0)
    origin = np.array([4.0, -2.0, 1.0])
    before = update(estimator, READING, 10.0, odometry=origin)
    after = update(estimator, None, 10.3, odometry=origin)
    np.testing.assert_allclose(place(after), place(before))
    moved = np.array([0.1, 0.02, 0.3])
    turned = update(estimator, None, 10.6, odometry=compose(origin, moved))
    np.testing.assert_allclose(place(turned), relative(moved, place(READING)), atol=0.15)


def test_goal_that_left_the_view_is_remembered_by_odometry(estimator: GoalPoseEstimator) -> None:
    origin = np.zeros(3)
    for image in range(10):
        update(estimator, READING, 10 + image * PERIOD_S, odometry=origin)
    # The robot turns by 90 degrees within 1.5 s; images there say nothing.
    vague = RelativePose(0.3, -0.2, 1.0, 5.0, 1.5)
    for image in range(30):
        turned = np.array([0.0, 0.0, math.pi / 2 * (image + 1) / 30])
        estimate = update(estimator, vague, 10.5 + image * PERIOD_S, odometry=turned)
    expected = relative(np.array([0.0, 0.0, math.pi / 2]), place(READING))
    np.testing.assert_allclose(place(estimate), expected, atol=0.15)
    assert estimate is not None and estimate.position_std_m < 0.5


def test_images_that_look_nearly_there_do_not_outweigh_readings_of_other_views(
    estimator: GoalPoseEstimator,
) -> None:
    goal = np.array([0.5, -0.4, 0.2])
    for image in range(60):
        turned = np.array([0.0, 0.0, 0.02 * image])
        x, y, yaw = relative(turned, goal).tolist()
        reading = RelativePose(x, y, yaw, 0.3, 0.1)
        if 20 <= image < 30:
            reading = RelativePose(0.03, 0.0, yaw, 0.03, 0.05)
        estimate = update(estimator, reading, 10 + image * PERIOD_S, odometry=turned)
    assert np.hypot(*(place(estimate) - relative(turned, goal))[:2]) < 0.25


def test_estimate_continues_without_odometry_that_is_lost(estimator: GoalPoseEstimator) -> None:
    for image in range(10):
        update(estimator, READING, 10 + image * PERIOD_S, odometry=np.zeros(3))
    elsewhere = RelativePose(1.0, 0.2, 0.1, 0.1, 0.05)
    for image in range(10, 40):
        estimate = update(estimator, elsewhere, 10 + image * PERIOD_S)
    np.testing.assert_allclose(place(estimate), place(elsewhere), atol=0.05)


def test_commands_are_used_while_odometry_is_reset_or_missing(estimator: GoalPoseEstimator) -> None:
    command = np.array([0.5, 0.2])
    estimator.commands.add(command, 9.0)
    update(estimator, READING, 10.0, odometry=np.array([7.0, 1.0, 0.4]))
    after_reset = update(estimator, None, 10.1, odometry=np.zeros(3))
    np.testing.assert_allclose(place(after_reset), relative(DRIVE.motion(command, 0.1), place(READING)))
    lost = update(estimator, None, 10.2)
    np.testing.assert_allclose(place(lost), relative(DRIVE.motion(command, 0.2), place(READING)))
    invalid = update(estimator, None, 10.3, odometry=np.array([math.nan, 0.0, 0.0]))
    np.testing.assert_allclose(place(invalid), relative(DRIVE.motion(command, 0.3), place(READING)))


def test_odometry_that_was_reset_during_a_pause_is_not_taken_for_a_motion(
    estimator: GoalPoseEstimator,
) -> None:
    """After a pause, the robot could have been where the odometry begins again, so only its part tells."""
    for image in range(10):
        update(estimator, READING, 10 + image * PERIOD_S, odometry=np.array([2.0, -1.0, 0.6]))
    after_reset = update(estimator, None, 12.5, odometry=np.zeros(3), part=1)
    np.testing.assert_allclose(place(after_reset), place(READING), atol=0.15)


def test_goals_that_move_on_again_before_a_reading_do_not_count_as_read(estimator: GoalPoseEstimator) -> None:
    """Images of the previous goal still arrive after the next one was announced."""
    update(estimator, READING, 10.0)
    estimator.continue_to(NEXT_NS)
    estimator.continue_to(OTHER_NS)
    for image_s, goal_ns in ((10.5, NEXT_NS), (11.0, OTHER_NS), (11.5, OTHER_NS)):
        np.testing.assert_allclose(place(update(estimator, None, image_s, goal_ns=goal_ns)), place(READING))
    assert estimator.read_s == 10.0
    reading = RelativePose(3.0, 0.0, 0.0, 0.1, 0.05)
    np.testing.assert_allclose(place(update(estimator, reading, 12.0, goal_ns=OTHER_NS)), place(reading))
    assert estimator.read_s == 12.0
