"""Where the robot is in the frame of a route's odometry: a Kalman filter with a diagonal covariance.

The robot's odometry moves the estimate. Relative poses between key frames and the newest image, which the
model reads, correct it. Odometry of the robot and of the route have different origins, and drift.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.util.poses import Pose, compose, wrap

# Standard deviation of x, y [m] and yaw [rad] at the start.
_START_STD = (0.3, 0.3, 0.3)
# Odometry: standard deviation after a motion, as a proportion of its length and of its turn, of the yaw after
# 1 m, and of a robot that stands after 1 s.
_LENGTH_STD, _TURN_STD, _YAW_STD_PER_SQRT_M, _STANDING_STD = 0.03, 0.02, 0.02, 0.003
_YAW_STANDING_STD = 0.01
# Smallest standard deviations of a reading: position [m], yaw [rad].
_LEAST_STD = (0.03, 0.02)
# Readings of the same key frame are independent after this time.
_CORRELATION_S = 0.6
# Normalized square error from which a reading counts less, and the part of it that remains.
_OUTLIER, _REMAINS = 16.0, 4.0


class PoseFilter:
    """Estimates the robot's pose in the frame of a route.

    Args:
        pose: Where the robot is at first [3].

    Attributes:
        pose: The estimate: x [m], y [m], yaw [rad] [3].
        variance: Its variances [3].
    """

    def __init__(self, pose: Pose) -> None:
        self.pose: Pose = pose.astype(np.float64)
        self.variance: Pose = np.square(_START_STD)

    def move(self, motion: Pose, elapsed_s: float) -> None:
        """Add the robot's motion [3] by odometry, in its own frame."""
        length, turn = math.hypot(motion[0], motion[1]), abs(float(motion[2]))
        position = (_LENGTH_STD * length) ** 2 + _STANDING_STD**2 * elapsed_s
        yaw = (_TURN_STD * turn) ** 2 + _YAW_STD_PER_SQRT_M**2 * length + _YAW_STANDING_STD**2 * elapsed_s
        self.pose = compose(self.pose, motion)
        self.variance = self.variance + np.array([position, position, yaw])

    def correct(
        self, key_poses: NDArray[np.floating], readings: NDArray[np.floating], elapsed_s: float
    ) -> None:
        """Add readings of the newest image.

        Args:
            key_poses: Poses of key frames in the frame of the route [n, 3].
            readings: Of each, the pose of the robot in its frame, and standard deviations of position and yaw
                [n, 5].
            elapsed_s: Time since the previous readings.
        """
        repeated = len(readings) * max(_CORRELATION_S / max(elapsed_s, 1e-3), 1.0)
        for key_pose, reading in zip(key_poses, readings, strict=True):
            if not np.isfinite(reading).all():
                continue
            position_std, yaw_std = np.maximum(reading[3:], _LEAST_STD)
            noise = repeated * np.square([position_std, position_std, yaw_std])
            error = compose(key_pose, reading[:3]) - self.pose
            error[2] = wrap(error[2])
            ratio = float((error**2 / (self.variance + noise)).sum())
            noise *= ratio / _REMAINS if ratio > _OUTLIER else 1.0
            gain = self.variance / (self.variance + noise)
            self.pose = self.pose + gain * error
            self.pose[2] = wrap(self.pose[2])
            self.variance = self.variance * (1 - gain)
