"""A simulated robot with a forward camera and wheel odometry, at the start of a route through a house.

The simulation advances with the time that has passed, also while nobody decides. Without recent commands the
robot stands still. After ``~/reset`` the images have a new frame_id, so that nothing is predicted from one
episode into the next.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from jepa_ros.common import qos
from jepa_ros.common.action_commands import VelocityCommands, quaternion_from_euler
from jepa_ros.common.conversions import to_image, to_time
from jepa_ros.common.parameters import STAMPED_CMD_VEL, declare_parameters, parameter_values
from jepa_ros.common.spin import run
from jepa_ros.nodes.first_person_parameters import PARAMETERS
from jepa_runtime.errors import WorldError
from jepa_runtime.sources import view_name
from jepa_runtime.util import Pose
from jepa_sim.closed_loop.first_person.real_time import Reading, RouteSimulation

HOUSE, ODOMETRY, BASE = "house", "odom", "base_link"


class FirstPersonNode(Node):
    """Publish camera images and odometry of the simulation. See ros2_ws/README.md."""

    def __init__(self) -> None:
        super().__init__("first_person")
        self.finished = threading.Event()
        self.failure = ""
        declare_parameters(self, PARAMETERS)
        values = parameter_values(self, PARAMETERS)
        self._frame_id: str = values["frame_id"]
        self._min_subscribers: int = values["min_subscribers"]
        self._simulation = RouteSimulation(values["seed"], report=self.get_logger().info)
        self._command: NDArray[np.float64] = np.zeros(2)
        self._command_at = -float("inf")
        # When the simulation began, by the monotonic clock; None: before the first image.
        self._began_at: float | None = None
        self._published = self._resets = self._contacts = 0
        self._first_ns = self._last_ns = 0
        self._images = self.create_publisher(Image, "camera/image_raw", qos.SENSOR)
        self._odometry = self.create_publisher(Odometry, "odom", qos.RESULT)
        self._true_poses = self.create_publisher(PoseStamped, "~/true_pose", qos.RESULT)
        commands = VelocityCommands(("linear.x", "angular.z"), stamped=values[STAMPED_CMD_VEL.name])
        commands.subscribe(self, self._on_command)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/close_door", self._on_close_door)
        self.create_timer(1.0 / values["rate_hz"], self._tick)
        self.get_logger().info(f"a route through {self._simulation.doors} doors, {values['rate_hz']:g} Hz")

    def _tick(self) -> None:
        if self._published == 0 and self._images.get_subscription_count() < self._min_subscribers:
            return
        now_ns, now = int(self.get_clock().now().nanoseconds), time.monotonic()
        if self._began_at is None:
            self._began_at = now
        elapsed_s = now - self._began_at
        self._simulation.advance(elapsed_s, self._command_after)
        reading = self._simulation.read(elapsed_s)
        view = view_name(self._frame_id, self._resets)
        self._images.publish(to_image(reading.image, stamp_ns=now_ns, frame_id=view))
        self._odometry.publish(_odometry(reading, now_ns))
        self._true_poses.publish(_true_pose(reading, now_ns))
        if self._published == 0:
            self._first_ns = now_ns
        self._last_ns = now_ns
        self._published += 1

    def _command_after(self, elapsed_s: float) -> NDArray[np.float64]:
        """Return the command at a time since the last reset: the newest one, unless it is too old."""
        assert self._began_at is not None
        age_s = self._began_at + elapsed_s - self._command_at
        return np.zeros(2) if age_s > self.get_parameter("command_timeout_s").value else self._command

    def _on_command(self, action: NDArray[np.float32]) -> None:
        velocity = action.astype(np.float64)
        if np.isfinite(velocity).all():
            self._command, self._command_at = velocity, time.monotonic()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        displaced: bool = self.get_parameter("displaced").value
        self._contacts += self._simulation.contacts
        self._simulation.reset(displaced=displaced)
        self._began_at, self._command_at = None, -float("inf")
        self._resets += 1
        response.success = True
        place = "off the start" if displaced else "at the start"
        response.message = f"the robot stands {place} of the route, and all doors are open"
        self.get_logger().info(f"reset: {response.message}")
        return response

    def _on_close_door(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        door: int = self.get_parameter("door").value
        try:
            self._simulation.close_door(door)
        except WorldError as error:
            response.message = str(error)
        else:
            response.success = True
            response.message = f"door {door % self._simulation.doors} closes unless the robot stands in it"
        self.get_logger().info(response.message)
        return response

    def stop(self) -> None:
        """Release what draws the images."""
        self._simulation.close()

    def report(self) -> dict[str, Any]:
        """Return counters since the start."""
        return {
            "frames_published": self._published,
            "duration_s": (self._last_ns - self._first_ns) / 1e9,
            "resets": self._resets,
            "contacts": self._contacts + self._simulation.contacts,
        }


def _odometry(reading: Reading, stamp_ns: int) -> Odometry:
    message = Odometry(header=Header(stamp=to_time(stamp_ns), frame_id=ODOMETRY), child_frame_id=BASE)
    _set_pose(message.pose.pose, reading.odometry)
    message.twist.twist.linear.x, message.twist.twist.angular.z = map(float, reading.velocity)
    return message


def _true_pose(reading: Reading, stamp_ns: int) -> PoseStamped:
    message = PoseStamped(header=Header(stamp=to_time(stamp_ns), frame_id=HOUSE))
    _set_pose(message.pose, reading.true_pose)
    return message


def _set_pose(message: Any, pose: Pose) -> None:
    message.position.x, message.position.y = float(pose[0]), float(pose[1])
    message.orientation = quaternion_from_euler(0.0, 0.0, float(pose[2]))


def main() -> None:
    """Entry point of ``ros2 run jepa_ros first_person``."""
    sys.exit(run(FirstPersonNode))
