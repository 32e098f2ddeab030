"""The odometry of the robot: nav_msgs/Odometry on the topic ``odom``."""

from __future__ import annotations

import threading
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node

from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from jepa_ros.common.duplicate_publishers import duplicate_publishers
from jepa_runtime.errors import OdometryError
from jepa_runtime.ros_messages import planar_pose
from jepa_runtime.util import OdometryHistory, OdometryPose


class OdometryInput:
    """Subscribes to the odometry. :meth:`at` may be called by any thread.

    Args:
        node: The node that subscribes.
        timeout_s: See :class:`OdometryHistory`; also the largest difference between the clocks.
    """

    def __init__(self, node: Node, timeout_s: float) -> None:
        self._node = node
        self._topic = node.resolve_topic_name("odom")
        self._lock = threading.Lock()
        self._history = OdometryHistory(timeout_s=timeout_s)
        # Why the last message was rejected; empty: it was not.
        self._rejection = ""
        node.create_subscription(Odometry, "odom", self._on_message, qos.SENSOR)

    @property
    def problem(self) -> str:
        """Why the pose is unknown although odometry is published; empty: it is not."""
        hint = "remap odom to a topic with one, so that poses of different origins are not mixed"
        warnings = duplicate_publishers(self._node, [self._topic], hint)
        if warnings:
            return warnings[0]
        return f"{self._topic}: {self._rejection}" if self._rejection else ""

    def set_timeout(self, timeout_s: float) -> None:
        """Use another timeout from now on."""
        with self._lock:
            self._history.timeout_s = timeout_s

    def at(self, stamp_ns: int) -> OdometryPose:
        """Return the pose at the stamp of an image.

        Raises:
            OdometryError: It is unknown.
        """
        problem = self.problem
        if problem:
            raise OdometryError(problem, code="odometry.rejected")
        with self._lock:
            try:
                return self._history.at(stamp_ns)
            except OdometryError as error:
                raise OdometryError(f"{self._topic}: {error}", code=error.code) from error

    def _on_message(self, message: Any) -> None:
        stamp_ns = from_time(message.header.stamp)
        age_s = (int(self._node.get_clock().now().nanoseconds) - stamp_ns) / 1e9
        with self._lock:
            try:
                self._check_age(age_s)
                self._history.add(stamp_ns, planar_pose(message))
                self._rejection = ""
            except OdometryError as error:
                self._rejection = str(error)

    def _check_age(self, age_s: float) -> None:
        if abs(age_s) > self._history.timeout_s:
            raise OdometryError(
                f"the stamps are {abs(age_s):.2f} s {'behind' if age_s > 0 else 'ahead of'} this clock "
                f"(limit: {self._history.timeout_s:g} s): synchronize the clocks",
                code="odometry.clock_differs",
            )
