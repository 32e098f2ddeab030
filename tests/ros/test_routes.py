"""Teach and repeat with the real model, the planner and the robot of the simulated world."""

from __future__ import annotations

import copy
import math
import shutil
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from action_msgs.srv import CancelGoal
from geometry_msgs.msg import Twist
from jepa_msgs.action import RepeatRoute, TeachRoute
from jepa_msgs.msg import LatentState, PlannerStatus
from jepa_msgs.srv import SwapModel
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time, to_time
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from jepa_runtime.bundle import Bundle, seal
from jepa_runtime.routes import Route
from tests.ros.goals import Goal, client, now_ns
from tests.ros.route_goals import RouteGoal

pytestmark = pytest.mark.ros

START_S, ROUTE_S = 60.0, 60.0
# Attempts to start a route.
_TRIES = 4


class Robot:
    """The nodes of a robot with a route folder."""

    def __init__(self, graph: Any, bundle: Path, folder: Path) -> None:
        self.graph, self.folder = graph, folder
        self.goals = graph.listen(Image, "world/goal_image", qos.LATCHED)
        self.commands = graph.listen(Twist, "cmd_vel")
        self.statuses = graph.listen(PlannerStatus, "planner/status")
        self.latents = graph.listen(LatentState, "world_model/latent")
        graph.start("world_model", {"bundle": bundle}, ("image:=camera/image_raw",))
        # On a busy machine images are late and show slower motion than their stamps imply, which surprises
        # the model.
        graph.start("planner", {"failure_tolerance_s": 3.0, "surprise_ratio": 1.0})
        graph.start(
            "two_rooms",
            {"seed": 3, "episode_timeout_s": 3600.0, "layout": "fixed"},
            ("goal_image:=world/goal_image",),
        )
        graph.start("route", {"routes_dir": folder, "patience_s": 2.0}, ("image:=camera/image_raw",))
        self.teach = ActionClient(graph.observer, TeachRoute, "route/teach_route")
        self.repeat = ActionClient(graph.observer, RepeatRoute, "route/repeat_route")
        self._reach = client(graph)
        graph.until(lambda: self.goals and self.statuses and self.latents, "all nodes", START_S)

    def reach(self) -> Goal:
        """Drive to the goal of the world, with another stamp: the world must not begin another episode."""
        image = copy.deepcopy(self.goals[-1])
        image.header.stamp = to_time(now_ns())
        return Goal(self.graph, self._reach, image=image)

    def start(self, name: str = "first", **options: Any) -> RouteGoal:
        self.commands.clear()
        handle = RouteGoal(self.graph, self.repeat, RepeatRoute.Goal(name=name, **options))
        assert handle.accepted
        return handle

    def drive(self, name: str = "first", **options: Any) -> RouteGoal:
        """Start a route until the robot moves along it.

        After other tests, and on a busy machine, first answers may be late and the robot may be off the
        route: it is then driven to the end of the route first.
        """
        for _ in range(_TRIES):
            handle = self.start(name, **options)
            self.graph.until(partial(_has_begun, self, handle), "commands, or the end", ROUTE_S)
            if not handle.ended:
                return handle
            self.reach().end(ROUTE_S)
        raise AssertionError(handle.end()[1].reason)

    def moves(self) -> bool:
        return any(command != Twist() for command in self.commands)

    def stands(self) -> bool:
        return bool(self.commands) and self.commands[-1] == Twist()


def _has_begun(robot: Robot, handle: RouteGoal) -> bool:
    return handle.ended or robot.moves()


@pytest.fixture(scope="module")
def shared(shared_graph: Any, two_rooms_bundle: Path, tmp_path_factory: Any) -> Iterator[Robot]:
    """Return a robot that was taught the route ``first``, and stands at its end."""
    robot = Robot(shared_graph, two_rooms_bundle, tmp_path_factory.mktemp("routes"))
    taught = RouteGoal(shared_graph, robot.teach, TeachRoute.Goal(name="first"))
    assert taught.accepted
    shared_graph.until(lambda: taught.feedback, "the first key frame")
    robot.reach().end(ROUTE_S)
    assert shared_graph.call(Trigger, "route/finish_teaching", Trigger.Request()).success
    status, result = taught.end()
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, "saved"), result.reason
    assert result.key_frames == len(Route.open(robot.folder / "first")) >= 4
    yield robot
    for node in ("route", "two_rooms", "planner", "world_model"):
        assert shared_graph.stop(node) == 0, shared_graph.log(node).read_text()


def test_route_is_driven_back_and_forth_without_stops(shared: Robot) -> None:
    for reverse in (True, False):
        handle = shared.drive(reverse=reverse)
        status, result = handle.end()
        assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, "reached"), result.reason
        assert result.progress > 0.8 and result.duration_s > 0
        assert {each.state for each in handle.feedback} <= {"localizing", "following", "waiting"}
        assert max(each.goal for each in handle.feedback) >= 3
        shared.graph.until(shared.stands, "a stop command", 2.0)


def test_route_canceled_on_the_way_stops_the_robot(shared: Robot) -> None:
    handle = shared.drive(reverse=True)
    handle.cancel()
    status, result = handle.end(10.0)
    assert (status, result.outcome) == (GoalStatus.STATUS_CANCELED, "canceled") and shared.stands()


