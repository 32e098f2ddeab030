"""Routes with odometry: real nodes, a model that truly reads poses, and odometry that drifts or fails."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed here")
pytest.importorskip("jepa_ros", reason="the workspace is not on the paths: . scripts/env.sh")

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import Twist
from jepa_msgs.action import RepeatRoute, TeachRoute
from jepa_msgs.msg import GoalPose, LatentState, ModelInfo
from jepa_msgs.srv import ScoreLatents, SwapModel
from jepa_ros.common import qos
from jepa_ros.common.conversions import fill, from_time
from nav_msgs.msg import Odometry
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from jepa_runtime.recording import messages
from jepa_runtime.routes import Route
from jepa_runtime.util.poses import Pose, compose, relative
from tests.ros.plane_bundle import make_plane_bundle
from tests.ros.plane_robot import PlaneRobot, odometry_message
from tests.ros.route_goals import RouteGoal, await_action

pytestmark = pytest.mark.ros

START_S, ROUTE_S = 60.0, 60.0
PATIENCE_S = 2.0
# Ahead, to the left, and ahead: speed, turning rate, duration.
TAUGHT = ((0.4, 0.0, 2.0), (0.4, 0.7, 1.5), (0.4, 0.0, 1.5))
# The robot is at the end within 0.15 m and 0.15 rad by its own estimate.
TOLERANCE_M, TOLERANCE_RAD = 0.25, 0.25
REMAPS = ("image:=camera/image_raw",)


class Nodes:
    """The nodes of a robot with a route folder."""

    def __init__(self, graph: Any, folder: Path, robot: PlaneRobot) -> None:
        self.graph, self.folder, self.robot = graph, folder / "routes", robot
        self._starts = 0
        # Where the last taught path began and ended.
        self.began = self.ended = robot.pose
        self.commands = graph.listen(Twist, "cmd_vel")
        self.latents = graph.listen(LatentState, "world_model/latent")
        self.infos = graph.listen(ModelInfo, "world_model/model_info", qos.LATCHED)
        self.goal_poses = graph.listen(GoalPose, "planner/goal_pose")
        self._bundle = folder / "bundle"
        graph.start("world_model", {"bundle": folder / "blind"}, REMAPS)
        self.start_route_node()
        graph.start(
            "planner",
            {
                "search_method": "steering",
                "stuck_after_s": 4.0,
                # On a busy machine images are late, and show slower motion than their stamps imply.
                "max_speed_mps": 0.35,
                "max_turn_radps": 0.8,
                "futures_timeout_s": 1.5,
                "failure_tolerance_s": 4.0,
                "surprise_ratio": 1.0,
                "frozen_after_s": 0.0,
            },
        )
        self.teach_client = ActionClient(graph.observer, TeachRoute, "route/teach_route")
        self.repeat_client = ActionClient(graph.observer, RepeatRoute, "route/repeat_route")
        graph.until(lambda: self.infos and self.latents, "all nodes", START_S)
        self.swap_model()

    def swap_model(self) -> None:
        """Swap from the model that reads no poses to the one that does."""
        client = self.graph.observer.create_client(SwapModel, "world_model/swap_model")
        self.graph.until(client.service_is_ready, "the service")
        swapped = client.call_async(SwapModel.Request(bundle=str(self._bundle)))
        self.graph.until(swapped.done, "another model", START_S)
        assert swapped.result().success, swapped.result().message
        self.graph.until(lambda: self.infos[-1].reads_poses, "the model that reads poses")

    def start_route_node(self, **parameters: Any) -> None:
        given = {"routes_dir": self.folder, "patience_s": PATIENCE_S, "odometry_timeout_s": 0.8, **parameters}
        self.graph.start("route", given, REMAPS)
        self._starts += 1

    def await_route_node(self) -> None:
        """Wait until the node that was started last accepts goals."""
        log = self.graph.log("route")
        self.graph.until(
            lambda: log.read_text().count("accepts goals") == self._starts, "the route node", START_S
        )
        await_action(self.graph, self.teach_client, TeachRoute.Goal(duration_s=-1.0))
        await_action(self.graph, self.repeat_client, RepeatRoute.Goal(start=math.nan))

    def teach(self, name: str, meanwhile: Callable[[int], None] = lambda _: None) -> Any:
        """Drive the taught path and return the result; ``meanwhile`` is called before each part of it."""
        handle = RouteGoal(self.graph, self.teach_client, TeachRoute.Goal(name=name))
        assert handle.accepted
        self.graph.until(lambda: handle.feedback, "the first key frame")
        self.began = self.robot.pose
        for index, (speed, turn, duration_s) in enumerate(TAUGHT):
            meanwhile(index)
            self.robot.teleoperation = (speed, turn)
            self.graph.spin_for(duration_s)
        self.robot.teleoperation = (0.0, 0.0)
        self.ended = self.robot.pose
        self.graph.spin_for(0.5)
        assert self.graph.call(Trigger, "route/finish_teaching", Trigger.Request()).success
        return handle.end(ROUTE_S)[1]

    def start(self, name: str, **options: Any) -> RouteGoal:
        self.commands.clear()
        self.robot.teleoperation = None
        handle = RouteGoal(self.graph, self.repeat_client, RepeatRoute.Goal(name=name, **options))
        assert handle.accepted
        return handle

    def drive(self, name: str, **options: Any) -> RouteGoal:
        """Start a route, and wait until the robot has moved along it."""
        handle = self.start(name, **options)
        began = self.robot.pose
        self.graph.until(lambda: np.hypot(*(self.robot.pose - began)[:2]) > 0.4, "motion", ROUTE_S)
        return handle

    def stands(self) -> bool:
        return not self.commands or self.commands[-1] == Twist()


@pytest.fixture(scope="module")
def nodes(shared_graph: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Return a robot that was taught the route ``first``, and stands at its end."""
    folder = tmp_path_factory.mktemp("plane")
    make_plane_bundle(folder / "bundle")
    make_plane_bundle(folder / "blind", reads_poses=False)
    (folder / "routes").mkdir()
    with PlaneRobot(shared_graph.domain) as robot:
        started = Nodes(shared_graph, folder, robot)
        result = started.teach("first")
        assert result.outcome == "saved" and "with odometry" in result.reason, result.reason
        yield started
        for node in ("route", "planner", "world_model"):
            assert shared_graph.stop(node) == 0, shared_graph.log(node).read_text()


