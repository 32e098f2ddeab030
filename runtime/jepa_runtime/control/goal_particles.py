"""Where a goal is, from readings at several places: a particle filter in the frame of the robot.

Readings of the same place err alike, so they are weighted by how far the robot has moved and turned since the
last one. The filter maintains several hypotheses until readings from other places rule them out.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.control.reading_errors import (
    OFFSET_M,
    Floats,
    certainty,
    draw_poses,
    log_likelihoods,
)
from jepa_runtime.model.relative_pose import RelativePose
from jepa_runtime.util.poses import Pose, wrap_all

_PARTICLES = 800
# Of particles that are drawn again, how many are replaced by what the newest reading says alone.
_NEW = 16
# Motion, turn and time after which a reading is new for the most part.
_NEW_AFTER_M, _NEW_AFTER_RAD, _NEW_AFTER_S = 0.05, 0.1, 1.0
# Spread of particles that are drawn again: as a proportion of distance with its offset, and of yaw.
_SPREAD, _SPREAD_RAD = 0.08, 0.06
# Odometry: standard deviation of a motion as a proportion of it, the same of a turn, and of yaw after 1 m.
_LENGTH_STD, _TURN_STD, _YAW_STD_PER_SQRT_M = 0.05, 0.03, 0.02
# The mode is sought in this radius, as a proportion of the distance with an offset, in a few iterations.
_MODE_RATIO, _MODE_OFFSET_M, _MODE_ITERATIONS = 0.5, 0.3, 8
# Expected error that is stated, as a proportion of the mean distance of the particles from the mode.
_STATED = 0.8


class GoalParticles:
    """Estimates the pose of a goal in the frame of a robot whose motion is known.

    Args:
        reading: The first reading.
        seed: Seed of the particles.
    """

    def __init__(self, reading: RelativePose, *, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        # By how much the next reading is new, from 0 to 1.
        self._newness = 0.0
        self._poses = draw_poses(reading, _PARTICLES, self._rng)
        self._log_weights: Floats = np.zeros(_PARTICLES)

    def move(self, motion: Pose, elapsed_s: float) -> None:
        """Follow a motion of the robot.

        Args:
            motion: Where the robot is in its frame before the motion [3].
            elapsed_s: How long it took.
        """
        length, turn = math.hypot(motion[0], motion[1]), abs(float(motion[2]))
        offset = self._poses[:, :2] - motion[:2]
        cos, sin = math.cos(motion[2]), math.sin(motion[2])
        self._poses[:, 0] = offset[:, 0] * cos + offset[:, 1] * sin
        self._poses[:, 1] = offset[:, 1] * cos - offset[:, 0] * sin
        self._poses[:, 2] -= motion[2]
        yaw_std = math.hypot(_TURN_STD * turn, _YAW_STD_PER_SQRT_M * math.sqrt(length))
        self._scatter(self._poses, _LENGTH_STD * length, yaw_std)
        known = math.exp(-length / _NEW_AFTER_M - turn / _NEW_AFTER_RAD - elapsed_s / _NEW_AFTER_S)
        self._newness = 1 - (1 - self._newness) * known

    def add(self, reading: RelativePose) -> None:
        """Add what is read where the robot is now."""
        exponent = self._newness * certainty(reading)
        self._newness = 0.0
        self._log_weights = self._log_weights + exponent * log_likelihoods(self._poses, reading)
        weights = self._weights()
        if 1 / np.square(weights).sum() < _PARTICLES / 2:
            self._draw_again(weights, reading)

    def estimate(self) -> RelativePose:
        """Return the most probable pose, with its expected errors over all hypotheses."""
        weights, positions, yaws = self._weights(), self._poses[:, :2], self._poses[:, 2]
        mode, near = weights @ positions, weights
        for _ in range(_MODE_ITERATIONS):
            radius = _MODE_RATIO * (math.hypot(*mode) + _MODE_OFFSET_M)
            closeness = np.exp(-np.square(positions - mode).sum(1) / (2 * radius**2))
            # The mode stays where it is if no particle is near.
            near = weights * (closeness + 1e-12)
            near = near / near.sum()
            mode = near @ positions
        yaw = math.atan2(near @ np.sin(yaws), near @ np.cos(yaws))
        return RelativePose(
            float(mode[0]),
            float(mode[1]),
            yaw,
            _STATED * float(weights @ np.hypot(*(positions - mode).T)),
            _STATED * float(weights @ np.abs(wrap_all(yaws - yaw))),
        )

    def _weights(self) -> Floats:
        weights = np.exp(self._log_weights - self._log_weights.max())
        total: Floats = weights / weights.sum()
        return total

    def _draw_again(self, weights: Floats, reading: RelativePose) -> None:
        """Draw particles by their weights, and some by the newest reading alone."""
        chosen = self._poses[_draw(weights, self._rng)]
        self._scatter(chosen, _SPREAD * (np.hypot(*chosen[:, :2].T) + OFFSET_M)[:, None], _SPREAD_RAD)
        chosen[:: _PARTICLES // _NEW] = draw_poses(reading, _NEW, self._rng)
        self._poses, self._log_weights = chosen, np.zeros(_PARTICLES)

    def _scatter(self, poses: Floats, position_std: float | Floats, yaw_std: float) -> None:
        poses[:, :2] += position_std * self._rng.standard_normal((len(poses), 2))
        poses[:, 2] = wrap_all(poses[:, 2] + yaw_std * self._rng.standard_normal(len(poses)))


def _draw(weights: Floats, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the numbers of as many particles, in proportion to their weights (systematic resampling)."""
    places = (np.arange(len(weights)) + rng.random()) / len(weights)
    drawn: NDArray[np.intp] = np.searchsorted(np.cumsum(weights), places)
    return np.minimum(drawn, len(weights) - 1)
