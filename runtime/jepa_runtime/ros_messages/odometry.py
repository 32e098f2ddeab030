"""The pose in a nav_msgs/Odometry, of rosbags or rclpy."""

from __future__ import annotations

import math
from typing import Any

from jepa_runtime.errors import OdometryError

ODOMETRY = "nav_msgs/msg/Odometry"
# Largest error of the norm of an orientation. Some drivers leave all four values at zero.
_NORM_TOLERANCE = 0.1


def planar_pose(message: Any) -> tuple[float, float, float]:
    """Return x [m], y [m] and yaw [rad].

    Raises:
        OdometryError: A value is not finite, or the orientation is not a unit quaternion.
    """
    position, turn = message.pose.pose.position, message.pose.pose.orientation
    values = position.x, position.y, turn.x, turn.y, turn.z, turn.w
    norm = math.hypot(*values[2:])
    if not all(math.isfinite(value) for value in values) or abs(norm - 1) > _NORM_TOLERANCE:
        raise OdometryError(
            f"an odometry message has the position ({position.x:g}, {position.y:g}) and the orientation "
            f"({turn.x:g}, {turn.y:g}, {turn.z:g}, {turn.w:g}): they must be finite, and the orientation a "
            "unit quaternion",
            code="odometry.pose_invalid",
        )
    yaw = math.atan2(2 * (turn.w * turn.z + turn.x * turn.y), turn.w**2 + turn.x**2 - turn.y**2 - turn.z**2)
    return float(position.x), float(position.y), yaw