@pytest.fixture
def at_start(nodes: Nodes) -> Nodes:
    """Return the robot next to the start of the route, with odometry of another origin."""
    robot = nodes.robot
    robot.teleoperation = (0.0, 0.0)
    robot.pose = compose(nodes.began, np.array([0.05, 0.1, -0.1]))
    robot.odometry = np.array([-2.0, 5.0, -2.5])
    robot.has_odometry, robot.odometry_delay_s = True, 0.0
    nodes.goal_poses.clear()
    nodes.graph.spin_for(1.5)
    return nodes


def assert_reached(nodes: Nodes, handle: RouteGoal, end: Pose) -> None:
    status, result = handle.end()
    assert (status, result.outcome) == (GoalStatus.STATUS_SUCCEEDED, "reached"), result.reason
    nodes.graph.until(nodes.stands, "a stop command", 2.0)
    x, y, yaw = relative(end, nodes.robot.pose).tolist()
    assert math.hypot(x, y) < TOLERANCE_M and abs(yaw) < TOLERANCE_RAD


def assert_aborted(nodes: Nodes, handle: RouteGoal, *words: str) -> None:
    _, result = handle.end(20.0)
    assert result.outcome == "aborted" and all(word in result.reason for word in words), result.reason
    nodes.graph.until(nodes.stands, "a stop command", 2.0)


