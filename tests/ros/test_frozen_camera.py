"""A camera that hangs while its driver continues, or a second camera on its topic.

The real nodes with the shipped model. `benchmarks/safety.py` covers all faults in simulated time.
"""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import PlannerStatus
from jepa_ros.common import qos
from jepa_ros.common.conversions import to_array_field
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros

LONGEST_PATH_M = 2.5
START_S = 60.0


class Driver:
    """Forward the images of the robot's camera.

    While it ``hangs``, repeat the last ``buffers`` images with their stamps, with ``noise`` added.
    """

    def __init__(self, graph, *, buffers=1, noise=0) -> None:
        self.hangs, self.sent = False, 0
        self._size, self._noise, self._buffers = buffers, noise, []
        self._rng = np.random.default_rng(0)
        self._images = graph.observer.create_publisher(Image, "driver/image_raw", qos.SENSOR)
        graph.observer.create_subscription(Image, "camera/image_raw", self._send_on, qos.SENSOR)

    def _send_on(self, image: Image) -> None:
        if not self.hangs:
            self._buffers = [*self._buffers, np.array(image.data, np.int16)][-self._size :]
        else:
            pixels = self._buffers[self.sent % len(self._buffers)]
            if self._noise:
                pixels = pixels + self._rng.integers(-self._noise, self._noise + 1, pixels.shape)
            image.data = to_array_field(np.clip(pixels, 0, 255).astype(np.uint8))
        self.sent += 1
        self._images.publish(image)


class Robot:
    """Run the nodes with a driver between the robot's camera and the world model."""

    def __init__(self, graph, bundle, **driver) -> None:
        self.graph = graph
        self.commands = []
        graph.observer.create_subscription(Twist, "cmd_vel", self._on_command, 50)
        self.statuses = graph.listen(PlannerStatus, "planner/status")
        self.diagnostics = graph.listen(DiagnosticArray, "/diagnostics")
        self.driver = Driver(graph, **driver)
        graph.start("world_model", {"bundle": bundle}, ("image:=driver/image_raw",))
        # On a busy machine images are late and show slower motion than their stamps imply, which surprises
        # the model.
        graph.start("planner", {"surprise_ratio": 1.0})
        graph.start("two_rooms", {"seed": 3, "episode_timeout_s": 600.0})
        graph.until(self.is_driven, "commands", START_S)

    def _on_command(self, command: Twist) -> None:
        self.commands.append((time.monotonic(), math.hypot(command.linear.x, command.linear.y)))

    def is_driven(self) -> bool:
        return bool(self.commands and self.commands[-1][1])

    def path_m(self, since_s: float) -> float:
        """Return the commands since then."""
        ends = [at_s for at_s, _ in self.commands[1:]] + [time.monotonic()]
        return sum(
            speed * (end_s - max(at_s, since_s))
            for (at_s, speed), end_s in zip(self.commands, ends, strict=True)
            if end_s > since_s
        )

    def says(self, words: str) -> bool:
        return any(words in status.message for each in self.diagnostics for status in each.status)


@pytest.mark.parametrize(
    ("driver", "lasts_s"),
    [
        ({"buffers": 4}, 6.0),
        *(pytest.param({"buffers": buffers}, 15.0, marks=pytest.mark.slow) for buffers in (1, 2, 4, 8)),
        *(pytest.param({"noise": noise}, 15.0, marks=pytest.mark.slow) for noise in (1, 3)),
    ],
)
def test_robot_with_a_frozen_camera_is_stopped(ros_graph, two_rooms_bundle, driver, lasts_s):
    robot = Robot(ros_graph, two_rooms_bundle, **driver)
    ros_graph.spin_for(0.5)
    robot.driver.hangs, began_s = True, time.monotonic()
    ros_graph.spin_for(lasts_s)
    assert robot.path_m(began_s) <= LONGEST_PATH_M
    assert robot.says("the camera is frozen")
    assert robot.statuses[-1].state == PlannerStatus.HELD and not robot.is_driven()


def test_robot_with_two_cameras_on_one_topic_is_stopped_until_one_is_left(ros_graph, two_rooms_bundle):
    robot = Robot(ros_graph, two_rooms_bundle)
    other = ros_graph.observer.create_publisher(Image, "driver/image_raw", qos.SENSOR)
    ros_graph.until(lambda: robot.says("has 2 publishers"), "diagnostics", 5.0)
    held = lambda: robot.statuses[-1].state == PlannerStatus.HELD and not robot.is_driven()  # noqa: E731
    ros_graph.until(held, "a robot that is held and stands", 5.0)
    ros_graph.observer.destroy_publisher(other)
    ros_graph.until(robot.is_driven, "commands once there is one camera")
