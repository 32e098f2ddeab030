"""Wheel odometry: the only pose that training, and a driver that does not claim true poses, may use.

It is wrong in three ways: each robot has a scale error of distances and of angles, the heading drifts at
random, and the wheels do not notice that the body slides along an obstacle.
"""

from __future__ import annotations

import math

import numpy as np

from jepa_runtime.util import Pose, compose, relative

# Standard deviation of both scale errors, which are constant over an episode.
SCALE_ERROR = 0.02
# Random drift of the heading: standard deviation after one meter, and after one radian.
DRIFT_RAD_PER_SQRT_M = 0.01
DRIFT_RAD_PER_SQRT_RAD = 0.008


class WheelOdometry:
    """The odometry of one robot in one episode; it begins at the origin.

    Args:
        rng: Random numbers of its errors.

    Attributes:
        pose: x, y and heading [3]; the heading is between -pi and pi.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._distance_scale, self._angle_scale = 1 + rng.normal(0, SCALE_ERROR, 2)
        self._wheels: Pose = np.zeros(3)
        self.pose: Pose = np.zeros(3)

    def update(self, wheels: Pose) -> None:
        """Add the motion since the last update.

        Args:
            wheels: Where the wheels would have taken the robot from the origin without contact [3].
        """
        x, y, turn = relative(self._wheels, wheels)
        self._wheels = wheels
        variance = DRIFT_RAD_PER_SQRT_M**2 * math.hypot(x, y) + DRIFT_RAD_PER_SQRT_RAD**2 * abs(turn)
        heading = turn * self._angle_scale + self._rng.normal(0, math.sqrt(variance))
        self.pose = compose(
            self.pose, np.array([x * self._distance_scale, y * self._distance_scale, heading])
        )