def test_taught_route_has_the_odometry_of_its_key_frames(nodes: Nodes) -> None:
    poses = Route.open(nodes.folder / "first").poses
    assert poses is not None and len(poses) >= 10
    taught = relative(nodes.began, nodes.ended)
    measured = relative(poses[0], poses[-1])
    # The wheels slip by up to 4 %.
    np.testing.assert_allclose(measured, taught, atol=0.15)
    assert np.hypot(*taught[:2]) > 1.5 and np.abs(measured - taught).max() > 0.01


def test_route_is_repeated_and_driven_back_by_the_fused_pose(at_start: Nodes) -> None:
    """The model reads no pose of a goal ahead, and the odometry has another origin."""
    assert_reached(at_start, at_start.start("first"), at_start.ended)
    assert len(at_start.goal_poses) > 20
    stamps = [from_time(message.header.stamp) for message in at_start.goal_poses]
    assert stamps == sorted(stamps)
    assert all(message.position_std > 0 and message.yaw_std > 0 for message in at_start.goal_poses)
    assert_reached(at_start, at_start.start("first", reverse=True), at_start.began)


def test_odometry_that_stops_on_the_way_stops_the_robot_and_aborts_the_route(at_start: Nodes) -> None:
    handle = at_start.drive("first")
    at_start.robot.has_odometry = False
    at_start.graph.until(at_start.stands, "a stop command", 4.0)
    # The robot receives the command too.
    at_start.graph.spin_for(0.5)
    at = at_start.robot.pose
    assert_aborted(at_start, handle, "/odom", "older than the image")
    np.testing.assert_array_equal(at_start.robot.pose, at)
    waiting = [each for each in handle.feedback if each.state == "waiting"]
    assert waiting and "/odom" in waiting[-1].reason and waiting[-1].goal == -1


def test_odometry_that_comes_back_in_time_lets_the_robot_continue(at_start: Nodes) -> None:
    handle = at_start.drive("first")
    at_start.robot.has_odometry = False
    at_start.graph.until(at_start.stands, "a stop command", 4.0)
    at_start.robot.has_odometry = True
    assert_reached(at_start, handle, at_start.ended)


def test_odometry_that_jumps_by_meters_does_not_mislead_the_robot(at_start: Nodes) -> None:
    handle = at_start.drive("first")
    at_start.robot.odometry = compose(np.array([5.0, -4.0, 2.0]), at_start.robot.odometry)
    assert_reached(at_start, handle, at_start.ended)


def test_odometry_of_another_clock_is_not_driven_with(at_start: Nodes) -> None:
    at_start.robot.odometry_delay_s = 5.0
    at_start.graph.spin_for(1.0)
    assert_aborted(at_start, at_start.start("first"), "behind this clock", "synchronize the clocks")


def test_second_publisher_of_odometry_stops_the_robot_and_aborts_the_route(at_start: Nodes) -> None:
    handle = at_start.drive("first")
    observer = at_start.graph.observer
    second = observer.create_publisher(Odometry, "odom", qos.SENSOR)
    try:
        second.publish(odometry_message(np.zeros(3), int(observer.get_clock().now().nanoseconds)))
        assert_aborted(at_start, handle, "/odom has 2 publishers")
    finally:
        observer.destroy_publisher(second)


def test_planner_stops_soon_after_the_route_node_died(at_start: Nodes) -> None:
    at_start.drive("first")
    at_start.graph.processes.pop("route").kill()
    # The poses of the goal are too old before the deadline of the goal, 5 s.
    at_start.graph.until(at_start.stands, "a stop command", 3.0)
    at_start.start_route_node()
    at_start.await_route_node()


def test_recording_with_a_jump_of_the_odometry_has_none(at_start: Nodes) -> None:
    def jump(part: int) -> None:
        if part == 1:
            at_start.robot.odometry = compose(np.array([5.0, -4.0, 2.0]), at_start.robot.odometry)

    began, ended = at_start.began, at_start.ended
    result = at_start.teach("jumped", jump)
    at_start.began, at_start.ended = began, ended
    assert result.outcome == "saved" and "without odometry, which was missing or jumped" in result.reason
    assert Route.open(at_start.folder / "jumped").poses is None


