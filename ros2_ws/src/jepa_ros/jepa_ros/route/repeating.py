"""The action ``~/repeat_route``: one route at a time; a new goal aborts the previous one."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from jepa_msgs.action import ReachGoal, RepeatRoute
from jepa_msgs.msg import ModelInfo
from numpy.typing import NDArray
from rclpy.action import CancelResponse, GoalResponse

from jepa_ros.common.odometry import OdometryInput
from jepa_ros.route.clients import Energies, NoAnswerError, Planner
from jepa_ros.route.parameters import ALWAYS
from jepa_runtime.errors import JepaRuntimeError, OdometryError, RouteError
from jepa_runtime.model import RelativePose
from jepa_runtime.routes import (
    FollowerConfig,
    FollowerState,
    LocalizerConfig,
    Place,
    Route,
    RouteFollower,
    RouteLocalizer,
    RouteModel,
    RouteOutcome,
    SubGoal,
)

# The robot stands after this time, and a result is sent after that.
_JOIN_S, _SENT_S = 5.0, 0.1


class Repetition:
    """One goal of the action, on the thread that executes it.

    Args:
        route: The route, in the direction of the drive.
        start: Key frame at which the robot is; None: it is found.
        energies: Energies of the world model.
        planner: Drives to goals.
        parameters: Parameters of the node.
        odometry: Odometry of the robot; None: it is not used.
        reads_poses: The model reads relative poses.

    Attributes:
        follower: Chooses the goals; another thread may end it.
        localizer: Where the robot is.
        problem: Why the pose of the robot is unknown, so that it stands; empty: it is known, or not needed.

    Raises:
        RouteError: The route has no odometry, and the parameter use_odometry requires it.
    """

    def __init__(
        self,
        route: Route,
        start: int | None,
        energies: Energies,
        planner: Planner,
        parameters: dict[str, Any],
        *,
        odometry: OdometryInput | None,
        reads_poses: bool,
    ) -> None:
        is_required = parameters["use_odometry"] == ALWAYS
        if is_required and route.poses is None:
            raise RouteError(
                "the route has no odometry, which the parameter use_odometry requires: teach it again",
                code="route.no_odometry",
            )
        self.route = route
        self.follower = RouteFollower(route, follower_config(parameters))
        # With the pose the robot drives by it, also where no key frame is in view.
        self._by_pose = odometry is not None and reads_poses and route.poses is not None
        self.localizer = RouteLocalizer(
            route,
            LocalizerConfig(min_confidence=parameters["min_confidence"]),
            start=start,
            reads_poses=self._by_pose,
        )
        self._energies, self._planner = energies, planner
        self._odometry = None if route.poses is None else odometry
        self._needs_odometry = self._by_pose or is_required
        self._part: int | None = None
        self._patience_s: float = parameters["patience_s"]
        self._answered_s = self._located_s = time.monotonic()
        self.problem = ""

    def step(self, command: NDArray[Any] | None) -> Place:
        """Process the newest image: estimate the place, choose the goal, and give it to the planner."""
        follower = self.follower
        try:
            self._process(command)
            self._answered_s = time.monotonic()
        except NoAnswerError as error:
            if time.monotonic() - self._answered_s > self._patience_s:
                follower.end(RouteOutcome.ABORTED, str(error))
        except JepaRuntimeError as error:
            follower.end(RouteOutcome.ABORTED, str(error))
        return self.localizer.place

    def _process(self, command: NDArray[Any] | None) -> None:
        now_s, localizer, follower = time.monotonic(), self.localizer, self.follower
        window, readable = localizer.window, localizer.readable
        scored = np.union1d(window, readable)
        scores = self._energies.score(
            self.route.latents[scored],
            None,
            self.route.model.latent_space,
            np.searchsorted(scored, readable),
        )
        pose = self._locate(scores.stamp_ns)
        place = localizer.update(
            window,
            scores.energies[np.searchsorted(scored, window)],
            stamp_ns=scores.stamp_ns,
            command=command,
            pose=pose,
            readings=scores.poses if len(readable) else None,
        )
        if self.problem:
            self._planner.pursue(None)
            if now_s - self._located_s > self._patience_s:
                follower.end(RouteOutcome.ABORTED, f"the pose of the robot is unknown: {self.problem}")
            return
        self._located_s = now_s
        goal_pose = self._goal_pose(follower.goal, pose)
        is_at_goal = goal_pose is not None and localizer.is_at(goal_pose)
        status = self._planner.status
        follower.update(place, replace(status, reached=status.reached or is_at_goal), now_s=now_s)
        self._check_planner()
        if follower.result is None:
            self._pursue(pose, scores.stamp_ns)

    def _pursue(self, pose: tuple[float, float, float] | None, stamp_ns: int) -> None:
        goal, planner = self.follower.goal, self._planner
        if not self._by_pose:
            planner.pursue(goal)
            return
        goal_pose = self._goal_pose(goal, pose)
        if goal is None or goal_pose is None:
            planner.pursue(None)
            return
        if planner.is_due(goal):
            # The planner compares poses of one goal with the motion: the last one is of the same image.
            last = self._goal_pose(planner.goal, pose)
            if last is not None:
                planner.publish_pose(last, stamp_ns)
        planner.pursue(goal, by_pose=True)
        planner.publish_pose(goal_pose, stamp_ns)

    def _goal_pose(
        self, goal: SubGoal | None, pose: tuple[float, float, float] | None
    ) -> RelativePose | None:
        return None if goal is None or pose is None else self.localizer.goal_pose(goal.index, pose)

    def _locate(self, stamp_ns: int) -> tuple[float, float, float] | None:
        """Return the pose by odometry at the stamp of an image; None: it is unknown.

        It is also unknown once after a jump, so that the localizer estimates it from scratch.
        """
        self.problem = ""
        if self._odometry is None:
            return None
        try:
            located = self._odometry.at(stamp_ns)
        except OdometryError as error:
            if self._needs_odometry:
                self.problem = str(error)
            return None
        is_continuous = self._part in (None, located.part)
        self._part = located.part
        return located.pose if is_continuous else None

    def _check_planner(self) -> None:
        """End the route if the planner has aborted its goal, such as for another client."""
        end = self._planner.end
        if end is not None and end.outcome == ReachGoal.Result.ABORTED and self.follower.goal is not None:
            self.follower.end(RouteOutcome.ABORTED, f"the planner aborted its goal: {end.reason}")


class RepeatServer:
    """Serve ``~/repeat_route``.

    Args:
        log: Logger of the node.
        begin: Creates the repetition of a goal; raises JepaRuntimeError if it is impossible.
        check_model: Checks that the active model can repeat a route, which is named in the message; raises
            JepaRuntimeError if it cannot.
        planner: Drives to goals.
        command: Returns the newest command of the robot.
        parameters: Parameters of the node.
        is_active: Whether the node is active.
    """

    def __init__(
        self,
        *,
        log: Any,
        begin: Callable[[RepeatRoute.Goal], Repetition],
        check_model: Callable[[Route, str], None],
        planner: Planner,
        command: Callable[[], NDArray[Any] | None],
        parameters: dict[str, Any],
        is_active: Callable[[], bool],
    ) -> None:
        self._log, self._begin, self._check_model, self._planner = log, begin, check_model, planner
        self._command, self._parameters, self._is_active = command, parameters, is_active
        self._lock = threading.Lock()
        self._newest: Any = None
        self._current: Repetition | None = None
        self._current_handle: Any = None
        # The planner has one goal: a route begins when the previous one has ended.
        self._driving = threading.Lock()
        self.state = "idle"

    def on_goal(self, goal: RepeatRoute.Goal) -> GoalResponse:
        """Accept or reject a goal."""
        reason = ""
        if not self._is_active():
            reason = "the node is not active"
        elif not math.isfinite(goal.start) or goal.start > 1:
            reason = "start must be at most 1"
        if reason:
            self._log.warning(f"route rejected: {reason}")
        return GoalResponse.REJECT if reason else GoalResponse.ACCEPT

    def on_accepted(self, handle: Any) -> None:
        """Make an accepted goal the current one, and abort the previous one."""
        with self._lock:
            self._newest = handle
            self._abort("replaced by another route")
        handle.execute()

    def on_cancel(self, handle: Any) -> CancelResponse:
        """Accept every cancellation, and stop the robot. The route ends when rclpy has recorded it."""
        with self._lock:
            if handle is self._current_handle:
                self._planner.halt()
        return CancelResponse.ACCEPT

    def on_model(self) -> None:
        """Abort the route in progress if the active model, which has changed, cannot repeat it."""
        with self._lock:
            self._check_current()

    def end(self, reason: str) -> None:
        """Abort the route in progress."""
        with self._lock:
            self._newest = None
            self._abort(reason)

    def _abort(self, reason: str) -> None:
        """Abort the route in progress, and stop the robot. The caller holds the lock."""
        if self._current is not None:
            self._current.follower.end(RouteOutcome.ABORTED, reason)
            self._planner.halt()

    def _check_current(self) -> None:
        """Abort the route in progress if the active model cannot repeat it. The caller holds the lock."""
        if self._current is None:
            return
        try:
            self._check_model(self._current.route, self._current_handle.request.name)
        except JepaRuntimeError as error:
            self._abort(str(error))

    def join(self) -> None:
        """Wait until the route in progress has ended; its result is sent after that."""
        if self._driving.acquire(timeout=_JOIN_S):
            self._driving.release()
        time.sleep(_SENT_S)

    def execute(self, handle: Any) -> RepeatRoute.Result:
        """Repeat the route of a goal, and return its result."""
        began_s = time.monotonic()
        with self._driving:
            result = self._drive(handle)
        result.duration_s = time.monotonic() - began_s
        self._log.info(f"route {handle.request.name}: {result.outcome}: {result.reason}")
        return result

    def _drive(self, handle: Any) -> RepeatRoute.Result:
        with self._lock:
            is_newest = handle is self._newest
        if not is_newest or handle.is_cancel_requested:
            return self._finish(handle, None, "replaced by another route" if not is_newest else "canceled")
        try:
            repetition = self._begin(handle.request)
        except JepaRuntimeError as error:
            return self._finish(handle, None, str(error))
        with self._lock:
            self._current, self._current_handle = repetition, handle
            self._planner.resume()
            if handle is not self._newest:
                self._abort("replaced by another route")
            # The model may have changed since the repetition was created.
            self._check_current()
        try:
            self._follow(handle, repetition)
        finally:
            # The robot stands before the result is known.
            problem = self._planner.cancel()
            with self._lock:
                self._current = self._current_handle = None
                self.state = "idle"
        return self._finish(handle, repetition, problem)

    def _follow(self, handle: Any, repetition: Repetition) -> None:
        period_s = 1 / self._parameters["route_rate_hz"]
        follower = repetition.follower
        while follower.result is None:
            due_s = time.monotonic() + period_s
            if handle.is_cancel_requested:
                follower.end(RouteOutcome.CANCELED, "canceled by a client")
                return
            place = repetition.step(self._command())
            self.state = str(FollowerState.WAITING if repetition.problem else follower.state)
            if follower.state is not FollowerState.ENDED:
                handle.publish_feedback(_feedback(place, follower, repetition.problem))
            time.sleep(max(due_s - time.monotonic(), 0.0))

    def _finish(self, handle: Any, repetition: Repetition | None, reason: str) -> RepeatRoute.Result:
        ended = None if repetition is None else repetition.follower.result
        outcome = RouteOutcome.ABORTED if ended is None else ended.outcome
        if ended is None and handle.is_cancel_requested:
            outcome = RouteOutcome.CANCELED
        if outcome is RouteOutcome.REACHED:
            handle.succeed()
        elif outcome is RouteOutcome.CANCELED:
            handle.canceled()
        else:
            handle.abort()
        return RepeatRoute.Result(
            outcome=str(outcome),
            reason="; ".join(filter(None, ("" if ended is None else ended.reason, reason))),
            progress=math.nan if repetition is None else repetition.localizer.place.progress,
            stops=0 if repetition is None else len(repetition.follower.stops),
        )


def follower_config(parameters: dict[str, Any]) -> FollowerConfig:
    """Return the settings of the follower; parameters have the names of its fields."""
    return FollowerConfig(**{field.name: parameters[field.name] for field in fields(FollowerConfig)})


def route_model(info: ModelInfo) -> RouteModel:
    """Return the description of the active model."""
    return RouteModel(
        model_id=info.model_id,
        version=info.version,
        latent_space=info.latent_space,
        energy_space=info.energy_space,
        tokens=info.tokens,
        dim=info.dim,
        step_s=info.step_s,
        goal_threshold=info.goal_threshold,
        frame_width=info.frame_width,
        frame_height=info.frame_height,
        action_names=tuple(info.action_names),
        action_units=tuple(info.action_units),
    )


def route_folder(routes_dir: str, name: str) -> Path:
    """Return the folder of a route.

    Raises:
        JepaRuntimeError: There is no folder of routes, or the name is not that of a folder in it.
    """
    if not routes_dir:
        raise JepaRuntimeError(
            "parameter routes_dir is empty: set it to the folder of the routes", code="node.invalid_parameter"
        )
    if not name or name.startswith(".") or Path(name).name != name:
        raise JepaRuntimeError(
            f"{name!r} is not the name of a route: use letters, digits, - and _", code="node.invalid_request"
        )
    return Path(routes_dir) / name


def _feedback(place: Place, follower: RouteFollower, problem: str) -> RepeatRoute.Feedback:
    return RepeatRoute.Feedback(
        progress=place.progress,
        key_frame=place.key_frame,
        confidence=place.confidence,
        energy=place.energy,
        state=str(FollowerState.WAITING if problem else follower.state),
        goal=-1 if follower.goal is None or problem else follower.goal.index,
        reason=problem or follower.reason,
    )
