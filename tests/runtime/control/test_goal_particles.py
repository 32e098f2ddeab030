"""The particle filter of a goal's pose: what counts, and what it does not believe."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jepa_runtime.control.goal_particles import GoalParticles
from jepa_runtime.control.reading_errors import certainty, draw_poses, log_likelihoods
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.util.poses import Pose, compose, relative

STANDING: Pose = np.zeros(3)
PERIOD_S = 0.05


def place(pose: RelativePose) -> Pose:
    return np.array([pose.x_m, pose.y_m, pose.yaw_rad])


def error_m(particles: GoalParticles, expected: Pose) -> float:
    return float(np.hypot(*(place(particles.estimate()) - expected)[:2]))


def read_toward_the_arc(goal: Pose) -> RelativePose:
    """Return what a model reads that takes a goal at the side for one more nearly ahead."""
    distance, bearing = math.hypot(goal[0], goal[1]), math.atan2(goal[1], goal[0])
    read = 0.6 * bearing + 0.4 * goal[2] / 2
    return RelativePose(
        distance * math.cos(read), distance * math.sin(read), float(goal[2]), 0.25 * distance, 0.1
    )


def test_same_image_adds_nothing() -> None:
    particles = GoalParticles(RelativePose(1.0, 0.0, 0.0, 0.2, 0.1), seed=0)
    before = particles.estimate()
    for _ in range(50):
        particles.add(RelativePose(0.5, 0.5, 0.5, 0.05, 0.05))
    assert particles.estimate() == before


def test_readings_of_one_place_count_less_than_those_of_several() -> None:
    """In the same time, and with the same readings of where the goal is."""
    goal = np.array([1.0, 0.0, 0.0])
    stds = []
    for motion in (STANDING, np.array([0.02, 0.0, 0.0])):
        particles, remaining = GoalParticles(RelativePose(*goal, 0.4, 0.3), seed=0), goal
        for _ in range(10):
            particles.move(motion, PERIOD_S)
            remaining = relative(motion, remaining)
            particles.add(RelativePose(*remaining, 0.4, 0.3))
        estimate = particles.estimate()
        stds.append(estimate.position_std_m / math.hypot(*remaining[:2]))
    assert stds[1] < 0.8 * stds[0]


def test_motion_moves_the_estimate() -> None:
    reading = RelativePose(1.0, 0.3, 0.4, 0.05, 0.05)
    particles = GoalParticles(reading, seed=0)
    before, motion = place(particles.estimate()), np.array([0.3, 0.1, 0.6])
    particles.move(motion, 0.5)
    np.testing.assert_allclose(place(particles.estimate()), relative(motion, before), atol=0.05)


@pytest.mark.parametrize("side", [-1, 1])
def test_goal_at_the_side_is_found_by_driving_past_it(side: int) -> None:
    goal, motion = np.array([0.9, side * 0.6, side * 0.2]), np.array([0.02, 0.0, 0.0])
    particles = GoalParticles(read_toward_the_arc(goal), seed=0)
    for _ in range(30):
        particles.move(motion, PERIOD_S)
        goal = relative(motion, goal)
        reading = read_toward_the_arc(goal)
        particles.add(reading)
    assert np.hypot(*(place(reading) - goal)[:2]) > 0.25
    assert error_m(particles, goal) < 0.2


def test_wrong_first_reading_is_corrected_from_other_places() -> None:
    goal, motion = np.array([1.5, 0.5, 0.3]), np.array([0.02, 0.0, 0.02])
    particles = GoalParticles(RelativePose(-0.3, -0.2, 2.0, 0.03, 0.03), seed=0)
    pose: Pose = STANDING
    for _ in range(30):
        pose = compose(pose, motion)
        particles.move(motion, PERIOD_S)
        particles.add(RelativePose(*relative(pose, goal), 0.3, 0.15))
    assert error_m(particles, relative(pose, goal)) < 0.3


def test_readings_with_nothing_in_common_with_the_goal_say_nothing() -> None:
    particles = GoalParticles(RelativePose(1.0, 0.3, 0.4, 0.1, 0.05), seed=0)
    motion, expected = np.array([0.0, 0.0, 0.05]), place(particles.estimate())
    for _ in range(40):
        particles.move(motion, PERIOD_S)
        expected = relative(motion, expected)
        particles.add(RelativePose(0.9, 0.0, -0.5, 1.8, 0.9))
    assert error_m(particles, expected) < 0.1


def test_certainty_falls_with_the_expected_error_in_relation_to_the_distance() -> None:
    certainties = [certainty(RelativePose(1.0, 0.0, 0.0, std, 0.1)) for std in (0.1, 0.9, 1.3, 5.0)]
    assert certainties[0] == 1 and certainties[-1] == 0
    assert certainties == sorted(certainties, reverse=True) and len(set(certainties)) == 4


def test_view_that_is_uncertain_speaks_against_a_near_goal_with_the_same_heading() -> None:
    """A model that sees the goal image itself is certain."""
    near, far, turned = np.array([[0.03, 0.0, 0.0], [1.0, 0.0, 0.0], [0.03, 0.0, 1.6]])
    poses = np.stack([near, far, turned])
    certain, uncertain = (
        log_likelihoods(poses, RelativePose(0.03, 0.0, 0.0, std, 3.0)) for std in (0.02, 0.5)
    )
    assert certain[0] > certain[1]
    assert uncertain[0] < uncertain[1] and uncertain[0] < uncertain[2]


@pytest.mark.parametrize("bearing", [-2.8, -1.0, 0.0, 0.6, 2.5])
@pytest.mark.parametrize("yaw", [-1.0, 0.0, 0.7])
def test_drawn_poses_include_the_goal_that_is_read(bearing: float, yaw: float) -> None:
    goal = np.array([math.cos(bearing), math.sin(bearing), yaw])
    arc = yaw / 2 + (math.pi if abs(bearing) > math.pi / 2 else 0.0)
    read = arc + 0.7 * ((bearing - arc + math.pi) % (2 * math.pi) - math.pi)
    reading = RelativePose(math.cos(read), math.sin(read), yaw, 0.1, 0.05)
    poses = draw_poses(reading, 2000, np.random.default_rng(0))
    differences = poses - goal
    is_near = (np.hypot(*differences[:, :2].T) < 0.3) & (np.abs(differences[:, 2]) < 0.2)
    assert is_near.mean() > 0.2


def test_drawn_poses_of_a_vague_reading_are_anywhere() -> None:
    poses = draw_poses(RelativePose(1.0, 0.0, 0.0, 50.0, 10.0), 2000, np.random.default_rng(0))
    distances, bearings = np.hypot(*poses[:, :2].T), np.arctan2(poses[:, 1], poses[:, 0])
    assert np.percentile(distances, 10) < 0.3 and np.percentile(distances, 90) > 2.0
    assert np.abs(np.histogram(bearings, 4, (-math.pi, math.pi))[0] - 500).max() < 120


def test_particles_of_the_same_seed_agree() -> None:
    estimates = []
    for seed in (0, 0, 1):
        particles = GoalParticles(RelativePose(1.0, 0.2, 0.1, 0.2, 0.1), seed=seed)
        for _ in range(10):
            particles.move(np.array([0.02, 0.0, 0.01]), PERIOD_S)
            particles.add(RelativePose(0.9, 0.3, 0.0, 0.2, 0.1))
        estimates.append(particles.estimate())
    assert estimates[0] == estimates[1] != estimates[2]
