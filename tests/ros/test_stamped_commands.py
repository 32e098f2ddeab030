"""Velocities in a TwistStamped, and warnings about nodes with another message type."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip(
    "jepa_ros.common.action_commands", reason="the workspace is not on the paths: . scripts/env.sh"
)

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist, TwistStamped
from jepa_msgs.msg import Surprise
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time, to_image
from sensor_msgs.msg import Image

pytestmark = pytest.mark.ros

STAMPED = {"enable_stamped_cmd_vel": True}
MOVED = 50


def test_robot_with_stamped_velocities_is_driven(ros_graph, two_rooms_bundle):
    commands = ros_graph.listen(TwistStamped, "cmd_vel")
    surprises = ros_graph.listen(Surprise, "world_model/surprise")
    images = ros_graph.listen(Image, "camera/image_raw", qos.SENSOR)
    ros_graph.start("world_model", {"bundle": two_rooms_bundle} | STAMPED, ("image:=camera/image_raw",))
    ros_graph.start("planner", {"surprise_ratio": 1.0} | STAMPED)
    ros_graph.start("two_rooms", {"seed": 3, "min_subscribers": 2} | STAMPED)

    def moved():
        first, last = (np.asarray(image.data, np.int16) for image in (images[0], images[-1]))
        return np.abs(last - first).max() > MOVED

    ros_graph.until(lambda: any(command.twist != Twist() for command in commands), "commands", 60.0)
    ros_graph.until(moved, "a robot that moves")
    ros_graph.until(lambda: surprises, "predictions by what was commanded")
    assert {command.header.frame_id for command in commands} == {"base_link"}
    assert abs(from_time(commands[-1].header.stamp) - time.time_ns()) < 10e9


def test_nodes_with_mismatched_command_types_report_it(ros_graph, toy_bundle):
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    ros_graph.start("planner")
    ros_graph.start("world_model", {"bundle": toy_bundle, "allow_untrained": True} | STAMPED)
    camera = ros_graph.publisher(Image, "image", qos.SENSOR)

    def look():
        pixels = np.zeros((32, 32, 3), np.uint8)
        camera.publish(to_image(pixels, stamp_ns=time.time_ns(), frame_id="camera"))

    def complained():
        types = "geometry_msgs/msg/Twist, geometry_msgs/msg/TwistStamped"
        warning = f"cmd_vel has several message types ({types})"
        statuses = [status for message in diagnostics for status in message.status]
        names = {status.name for status in statuses if status.message.startswith(warning)}
        return names == {"planner: driving", "world_model: inference"}

    ros_graph.until(complained, "warnings of both", 60.0, meanwhile=look)