@pytest.mark.slow
def test_route_without_odometry_is_repeated_without_given_poses(at_start: Nodes) -> None:
    """The planner then has what the model reads: of a goal ahead, nothing."""
    began, ended = at_start.began, at_start.ended
    at_start.robot.has_odometry = False
    at_start.graph.spin_for(1.0)
    result = at_start.teach("without")
    at_start.began, at_start.ended = began, ended
    assert result.outcome == "saved" and result.reason.endswith("without odometry")
    at_start.robot.pose = began
    at_start.robot.has_odometry = True
    at_start.graph.spin_for(1.5)
    handle = at_start.start("without")
    at_start.graph.until(lambda: any(each.goal >= 0 for each in handle.feedback), "a goal", ROUTE_S)
    at_start.graph.spin_for(1.0)
    assert not at_start.goal_poses
    handle.cancel()
    assert handle.end(10.0)[1].outcome == "canceled"


@pytest.mark.slow
def test_model_that_reads_no_poses_repeats_the_route_without_given_poses(at_start: Nodes) -> None:
    graph = at_start.graph
    handle = at_start.drive("first")
    # Swapping takes longer than the route.
    assert graph.call(Trigger, "world_model/rollback_model", Trigger.Request()).success
    try:
        assert_aborted(at_start, handle, "reads no poses")
        at_start.goal_poses.clear()
        # Steering cannot drive with this model.
        assert_aborted(at_start, at_start.start("first"), "has not read the pose of the goal")
        assert not at_start.goal_poses
    finally:
        at_start.swap_model()


def test_score_latents_reads_the_pose_of_the_newest_image(at_start: Nodes) -> None:
    route = Route.open(at_start.folder / "first")
    request = ScoreLatents.Request(pose_indices=[2, 0])
    fill(request.latents, messages.tensor("latents", route.latents[:3]))
    answer = at_start.graph.call(ScoreLatents, "world_model/score_latents", request)
    assert answer.success, answer.message
    poses = np.array(answer.relative_poses).reshape(2, 5)
    # The first key frame is where the path began.
    np.testing.assert_allclose(poses[1, :3], relative(at_start.began, at_start.robot.pose), atol=0.02)
    assert poses[0, 0] < poses[1, 0] - 0.2 and (poses[:, 3:] > 0).all()
    request.pose_indices = [3]
    answer = at_start.graph.call(ScoreLatents, "world_model/score_latents", request)
    assert not answer.success and "pose_indices" in answer.message


def test_node_that_requires_odometry_neither_teaches_nor_repeats_without_it(at_start: Nodes) -> None:
    graph = at_start.graph
    taught = Route.open(at_start.folder / "first")
    key_frames = tuple(replace(key_frame, pose=None) for key_frame in taught.key_frames)
    replace(taught, key_frames=key_frames).save(at_start.folder / "unlocated")
    assert graph.stop("route") == 0
    at_start.start_route_node(use_odometry="always")
    at_start.await_route_node()
    assert_reached(at_start, at_start.start("first"), at_start.ended)
    assert_aborted(at_start, at_start.start("unlocated"), "the route has no odometry")
    at_start.robot.has_odometry = False
    graph.spin_for(1.5)
    handle = RouteGoal(graph, at_start.teach_client, TeachRoute.Goal(name="required"))
    result = handle.end(20.0)[1]
    assert result.outcome == "aborted" and "/odom" in result.reason
    assert not (at_start.folder / "required").exists()


def test_node_that_never_uses_odometry_does_not_subscribe_to_it(at_start: Nodes) -> None:
    graph = at_start.graph
    assert graph.stop("route") == 0
    at_start.start_route_node(use_odometry="never")
    at_start.await_route_node()
    subscribers = {info.node_name for info in graph.observer.get_subscriptions_info_by_topic("/odom")}
    assert "planner" in subscribers and "route" not in subscribers
