"""A camera that hangs while its driver sends on: each image has a new stamp, and all are the same."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import PlannerStatus
from jepa_ros import qos
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros


class Driver:
    """Sends the images of the robot's camera on, or, while it ``hangs``, the last one with their stamps."""

    def __init__(self, graph) -> None:
        self.hangs = False
        self._last = Image()
        self._images = graph.observer.create_publisher(Image, "driver/image_raw", qos.SENSOR)
        graph.observer.create_subscription(Image, "camera/image_raw", self._send_on, qos.SENSOR)

    def _send_on(self, image: Image) -> None:
        if self.hangs:
            image.data = self._last.data
        self._last = image
        self._images.publish(image)


def test_a_robot_whose_camera_hangs_stands_until_it_sees_again(ros_graph, two_rooms_bundle):
    commands = ros_graph.listen(Twist, "cmd_vel")
    statuses = ros_graph.listen(PlannerStatus, "planner/status")
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    driver = Driver(ros_graph)
    ros_graph.start("world_model", {"bundle": two_rooms_bundle}, ("image:=driver/image_raw",))
    ros_graph.start("planner", {"surprised_after": 0})
    ros_graph.start("two_rooms", {"seed": 3, "episode_timeout_s": 600.0})

    def is_driven():
        return any(command != Twist() for command in commands)

    def is_told():
        messages = [status.message for each in diagnostics for status in each.status]
        return any("does the camera hang" in message for message in messages)

    ros_graph.until(is_driven, "commands", 60.0)
    driver.hangs = True
    ros_graph.until(is_told, "an error in the diagnostics", 5.0)
    commands.clear()
    statuses.clear()
    ros_graph.until(lambda: len(statuses) > 60, "images for two seconds")
    assert not is_driven()
    assert {status.state for status in statuses} == {PlannerStatus.HELD}
    driver.hangs = False
    ros_graph.until(is_driven, "commands once it sees again")
