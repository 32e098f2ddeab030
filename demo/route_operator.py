"""Who teaches the simulated robot its route, has it repeat the route, and closes a door.

The teacher is a script that knows the true pose of the robot; nobody else here does, except to judge the
result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseStamped, Twist
from graph_client import GraphClient
from jepa_msgs.action import RepeatRoute, TeachRoute
from jepa_msgs.msg import PlannerStatus
from jepa_ros.common import qos
from jepa_ros.common.conversions import from_time
from processes import DemoError
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from jepa_runtime.ros_messages import euler_from_quaternion
from jepa_runtime.util import Pose
from jepa_sim.worlds.first_person.levels import Mission, goal_error, is_reached
from jepa_sim.worlds.first_person.paths import TrajectoryFollower

ROUTE = "hall"
# Nodes that need the commands of the teacher: robot, world model and route.
_LISTENERS = 3
START_TIMEOUT_S, SERVICE_TIMEOUT_S = 120.0, 30.0
# Time in which the world model gets to know the images of an episode.
_SETTLED_S = 1.5
# Longest drive, as a multiple of the taught one, and in addition to it.
_MAX_TIMES, _MAX_EXTRA_S = 3.0, 60.0


@dataclass(frozen=True)
class Progress:
    """Feedback of a repetition.

    Attributes:
        stamp_ns: When it was received.
        state: State of the route node.
        progress: Place on the route, from 0 to 1.
        key_frame: The most likely key frame.
        confidence: Confidence in the place.
        energy: Energy between that key frame and the image.
        goal: Key frame that the robot drives to; -1: it stands.
        reason: Why it waits; empty: it does not.
    """

    stamp_ns: int
    state: str
    progress: float
    key_frame: int
    confidence: float
    energy: float
    goal: int
    reason: str


@dataclass
class Taught:
    """The recording of the route.

    Attributes:
        began_ns: When it began.
        ended_ns: When it was written.
        key_frames: Number of key frames.
        reason: What the route node reported.
        distance_m: Length of the drive.
    """

    began_ns: int
    ended_ns: int
    key_frames: int
    reason: str
    distance_m: float


@dataclass
class Repetition:
    """A drive along the route.

    Attributes:
        began_ns: When it began.
        ended_ns: When it ended.
        outcome: Outcome of the action.
        reason: The reason that it reports.
        progress: Place at the end, from 0 to 1.
        stops: Number of stops on the way.
        distance_m: Length of the drive.
        error_m: Final distance to the end of the route, by the true pose.
        error_deg: Final angle to its heading.
        is_there: Whether that counts as reached: within 0.3 m and 20 degrees.
        door_closed_ns: When a door was closed; 0: none was.
        warnings: Warnings in the diagnostics meanwhile.
        feedback: Feedback of the action.
    """

    began_ns: int
    ended_ns: int = 0
    outcome: str = ""
    reason: str = ""
    progress: float = math.nan
    stops: int = 0
    distance_m: float = 0.0
    error_m: float = math.nan
    error_deg: float = math.nan
    is_there: bool = False
    door_closed_ns: int = 0
    warnings: list[str] = field(default_factory=list)
    feedback: list[Progress] = field(default_factory=list)

    @property
    def duration_s(self) -> float:
        """Duration of the drive."""
        return (self.ended_ns - self.began_ns) / 1e9


class RouteOperator(GraphClient):
    """Call the services and actions of the nodes, and follow where the robot is.

    Args:
        mission: House and route.
        check: Called continuously; raises if a process has exited.
    """

    def __init__(self, mission: Mission, check: Callable[[], None]) -> None:
        super().__init__("route_operator", check)
        self._mission = mission
        if mission.recording is None:
            raise DemoError("the mission has no route")
        self._route = mission.recording
        # Stamps of all images, and true poses.
        self.stamps_ns: list[int] = []
        self.poses: list[Pose] = []
        self._warnings: dict[str, None] = {}
        self._on_pose: Callable[[Pose], None] = lambda _: None
        self.node.create_subscription(PoseStamped, "first_person/true_pose", self._add_pose, qos.RESULT)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._add_diagnostics, qos.RESULT)
        self._statuses = 0
        self.node.create_subscription(PlannerStatus, "planner/status", self._add_status, qos.RESULT)
        self._teach = ActionClient(self.node, TeachRoute, "route/teach_route")
        self._repeat = ActionClient(self.node, RepeatRoute, "route/repeat_route")
        names = ("route/finish_teaching", "first_person/reset", "first_person/close_door")
        self._services = {name: self.node.create_client(Trigger, name) for name in names}

    def await_start(self) -> None:
        """Wait until the robot sends images and the route node accepts goals."""
        self.until(lambda: self.poses, START_TIMEOUT_S, "first image")
        self.until(self._teach.server_is_ready, START_TIMEOUT_S, "route node")

    def await_planner(self) -> None:
        """Wait until the planner decides."""
        self.until(lambda: self._statuses, START_TIMEOUT_S, "planner")

    def teach(self) -> Taught:
        """Drive the robot along the route, as a person with a joystick would, while it is recorded.

        Raises:
            DemoError: The route was not recorded.
        """
        taught: list[int] = []
        began_ns, first = time.time_ns(), len(self.poses)
        sent = self._teach.send_goal_async(
            TeachRoute.Goal(name=ROUTE),
            feedback_callback=lambda each: taught.append(each.feedback.key_frames),
        )
        self.until(sent.done, SERVICE_TIMEOUT_S, "response of the route node")
        if not sent.result().accepted:
            raise DemoError("the route node rejected the recording: see its log")
        ended = sent.result().get_result_async()
        self.until(lambda: ended.done() or any(taught), START_TIMEOUT_S, "first key frame")
        if not ended.done():
            self._drive_as_teacher()
            self._call("route/finish_teaching")
        self.until(ended.done, SERVICE_TIMEOUT_S, "recorded route")
        result = ended.result().result
        if result.outcome != TeachRoute.Result.SAVED:
            raise DemoError(f"the route was not recorded: {result.outcome}: {result.reason}")
        return Taught(began_ns, time.time_ns(), result.key_frames, result.reason, _length(self.poses[first:]))

    def repeat(self, *, close_door_after: float | None = None) -> Repetition:
        """Set the robot down near the start of the route, and have it repeat the route.

        Args:
            close_door_after: Place on the route, from 0 to 1, at which a door further on is closed; None: all
                doors stay open.
        """
        self._set_back()
        first, done = len(self.poses), Repetition(time.time_ns())
        self._warnings.clear()
        sent = self._repeat.send_goal_async(
            RepeatRoute.Goal(name=ROUTE), feedback_callback=lambda each: _add_feedback(done, each.feedback)
        )
        self.until(sent.done, SERVICE_TIMEOUT_S, "response of the route node")
        if not sent.result().accepted:
            raise DemoError("the route node rejected the route: see its log")
        ended = sent.result().get_result_async()
        limit_s = _MAX_TIMES * self._route.duration_s + _MAX_EXTRA_S
        if close_door_after is not None:
            self.until(
                lambda: ended.done() or _has_passed(done, close_door_after),
                limit_s,
                "robot on the route",
            )
            if not ended.done():
                self._call("first_person/close_door")
                done.door_closed_ns = time.time_ns()
        self.until(ended.done, limit_s, "end of the route")
        result = ended.result().result
        done.ended_ns = time.time_ns()
        done.outcome, done.reason = result.outcome, result.reason
        done.progress, done.stops = result.progress, result.stops
        done.warnings = list(self._warnings)
        done.distance_m = _length(self.poses[first:])
        # The robot stands; its last movement is over.
        self.wait(1.0, "robot to stand")
        done.error_m, error = goal_error(self._mission.goal, self.poses[-1])
        done.error_deg = math.degrees(error)
        done.is_there = is_reached(self._mission.goal, self.poses[-1])
        return done

    def speed_mps(self, seconds: float = 0.5) -> float:
        """Return the mean speed of the robot in the last seconds, by the true pose."""
        images = max(round(seconds * 30), 2)
        return _length(self.poses[-images:]) / seconds

    def _drive_as_teacher(self) -> None:
        commands = self.node.create_publisher(Twist, "cmd_vel", qos.RESULT)
        self.until(
            lambda: commands.get_subscription_count() >= _LISTENERS, START_TIMEOUT_S, "listeners of cmd_vel"
        )
        follow, began, arrived = TrajectoryFollower(self._route.poses), time.monotonic(), False

        def decide(pose: Pose) -> None:
            nonlocal arrived
            command = follow(pose, time.monotonic() - began)
            arrived = arrived or command is None
            message = Twist()
            if not arrived and command is not None:
                message.linear.x, message.angular.z = map(float, command)
            commands.publish(message)

        self._on_pose = decide
        try:
            limit_s = self._route.duration_s + _MAX_EXTRA_S
            self.until(lambda: arrived, limit_s, "teacher at the end of the route")
            self.wait(0.5, "robot to stand")
        finally:
            self._on_pose = lambda _: None
            self.node.destroy_publisher(commands)

    def _set_back(self) -> None:
        self._call("first_person/reset")
        self.wait(_SETTLED_S, "images of the new episode")

    def _call(self, name: str) -> None:
        client = self._services[name]
        self.until(client.service_is_ready, SERVICE_TIMEOUT_S, f"service {name}")
        answer = client.call_async(Trigger.Request())
        self.until(answer.done, SERVICE_TIMEOUT_S, f"response of {name}")
        if not answer.result().success:
            raise DemoError(f"{name} failed: {answer.result().message}")

    def _add_pose(self, message: PoseStamped) -> None:
        position = message.pose.position
        pose = np.array([position.x, position.y, euler_from_quaternion(message.pose.orientation)[2]])
        self.stamps_ns.append(from_time(message.header.stamp))
        self.poses.append(pose)
        self._on_pose(pose)

    def _add_status(self, _: PlannerStatus) -> None:
        self._statuses += 1

    def _add_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.level != DiagnosticStatus.OK:
                self._warnings[f"{status.name}: {status.message}"] = None


def _add_feedback(done: Repetition, feedback: Any) -> None:
    done.feedback.append(
        Progress(
            time.time_ns(), feedback.state, feedback.progress, feedback.key_frame, feedback.confidence,
            feedback.energy, feedback.goal, feedback.reason,
        )
    )  # fmt: skip


def _has_passed(done: Repetition, place: float) -> bool:
    """Return whether the robot follows the route beyond a place."""
    newest = done.feedback[-1] if done.feedback else None
    return newest is not None and newest.state == RepeatRoute.Feedback.FOLLOWING and newest.progress >= place


def _length(poses: list[Pose]) -> float:
    """Return the length of a path, in which standing does not count."""
    if len(poses) < 2:
        return 0.0
    return float(np.hypot(*np.diff(np.array(poses)[:, :2], axis=0).T).sum())
