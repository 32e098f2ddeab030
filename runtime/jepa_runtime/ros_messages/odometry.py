"""The pose in a nav_msgs/Odometry, of rosbags or rclpy."""

from __future__ import annotations

import math
from typing import Any

from jepa_runtime.errors import OdometryError
from jepa_runtime.ros_messages.poses import is_rotation

ODOMETRY = "nav_msgs/msg/Odometry"


def planar_pose(message: Any) -> tuple[float, float, float]:
    """Return x [m], y [m] and yaw [rad].

    Raises:
        OdometryError: A value is not finite, or the orientation is not a unit quaternion.
    """
    position, turn = message.pose.pose.position, message.pose.pose.orientation
    if not math.isfinite(position.x) or not math.isfinite(position.y) or not is_rotation(turn):
        raise OdometryError(
            f"an odometry message has the position ({position.x:g}, {position.y:g}) and the orientation "
            f"({turn.x:g}, {turn.y:g}, {turn.z:g}, {turn.w:g}): they must be finite, and the orientation a "
            "unit quaternion",
            code="odometry.pose_invalid",
        )
    yaw = math.atan2(2 * (turn.w * turn.z + turn.x * turn.y), turn.w**2 + turn.x**2 - turn.y**2 - turn.z**2)
    return float(position.x), float(position.y), yaw
