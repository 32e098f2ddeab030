"""The pose of a goal relative to an image, as a model with a relative pose graph reads it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_runtime.bundle.manifest import POSE_VARIABLES


@dataclass(frozen=True, slots=True)
class RelativePose:
    """Represent the pose of a goal in the frame of an image (REP-103: x forward, y left).

    All values are finite, and the standard deviations positive.

    Attributes:
        x_m: The distance of the goal ahead, negative behind.
        y_m: The distance of the goal to the left, negative to the right.
        yaw_rad: The heading at the goal relative to that of the image, counterclockwise.
        position_std_m: The standard deviation of x and of y.
        yaw_std_rad: The standard deviation of the yaw.
    """

    x_m: float
    y_m: float
    yaw_rad: float
    position_std_m: float
    yaw_std_rad: float

    def ratio(self, distance_m: float, angle_rad: float) -> float:
        """Return how far away the goal is, as a multiple of a tolerance.

        Args:
            distance_m: Tolerance of the distance.
            angle_rad: Tolerance of the heading; infinite: the heading does not count.
        """
        return max(math.hypot(self.x_m, self.y_m) / distance_m, abs(self.yaw_rad) / angle_rad)


def are_valid(poses: NDArray[np.float32]) -> bool:
    """Return whether poses [n, 5] are finite, with positive standard deviations."""
    return bool(np.isfinite(poses).all() and (poses[:, POSE_VARIABLES:] > 0).all())
