"""The scale of the headings of odometry, measured by poses that were read after turns on the spot."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.routes.odometry_scale import turn_scale, with_turn_scale
from jepa_runtime.routes.pose_graph import Measurement
from jepa_runtime.util.poses import Pose, compose, relative, wrap_all


def turns_and_ways(count: int = 3, step_rad: float = 0.25) -> Pose:
    """Return true poses of full turns on the spot with a way of 2 m after each."""
    motions: list[Pose] = []
    for _ in range(count):
        motions += [np.array([0.0, 0.0, step_rad])] * round(2 * math.pi / step_rad)
        motions += [np.array([0.2, 0.02, 0.05])] * 10
    poses = [np.zeros(3)]
    for motion in motions:
        poses.append(compose(poses[-1], motion))
    return np.array(poses)


def read(poses: Pose, pairs: list[tuple[int, int]], error_rad: float = 0.0) -> list[Measurement]:
    """Return the poses between key frames, read with an error of the yaw."""
    return [
        Measurement(
            one, other, relative(poses[one], poses[other]) + np.array([0.0, 0.0, error_rad]), 0.05, 0.03
        )
        for one, other in pairs
    ]


@pytest.mark.parametrize("scale", [0.95, 1.0, 1.04])
def test_turn_scale_is_measured_by_full_turns(scale: float) -> None:
    true = turns_and_ways()
    odometry = with_turn_scale(true, 1 / scale)
    pairs = [(start, start + 25) for start in (0, 35, 70)]
    assert turn_scale(odometry, read(true, pairs)) == pytest.approx(scale, abs=1e-3)


def test_turn_scale_ignores_few_wrong_readings() -> None:
    true = turns_and_ways()
    odometry = with_turn_scale(true, 1 / 1.03)
    right = read(true, [(0, 25), (1, 25), (35, 60), (70, 95)])
    wrong = read(true, [(0, 24), (36, 60)], error_rad=0.9)
    assert turn_scale(odometry, [*right, *wrong]) == pytest.approx(1.03, abs=5e-3)


def test_turn_scale_without_turns_on_the_spot_is_one() -> None:
    true = turns_and_ways()
    odometry = with_turn_scale(true, 1 / 1.03)
    assert turn_scale(odometry, []) == 1.0
    # Small turns, and turns with a way in between, say little about the scale.
    assert turn_scale(odometry, read(true, [(0, 4), (1, 5), (2, 6), (0, 60), (1, 61), (2, 62)])) == 1.0


def test_with_turn_scale_corrects_poses_after_many_turns() -> None:
    true = turns_and_ways(count=10)
    odometry = with_turn_scale(true, 1 / 1.02)
    assert np.hypot(*(odometry - true)[:, :2].T).max() > 1.0
    corrected = with_turn_scale(odometry, 1.02)
    np.testing.assert_allclose(corrected[:, :2], true[:, :2], atol=1e-9)
    np.testing.assert_allclose(wrap_all(corrected[:, 2] - true[:, 2]), 0.0, atol=1e-9)
