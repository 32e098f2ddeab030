"""The robot's pose in the frame of a route, from odometry and relative poses."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.routes.pose_filter import PoseFilter
from jepa_runtime.util.poses import Pose, relative

PERIOD_S = 0.1
KEY_POSES = np.array([[0.0, 0.0, 0.0], [0.5, 0.1, 0.3], [1.0, 0.3, 0.6]])


def reading(key_pose: Pose, pose: Pose, *, std: tuple[float, float] = (0.05, 0.03)) -> Pose:
    """Return the pose of a robot in the frame of a key frame, as a model reads it."""
    return np.append(relative(key_pose, pose), std)


def readings(pose: Pose) -> np.ndarray:
    return np.stack([reading(key_pose, pose) for key_pose in KEY_POSES])


def error(found: PoseFilter, pose: Pose) -> tuple[float, float]:
    """Return the distance and the angle between the estimate and a pose."""
    x, y, yaw = relative(pose, found.pose)
    return math.hypot(x, y), abs(yaw)


def test_pose_filter_readings_correct_a_displaced_start() -> None:
    true = np.array([0.2, -0.15, 0.2])
    found = PoseFilter(KEY_POSES[0])
    for _ in range(10):
        found.correct(KEY_POSES, readings(true), PERIOD_S)
    distance, angle = error(found, true)
    assert distance < 0.02 and angle < 0.02


def test_pose_filter_scale_error_of_the_odometry_is_corrected_by_readings() -> None:
    true, found, uncorrected = np.zeros(3), PoseFilter(KEY_POSES[0]), PoseFilter(KEY_POSES[0])
    for _ in range(20):
        true = true + np.array([0.05, 0.0, 0.0])
        for each in (found, uncorrected):
            each.move(np.array([0.055, 0.0, 0.0]), PERIOD_S)
        found.correct(KEY_POSES, readings(true), PERIOD_S)
    assert error(found, true)[0] < 0.05 < 0.09 < error(uncorrected, true)[0]


def test_pose_filter_without_readings_is_less_certain_the_further_it_moves() -> None:
    found = PoseFilter(KEY_POSES[0])
    found.variance[:] = 1e-4
    before = found.variance.copy()
    for _ in range(10):
        found.move(np.array([0.05, 0.0, 0.1]), PERIOD_S)
    assert (found.variance > before).all()


@pytest.mark.parametrize("wrong", [(3.0, 0.0, 0.0), (0.0, 0.0, math.pi)])
def test_pose_filter_one_wrong_reading_hardly_counts(wrong: tuple[float, float, float]) -> None:
    true = KEY_POSES[0].copy()
    found = PoseFilter(true)
    for _ in range(20):
        found.correct(KEY_POSES, readings(true), PERIOD_S)
    found.correct(KEY_POSES[:1], np.array([[*wrong, 0.03, 0.02]]), PERIOD_S)
    distance, angle = error(found, true)
    assert distance < 0.1 and angle < 0.1


def test_pose_filter_reading_that_is_not_finite_is_ignored() -> None:
    found = PoseFilter(KEY_POSES[0])
    found.correct(KEY_POSES[:1], np.full((1, 5), np.nan), PERIOD_S)
    assert np.array_equal(found.pose, KEY_POSES[0])


def test_pose_filter_yaw_at_half_a_turn_has_no_jump() -> None:
    true = np.array([0.0, 0.0, math.pi - 0.01])
    found = PoseFilter(np.array([0.0, 0.0, -math.pi + 0.05]))
    for _ in range(10):
        found.correct(true[None], reading(true, true)[None], PERIOD_S)
    assert error(found, true)[1] < 0.03


def test_pose_filter_frame_rate_does_not_change_the_certainty() -> None:
    slow, fast = PoseFilter(KEY_POSES[0]), PoseFilter(KEY_POSES[0])
    for _ in range(10):
        slow.correct(KEY_POSES, readings(KEY_POSES[0]), 0.1)
    for _ in range(30):
        fast.correct(KEY_POSES, readings(KEY_POSES[0]), 0.1 / 3)
    assert fast.variance == pytest.approx(slow.variance, rel=0.1)
