"""Bags with images and commands, for tests: real CDR in real MCAP files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jepa_runtime.recording import McapRecorder, messages
from jepa_runtime.ros_messages.definitions import build
from jepa_runtime.ros_messages.odometry import ODOMETRY

IMAGE = "sensor_msgs/msg/Image"
JOINTS = "sensor_msgs/msg/JointState"
FLOATS = "std_msgs/msg/Float32MultiArray"

Entry = tuple[int, str, str, dict[str, Any]]


def image(
    stamp_ns: int,
    value: int = 0,
    *,
    size: tuple[int, int] = (6, 8),
    topic: str = "/image",
    frame_id: str = "front",
) -> Entry:
    """An image of one gray, logged at its stamp."""
    shown = np.full((*size, 3), value, np.uint8)
    return stamp_ns, topic, IMAGE, messages.image(shown, stamp_ns, frame_id)


def vector(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> dict[str, float]:
    return {"x": x, "y": y, "z": z}


def twist(log_ns: int, forward: float, turn: float = 0.0) -> Entry:
    return log_ns, "/cmd_vel", messages.TWIST, {"linear": vector(forward), "angular": vector(z=turn)}


def twist_stamped(log_ns: int, stamp_ns: int, forward: float) -> Entry:
    fields = {
        "header": messages.header(stamp_ns, "base"),
        "twist": {"linear": vector(forward), "angular": vector()},
    }
    return log_ns, "/cmd_vel", messages.TWIST_STAMPED, fields


def odometry(
    log_ns: int, x: float, y: float = 0.0, yaw: float = 0.0, *, stamp_ns: int | None = None
) -> Entry:
    turn = {"x": 0.0, "y": 0.0, "z": math.sin(yaw / 2), "w": math.cos(yaw / 2)}
    unknown = np.zeros(36)
    fields = {
        "header": messages.header(log_ns if stamp_ns is None else stamp_ns, "odom"),
        "child_frame_id": "base_link",
        "pose": {"pose": {"position": vector(x, y), "orientation": turn}, "covariance": unknown},
        "twist": {"twist": {"linear": vector(), "angular": vector()}, "covariance": unknown},
    }
    return log_ns, "/odom", ODOMETRY, fields


def floats(log_ns: int, *values: float) -> Entry:
    fields = {"layout": {"dim": [], "data_offset": 0}, "data": np.array(values, np.float32)}
    return log_ns, "/effort", FLOATS, fields


def joints(log_ns: int, **positions: float) -> Entry:
    fields = {
        "header": messages.header(log_ns, ""),
        "name": list(positions),
        "position": np.array(list(positions.values()), np.float64),
        "velocity": np.array([10 * value for value in positions.values()], np.float64),
        "effort": np.array([]),
    }
    return log_ns, "/joint_states", JOINTS, fields


def arm_pose(
    stamp_ns: int, x: float, *, yaw: float = 0.0, log_ns: int | None = None, topic: str = "/pose"
) -> Entry:
    """The pose of an end effector 0.2 m above the base, logged at its stamp."""
    turn = {"x": 0.0, "y": 0.0, "z": math.sin(yaw / 2), "w": math.cos(yaw / 2)}
    pose = {"position": vector(x, 0.0, 0.2), "orientation": turn}
    fields = {"header": messages.header(stamp_ns, "base"), "pose": pose}
    return stamp_ns if log_ns is None else log_ns, topic, "geometry_msgs/msg/PoseStamped", fields


def write_bag(path: Path, entries: Iterable[Entry]) -> Path:
    """Record ``entries`` in the order of their log times."""
    with McapRecorder(path) as recorder:
        for log_ns, topic, type_name, fields in sorted(entries, key=lambda entry: entry[0]):
            recorder.write_message(topic, build(type_name, fields), log_ns)
    return path
