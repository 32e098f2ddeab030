"""Images that arrive late: plans start from the state when their command takes effect."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Twist
from jepa_msgs.msg import PlannerStatus, PredictedFutures
from jepa_ros.common import qos
from sensor_msgs.msg import Image

from jepa_runtime.recording import messages

pytestmark = pytest.mark.ros

START_S, DELAY_S = 60.0, 0.3
MODEL_ON = {"frozen_after_s": 10.0, "surprise_ratio": 1.0, "futures_timeout_s": 2.0}


def test_late_images_are_compensated_and_the_diagnostics_show_it(
    ros_graph: Any, two_rooms_bundle: Path
) -> None:
    futures = ros_graph.listen(PredictedFutures, "world_model/futures")
    statuses = ros_graph.listen(PlannerStatus, "planner/status")
    commands = ros_graph.listen(Twist, "cmd_vel")
    diagnostics = ros_graph.listen(DiagnosticArray, "/diagnostics")
    delay_images(ros_graph)
    ros_graph.start("world_model", {"bundle": two_rooms_bundle}, ("image:=late/image_raw",))
    ros_graph.start("planner", MODEL_ON)
    ros_graph.start("two_rooms", {"seed": 3, "episode_timeout_s": 600.0, "min_subscribers": 1})
    ros_graph.until(lambda: any(command != Twist() for command in commands), "commands", START_S)
    ros_graph.until(lambda: statuses and statuses[-1].compensated_ms > 1e3 * DELAY_S, "compensation", START_S)
    status, message = statuses[-1], futures[-1]
    ahead_s = (messages.from_time(message.start) - messages.from_time(message.header.stamp)) / 1e9
    assert DELAY_S <= ahead_s < 2.0 and status.e2e_ms > 1e3 * DELAY_S
    np.testing.assert_allclose(message.horizon_s, ahead_s + 0.2 * np.arange(1, len(message.horizon_s) + 1))
    diagnostics.clear()
    for node in ("planner", "world_model"):
        ros_graph.until(lambda node=node: compensated_ms(diagnostics, node) > 1e3 * DELAY_S, node)


def compensated_ms(diagnostics: list[DiagnosticArray], node: str) -> float:
    """Return the value in the last diagnostics of ``node``; 0 without it."""
    statuses = [status for array in diagnostics for status in array.status if status.name.startswith(node)]
    values = [
        float(value.value) for status in statuses for value in status.values if value.key == "compensated_ms"
    ]
    return values[-1] if values else 0.0


def delay_images(graph: Any) -> None:
    """Publish each image of the simulated camera again, late."""
    waiting: deque[tuple[float, Image]] = deque()
    late = graph.observer.create_publisher(Image, "late/image_raw", qos.SENSOR)

    def publish() -> None:
        while waiting and waiting[0][0] <= time.monotonic():
            late.publish(waiting.popleft()[1])

    def receive(message: Image) -> None:
        waiting.append((time.monotonic() + DELAY_S, message))

    graph.observer.create_subscription(Image, "camera/image_raw", receive, qos.SENSOR)
    graph.observer.create_timer(0.005, publish)
