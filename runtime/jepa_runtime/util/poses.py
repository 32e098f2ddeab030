"""Arithmetic of planar poses: x, y and yaw, in meters and radians."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_Float = TypeVar("_Float", bound="np.floating[Any]")
Pose = NDArray[np.float64]
"""x, y and yaw [3], or poses [..., 3]."""

TURN_M = 0.5
"""Distance that a turn of 1 rad counts as, where a motion is one number."""


def wrap(angle: float) -> float:
    """Return an angle between -pi and pi."""
    return float((angle + math.pi) % (2 * math.pi) - math.pi)


def wrap_all(angles: NDArray[_Float]) -> NDArray[_Float]:
    """Return angles between -pi and pi, each as :func:`wrap` does."""
    return np.asarray((angles + math.pi) % (2 * math.pi) - math.pi, angles.dtype)


def relative(origin: Pose, pose: Pose) -> Pose:
    """Return a pose in the frame of another one."""
    dx, dy = pose[0] - origin[0], pose[1] - origin[1]
    cos, sin = math.cos(origin[2]), math.sin(origin[2])
    return np.array([dx * cos + dy * sin, -dx * sin + dy * cos, wrap(pose[2] - origin[2])])


def compose(origin: Pose, pose: Pose) -> Pose:
    """Return where a pose in the frame of ``origin`` lies in the frame of which ``origin`` is given."""
    cos, sin = math.cos(origin[2]), math.sin(origin[2])
    x, y = pose[0] * cos - pose[1] * sin, pose[0] * sin + pose[1] * cos
    return np.array([origin[0] + x, origin[1] + y, wrap(origin[2] + pose[2])])


def travel_m(start: Pose, end: Pose) -> float:
    """Return how far it is from a pose to another one, where turns count as :data:`TURN_M`."""
    x, y, yaw = relative(start, end)
    return math.hypot(x, y) + TURN_M * abs(float(yaw))
