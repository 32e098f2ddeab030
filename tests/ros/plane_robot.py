"""A robot in an empty plane, a node in a thread of the test: camera, drifting odometry, and ``cmd_vel``."""

from __future__ import annotations

import math
import threading
import time
from types import TracebackType
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Twist
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_image, to_time
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from sensor_msgs.msg import Image

from jepa_runtime.planning.differential_drive import DifferentialDrive
from jepa_runtime.util.poses import Pose, compose
from tests.ros.plane_bundle import NAMES, image_at

_PERIOD_S, _IMAGE_EVERY = 0.04, 3
_COMMAND_TIMEOUT_S = 1.0
# The wheels slip: odometry measures the motion times these.
_SLIP = np.array([1.04, 1.0, 1.03])


class PlaneRobot:
    """The robot, which moves as commanded while its thread runs.

    Args:
        domain: ROS domain.

    Attributes:
        pose: True pose [3].
        teleoperation: Speed and turning rate by a person; None: the robot executes ``cmd_vel``.
        has_odometry: Whether odometry is published.
        odometry: Pose by odometry [3]; may be changed.
        odometry_delay_s: By how much the stamps of odometry are behind.
    """

    def __init__(self, domain: int) -> None:
        self.pose: Pose = np.array([-1.0, -1.5, 0.0])
        self.odometry: Pose = np.array([3.0, 2.0, 1.0])
        self.teleoperation: tuple[float, float] | None = None
        self.has_odometry = True
        self.odometry_delay_s = 0.0
        self._drive = DifferentialDrive.of(NAMES)
        self._command, self._commanded_s = np.zeros(2), -math.inf
        self._ticks = 0
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = rclpy.create_node("plane_robot", context=self._context)
        self._images = self.node.create_publisher(Image, "camera/image_raw", qos.SENSOR)
        self._odometry = self.node.create_publisher(Odometry, "odom", qos.SENSOR)
        self.node.create_subscription(Twist, "cmd_vel", self._on_command, 10)
        self.node.create_timer(_PERIOD_S, self._tick)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._spin)

    def __enter__(self) -> PlaneRobot:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def _spin(self) -> None:
        while not self._stopping.is_set():
            self._executor.spin_once(timeout_sec=0.1)

    def _on_command(self, message: Any) -> None:
        self._command = np.array([message.linear.x, message.angular.z])
        self._commanded_s = time.monotonic()

    def _tick(self) -> None:
        action = np.array(self.teleoperation) if self.teleoperation is not None else self._command
        if self.teleoperation is None and time.monotonic() - self._commanded_s > _COMMAND_TIMEOUT_S:
            action = np.zeros(2)
        motion = self._drive.motion(action, _PERIOD_S)
        self.pose = compose(self.pose, motion)
        self.odometry = compose(self.odometry, motion * _SLIP)
        stamp_ns = int(self.node.get_clock().now().nanoseconds)
        if self.has_odometry:
            stamped_ns = stamp_ns - round(self.odometry_delay_s * 1e9)
            self._odometry.publish(odometry_message(self.odometry, stamped_ns))
        if self._ticks % _IMAGE_EVERY == 0:
            self._images.publish(to_image(image_at(self.pose), stamp_ns=stamp_ns, frame_id="camera"))
        self._ticks += 1


def odometry_message(pose: Pose, stamp_ns: int) -> Odometry:
    """Return the message of a pose [3]."""
    message = Odometry(child_frame_id="base_link")
    message.header.frame_id, message.header.stamp = "odom", to_time(stamp_ns)
    x, y, yaw = pose.tolist()
    message.pose.pose.position.x, message.pose.pose.position.y = x, y
    message.pose.pose.orientation.z, message.pose.pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    return message
