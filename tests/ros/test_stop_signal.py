"""Stop and release of the robot, with a planner in a separate process."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Twist
from jepa_msgs.msg import PlannerStatus
from jepa_ros.common import qos
from std_msgs.msg import Bool

from tests.ros.goals import now_ns
from tests.ros.test_reach_goal import Stub, model_info

pytestmark = pytest.mark.ros


def drives(stub: Stub) -> None:
    stub.goal_ns = now_ns()
    stub.until(lambda: stub.commands[-1:] and stub.commands[-1].linear.x > 0.1, "commands")


def rests(stub: Stub) -> None:
    """Check that the state persists while images arrive."""
    stub.statuses.clear()
    stub.commands.clear()
    stub.until(lambda: len(stub.statuses) > 20, "what becomes of images")
    assert {status.state for status in stub.statuses} == {PlannerStatus.IDLE}
    assert all(command == Twist() for command in stub.commands)


@pytest.mark.parametrize("profile", [qos.RESULT, qos.LATCHED, qos.SENSOR])
def test_stopped_robot_stands_until_it_gets_another_goal(ros_graph: Any, profile: Any) -> None:
    stub = Stub(ros_graph, model_info())
    words = ros_graph.publisher(Bool, "planner/stop", profile)
    drives(stub)
    words.publish(Bool(data=True))
    stub.until(lambda: stub.commands[-1] == Twist(), "a stop command")
    stub.until(lambda: stub.has_status(1, "robot stopped: stop requested"), "WARN in the diagnostics")
    words.publish(Bool(data=False))
    stub.until(lambda: stub.statuses[-1].state == PlannerStatus.IDLE, "rest")
    rests(stub)
    stub.until(lambda: stub.has_status(0, "idle: the latched goal has expired"), "why, in the diagnostics")
    drives(stub)


def test_stop_ends_the_goal_and_reports_it_to_the_client(ros_graph: Any) -> None:
    stub = Stub(ros_graph, model_info())
    words = ros_graph.publisher(Bool, "planner/stop")
    goal = stub.driving()
    words.publish(Bool(data=True))
    result = stub.ends(goal, "aborted", GoalStatus.STATUS_ABORTED)
    assert result.reason == "stop requested"
    words.publish(Bool(data=False))
    stub.until(lambda: stub.goal_ns is None, "the goal given back")
    rests(stub)
    stub.driving()


def test_robot_is_stopped_when_the_stop_signal_expires(ros_graph: Any) -> None:
    stub = Stub(ros_graph, model_info(), stop_timeout_s=0.5)
    words = ros_graph.publisher(Bool, "planner/stop")

    def go() -> None:
        words.publish(Bool(data=False))
        stub.image()

    stub.goal_ns = now_ns()
    stub.until(lambda: stub.has_status(1, "no stop message for 0.5 s"), "that it is stopped until then")
    ros_graph.until(lambda: stub.has_status(0, "idle"), "that it is not any more", meanwhile=go)
    stub.goal_ns = now_ns()
    driven = lambda: stub.commands[-1:] and stub.commands[-1].linear.x > 0.1  # noqa: E731
    ros_graph.until(driven, "commands", meanwhile=go)
    stub.until(lambda: stub.commands[-1] == Twist(), "a stop command")


def test_latched_goal_ends_after_its_time(ros_graph: Any) -> None:
    stub = Stub(ros_graph, model_info(), goal_timeout_s=1.0)
    drives(stub)
    stub.until(lambda: stub.commands[-1] == Twist(), "a stop command", 3.0)
    rests(stub)
    drives(stub)