def test_route_is_aborted_by_another_client_of_the_planner(shared: Robot) -> None:
    handle = shared.drive(reverse=True)
    other = shared.reach()
    status, result = handle.end(10.0)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "aborted")
    assert "replaced by another goal" in result.reason
    # The goal may be near, and reached by now.
    other.cancel()
    other.end()


def test_route_is_aborted_when_another_client_cancels_the_goal_of_the_planner(shared: Robot) -> None:
    handle = shared.drive(reverse=True)
    canceled = shared.graph.call(CancelGoal, "planner/reach_goal/_action/cancel_goal", CancelGoal.Request())
    assert len(canceled.goals_canceling) == 1
    status, result = handle.end(10.0)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "aborted")
    assert "another client canceled" in result.reason and shared.stands()


def test_second_route_replaces_the_first(shared: Robot) -> None:
    first = shared.drive(reverse=True)
    second = shared.start(reverse=True)
    _, result = first.end(10.0)
    assert result.outcome == "aborted" and "another route" in result.reason
    second.cancel()
    assert second.end(10.0)[1].outcome == "canceled" and shared.stands()


@pytest.mark.parametrize(
    ("name", "words"), [("none", "no such folder"), ("../first", "not the name"), ("", "not the name")]
)
def test_route_that_cannot_be_opened_is_aborted_with_the_reason(shared: Robot, name: str, words: str) -> None:
    status, result = shared.start(name).end(10.0)
    assert (status, result.outcome) == (GoalStatus.STATUS_ABORTED, "aborted") and words in result.reason
    assert math.isnan(result.progress)


def test_recording_canceled_by_a_client_is_discarded(shared: Robot) -> None:
    handle = RouteGoal(shared.graph, shared.teach, TeachRoute.Goal(name="second"))
    second = RouteGoal(shared.graph, shared.teach, TeachRoute.Goal(name="third"))
    assert handle.accepted and not second.accepted
    handle.cancel()
    status, result = handle.end(10.0)
    assert (status, result.outcome) == (GoalStatus.STATUS_CANCELED, "canceled")
    assert [path.name for path in shared.folder.iterdir()] == ["first"]


def test_route_with_a_hung_world_model_stops_the_robot_and_is_aborted(shared: Robot) -> None:
    handle = shared.drive(reverse=True)
    world_model = shared.graph.processes["world_model"]
    world_model.send_signal(signal.SIGSTOP)
    try:
        shared.graph.until(shared.stands, "a stop command", 3.0)
        _, result = handle.end(20.0)
    finally:
        world_model.send_signal(signal.SIGCONT)
    assert result.outcome == "aborted", result.reason
    resumed_ns = now_ns()
    shared.graph.until(
        lambda: from_time(shared.latents[-1].header.stamp) > resumed_ns, "latents of new images"
    )
    handle = shared.drive(reverse=True)
    handle.cancel()
    assert handle.end(10.0)[1].outcome == "canceled" and shared.stands()


def with_another_encoder(bundle: Path, folder: Path) -> Path:
    """Return a bundle that computes the same, and whose encoder has another hash."""
    copy_of = Path(shutil.copytree(bundle, folder))
    manifest = Bundle.open(bundle).manifest
    for variant in manifest.graphs.encoder:
        for path in (copy_of / name for name in variant.paths if name.endswith(".xml")):
            path.write_bytes(path.read_bytes() + b"\n")
    seal(copy_of, manifest)
    return copy_of


def test_model_swap_to_another_encoder_stops_the_robot_and_aborts_the_route(
    shared: Robot, two_rooms_bundle: Path, tmp_path: Path
) -> None:
    other = with_another_encoder(two_rooms_bundle, tmp_path / "other")
    handle = shared.drive(reverse=True)
    assert shared.graph.call(
        SwapModel, "world_model/swap_model", SwapModel.Request(bundle=str(other))
    ).success
    _, result = handle.end(20.0)
    assert result.outcome == "aborted" and "encoder" in result.reason and shared.stands()
    assert "another encoder" in shared.start().end(10.0)[1].reason
    assert shared.graph.call(Trigger, "world_model/rollback_model", Trigger.Request()).success


def test_route_node_that_dies_leaves_a_planner_that_stops(shared: Robot) -> None:
    shared.drive(reverse=True)
    shared.graph.processes.pop("route").kill()
    shared.graph.until(
        lambda: shared.stands() and np.all([c == Twist() for c in shared.commands[-3:]]), "a stop", 15.0
    )
    shared.graph.start("route", {"routes_dir": shared.folder}, ("image:=camera/image_raw",))
    log = shared.graph.log("route")
    shared.graph.until(lambda: log.read_text().count("accepts goals") == 2, "the new node")
    # The killed node is known for a while, so that its clients do not wait for the new one.
    assert shared.graph.state("route") == "active"
    handle = shared.drive(reverse=True)
    handle.cancel()
    assert handle.end(10.0)[1].outcome == "canceled"


def test_inactive_node_ends_its_route_and_rejects_goals(shared: Robot) -> None:
    handle = shared.drive(reverse=True)
    assert shared.graph.change_state("route", Transition.TRANSITION_DEACTIVATE)
    _, result = handle.end(10.0)
    assert result.outcome == "aborted" and "deactivated" in result.reason and shared.stands()
    assert not RouteGoal(shared.graph, shared.repeat, RepeatRoute.Goal(name="first")).accepted
    assert shared.graph.change_state("route", Transition.TRANSITION_ACTIVATE)
