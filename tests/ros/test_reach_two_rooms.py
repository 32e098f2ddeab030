"""The planner's action with the real model, and the robot of the simulated world."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Twist
from jepa_msgs.msg import EpisodeResult, LatentState, PlannerStatus
from jepa_ros.common import qos
from sensor_msgs.msg import Image

from tests.ros.goals import Goal, client

pytestmark = pytest.mark.ros

START_S, EPISODE_S = 60.0, 60.0
ASKS = 3


class Robot:
    """Start the world model, the planner and the robot; the tests request the goals of the world."""

    def __init__(self, graph: Any, bundle: Path) -> None:
        self.graph = graph
        self.goals = graph.listen(Image, "world/goal_image", qos.LATCHED)
        self.commands = graph.listen(Twist, "cmd_vel")
        self.episodes = graph.listen(EpisodeResult, "episode")
        self.statuses = graph.listen(PlannerStatus, "planner/status")
        graph.start("world_model", {"bundle": bundle}, ("image:=camera/image_raw",))
        # On a busy machine images are late and show slower motion than their stamps imply, which surprises
        # the model.
        graph.start("planner", {"failure_tolerance_s": 3.0, "surprise_ratio": 1.0})
        graph.start(
            "two_rooms",
            {"seed": 3, "episode_timeout_s": 10 * EPISODE_S, "min_subscribers": 1},
            ("goal_image:=world/goal_image",),
        )
        self._client = client(graph)
        graph.until(lambda: self.goals and self.statuses, "a goal and the first planner status", START_S)

    def send_goal(self, **goal: Any) -> Goal:
        """Drive to the goal of the world, unless another one is given."""
        self.commands.clear()
        sent = Goal(self.graph, self._client, **({"image": self.goals[-1]} | goal))
        assert sent.accepted
        return sent

    def drive(self) -> Goal:
        """Drive to the goal of the world; the robot moves already."""
        sent = self.send_goal()
        self.graph.until(lambda: any(command != Twist() for command in self.commands), "commands")
        return sent

    def stands(self) -> bool:
        return bool(self.commands[-1] == Twist())


@pytest.fixture(scope="module")
def shared(shared_graph: Any, two_rooms_bundle: Path) -> Iterator[Robot]:
    yield Robot(shared_graph, two_rooms_bundle)
    for node in ("two_rooms", "planner", "world_model"):
        assert shared_graph.stop(node) == 0, shared_graph.log(node).read_text()


def test_robot_without_a_goal_stands_still(shared: Robot) -> None:
    shared.graph.until(lambda: len(shared.statuses) > 15, "images")
    assert {status.state for status in shared.statuses} <= {PlannerStatus.IDLE, PlannerStatus.HELD}
    # For half a second, and again for a new subscriber.
    assert all(command == Twist() for command in shared.commands) and len(shared.commands) <= 90


def test_robot_stops_when_the_goal_is_cancelled_on_the_way(shared: Robot) -> None:
    goal = shared.drive()
    assert goal.cancel()
    status, result = goal.end()
    assert (status, result.outcome) == (GoalStatus.STATUS_CANCELED, "cancelled")
    shared.graph.spin_for(0.6)
    count = len(shared.commands)
    shared.graph.spin_for(0.5)
    assert shared.stands() and len(shared.commands) == count


def test_goal_times_out_before_the_robot_arrives(shared: Robot) -> None:
    status, result = shared.send_goal(timeout_s=0.5).end()
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "timeout")
    assert result.duration_s >= 0.5 and shared.stands()


def test_robot_at_the_reported_goal_is_really_there(shared: Robot) -> None:
    # Two in a hundred goals are not reached, more with late images: request it again.
    for _ in range(ASKS):
        shared.episodes.clear()
        goal = shared.drive()
        status, result = goal.end(EPISODE_S)
        if result.outcome != "stuck":
            break
        assert status == GoalStatus.STATUS_ABORTED and shared.stands() and not shared.episodes
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, "reached"), result.reason
    assert result.steps > 3 and result.best_energy < np.nanmax([message.energy for message in goal.feedback])
    shared.graph.until(lambda: shared.episodes, "the verdict of the world")
    assert shared.episodes[0].reached and shared.episodes[0].distance_m < 0.2
    assert shared.stands()


def test_goal_may_be_an_earlier_latent(shared: Robot) -> None:
    latents = shared.graph.listen(LatentState, "world_model/latent")
    shared.graph.until(lambda: latents, "a latent")
    status, result = shared.send_goal(image=Image(), latent=latents[-1].latent).end()
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, "reached"), "it stands there"


def test_goal_accepted_too_late_moves_nothing(shared: Robot) -> None:
    world_model = shared.graph.processes["world_model"]
    world_model.send_signal(signal.SIGSTOP)
    try:
        _, result = shared.send_goal().end()
    finally:
        world_model.send_signal(signal.SIGCONT)
    assert result.outcome == "aborted"
    shared.commands.clear()
    shared.statuses.clear()
    shared.graph.until(lambda: len(shared.statuses) > 30, "images")
    assert all(command == Twist() for command in shared.commands)


def test_robot_stops_when_the_world_model_hangs(shared: Robot) -> None:
    goal = shared.drive()
    world_model = shared.graph.processes["world_model"]
    world_model.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        shared.graph.until(shared.stands, "a stop command", 2.0)
        assert time.monotonic() - began <= 0.5
        # Clearing the goal of an unresponsive world model takes a while.
        status, result = goal.end()
    finally:
        world_model.send_signal(signal.SIGCONT)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "aborted")
    assert "no futures for" in result.reason
