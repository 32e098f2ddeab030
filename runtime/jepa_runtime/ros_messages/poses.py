"""The pose in a geometry_msgs/Pose, of rosbags or rclpy, as a position and three angles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

POSE_NAMES = ("x", "y", "z", "roll", "pitch", "yaw")
"""The components of a pose."""
POSE_UNITS = ("m", "m", "m", "rad", "rad", "rad")
"""Their units."""
# Largest error of the norm of an orientation. Some drivers leave all four values at zero.
_NORM_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class EulerPose:
    """A position [m], and the rotation about the fixed axes x, then y, then z by three angles [rad]."""

    x: float
    y: float
    z: float
    roll: float
    pitch: float
    yaw: float


def euler_pose(pose: Any) -> EulerPose:
    """Return the position and the angles of a geometry_msgs/Pose.

    Raises:
        ValueError: A value is not finite, or the orientation is not a unit quaternion.
    """
    position, turn = pose.position, pose.orientation
    place = float(position.x), float(position.y), float(position.z)
    if not all(map(math.isfinite, place)) or not is_rotation(turn):
        raise ValueError(
            f"a pose has the position ({place[0]:g}, {place[1]:g}, {place[2]:g}) and the orientation "
            f"({turn.x:g}, {turn.y:g}, {turn.z:g}, {turn.w:g}): they must be finite, and the orientation a "
            "unit quaternion"
        )
    return EulerPose(*place, *euler_from_quaternion(turn))


def is_rotation(quaternion: Any) -> bool:
    """Return whether a geometry_msgs/Quaternion is finite and of unit length."""
    norm = math.hypot(quaternion.x, quaternion.y, quaternion.z, quaternion.w)
    return math.isfinite(norm) and abs(norm - 1) <= _NORM_TOLERANCE


def euler_from_quaternion(quaternion: Any) -> tuple[float, float, float]:
    """Return the angles [rad] about the fixed axes x, then y, then z, with the second in [-pi/2, pi/2].

    The quaternion is normalized first. Zero length gives no rotation; values that are not finite give NaN.
    """
    q = quaternion
    length = math.hypot(q.w, q.x, q.y, q.z) or 1.0
    w, x, y, z = q.w / length, q.x / length, q.y / length, q.z / length
    roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    sine = 2 * (w * y - z * x)
    pitch = math.asin(sine if math.isnan(sine) else min(max(sine, -1.0), 1.0))
    yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return roll, pitch, yaw
