"""The simulated robot with a forward camera, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed (extra first-person)")
pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from geometry_msgs.msg import PoseStamped, Twist
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from jepa_runtime.imaging import image_from_message
from jepa_runtime.ros_messages import euler_from_quaternion
from tests.ros.graph import Graph

pytestmark = pytest.mark.ros

START_S = 90.0
TURN_RADPS, TURN_S = 0.6, 1.0


class Robot:
    """Start the robot, and listen to its sensors."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.images: list[Image] = graph.listen(Image, "camera/image_raw", qos.SENSOR)
        self.odometry: list[Odometry] = graph.listen(Odometry, "odom")
        self.true_poses: list[PoseStamped] = graph.listen(PoseStamped, "first_person/true_pose")
        graph.start("first_person", {"seed": 1, "min_subscribers": 1})
        graph.until(lambda: self.images and self.odometry, "the first image", START_S)
        self._commands = graph.publisher(Twist, "cmd_vel")

    @property
    def turn(self) -> float:
        """Heading by the odometry."""
        return euler_from_quaternion(self.odometry[-1].pose.pose.orientation)[2]

    def drive(self, turn_radps: float, duration_s: float) -> None:
        """Turn on the spot, with commands at 20 Hz."""
        command = Twist()
        command.angular.z = turn_radps
        for _ in range(round(duration_s / 0.05)):
            self._commands.publish(command)
            self.graph.spin_for(0.05)

    def reset(self) -> None:
        assert self.graph.call(Trigger, "first_person/reset", Trigger.Request()).success
        seen = len(self.images)
        self.graph.until(lambda: len(self.images) > seen + 2, "images after the reset")


@pytest.fixture(scope="module")
def robot(shared_graph: Any) -> Iterator[Robot]:
    yield Robot(shared_graph)
    assert shared_graph.stop("first_person") == 0, shared_graph.log("first_person").read_text()
    report = shared_graph.report("first_person")
    assert report["frames_published"] > 50 and report["resets"] == 3 and report["duration_s"] > 2.0


def test_images_and_odometry_have_the_same_stamps_at_30_hz(robot: Robot) -> None:
    robot.images.clear()
    robot.odometry.clear()
    robot.graph.until(lambda: len(robot.images) >= 45 and len(robot.odometry) >= 45, "45 images")
    stamps = {from_time(image.header.stamp) for image in robot.images[:40]}
    assert stamps <= {from_time(each.header.stamp) for each in robot.odometry}
    assert np.ptp(sorted(stamps)) / 39e9 == pytest.approx(1 / 30, rel=0.1)
    assert image_from_message(robot.images[-1]).shape == (72, 96, 3)
    assert robot.images[-1].header.frame_id == "camera"
    odometry = robot.odometry[-1]
    assert (odometry.header.frame_id, odometry.child_frame_id) == ("odom", "base_link")


def test_robot_turns_as_commanded_and_stops_without_commands(robot: Robot) -> None:
    robot.reset()
    assert robot.turn == pytest.approx(0.0, abs=1e-6)
    robot.drive(TURN_RADPS, TURN_S)
    assert robot.odometry[-1].twist.twist.angular.z == pytest.approx(TURN_RADPS, rel=0.25)
    # The last command holds until its timeout.
    robot.graph.spin_for(1.2)
    turned = robot.turn
    assert TURN_RADPS * TURN_S * 0.7 < turned < TURN_RADPS * (TURN_S + 1.2)
    robot.graph.spin_for(0.5)
    assert robot.turn == pytest.approx(turned, abs=1e-3)


def test_reset_begins_an_episode_off_the_start_of_the_route(robot: Robot) -> None:
    views = {image.header.frame_id for image in robot.images}
    robot.reset()
    assert robot.images[-1].header.frame_id not in views
    assert robot.turn == 0.0
    displaced = robot.true_poses[-1].pose.position
    assert robot.graph.set_parameter("first_person", "displaced", False) == ""
    robot.reset()
    start = robot.true_poses[-1].pose.position
    assert 0.01 < np.hypot(start.x - displaced.x, start.y - displaced.y) < 0.6


def test_door_is_closed_on_request(robot: Robot) -> None:
    closed = robot.graph.call(Trigger, "first_person/close_door", Trigger.Request())
    assert closed.success and closed.message.startswith("door ")
    assert robot.graph.set_parameter("first_person", "door", 50) == ""
    missing = robot.graph.call(Trigger, "first_person/close_door", Trigger.Request())
    assert not missing.success and "no door 50" in missing.message
