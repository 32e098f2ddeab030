"""The action ``~/reach_goal`` of the planner, and the service ``~/move_goal``.

Goals wait on threads of their own while the robot drives.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from jepa_msgs.action import ReachGoal
from jepa_msgs.srv import MoveGoal, SetGoal
from rclpy.action import CancelResponse, GoalResponse
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.common.conversions import from_time, to_time
from jepa_runtime.control import Controller, GoalConfig, GoalTracker, Outcome, StopCause
from jepa_runtime.errors import JepaRuntimeError

# One goal in progress, one that is being replaced, and their clients.
_THREADS = 4
# The world model accepts a goal at once, or is not running.
_RESPONSE_TIMEOUT_S, _POLL_S = 2.0, 0.02
# How long the result of a goal is stored, with its image. The default of rclpy is 15 minutes.
_RESULT_S = 10


class NoResponseError(JepaRuntimeError):
    """The world model did not respond; whether it has accepted the request is unknown."""

    code = "node.service_timeout"


class ReachGoalServer:
    """Serve ``~/reach_goal``. One goal is in progress at a time: a new goal aborts the previous one.

    Args:
        owner: The planner node.
        controller: Drives to the goal.
        lock: Guards ``controller``.
        stop_robot: Commands the robot to stop.
        parameters: Parameters of the planner.
    """

    def __init__(
        self,
        owner: Node,
        controller: Controller,
        *,
        lock: threading.RLock,
        stop_robot: Callable[[], Any],
        parameters: Mapping[str, Any],
    ) -> None:
        self._controller, self._lock = controller, lock
        self._stop_robot, self._parameters = stop_robot, parameters
        self._clock, self._log = owner.get_clock(), owner.get_logger()
        self._newest: tuple[Any, GoalTracker] | None = None
        self._trackers: dict[bytes, GoalTracker] = {}
        self._closing = False
        # The world model has one goal: each goal clears it before the next one sets its own.
        self._world_model_goal = threading.Lock()
        # A goal that is moved must not reach the world model after its end.
        self._setting = threading.Lock()
        self._services = BackgroundServices(owner, "goals", MultiThreadedExecutor(_THREADS))
        self._set_goal = self._services.node.create_client(
            SetGoal,
            owner.resolve_service_name("world_model/set_goal"),
            callback_group=self._services.group,
        )
        self._services.add_action(
            ReachGoal,
            "~/reach_goal",
            execute_callback=self._execute,
            goal_callback=self.on_goal,
            handle_accepted_callback=self.on_accepted,
            cancel_callback=self.on_cancel,
            result_timeout=_RESULT_S,
        )
        self._services.add_service(MoveGoal, "~/move_goal", self._on_move)
        self._services.start()

    def publish_feedback(self) -> None:
        """Publish the feedback of the goal in progress."""
        with self._lock:
            newest, controller = self._newest, self._controller
            if newest is None or controller.goal is not newest[1]:
                return
            handle, tracker = newest
            feedback = ReachGoal.Feedback(
                energy=tracker.energy,
                best_energy=tracker.best_energy,
                steps=tracker.steps,
                state=int(controller.state),
                stopped_reason=controller.safety_monitor.reason,
                stopped_cause=_label(controller.safety_monitor.cause),
                reached=tracker.is_reached,
                goal_stamp=to_time(tracker.config.goal_ns),
            )
        handle.publish_feedback(feedback)

    def close(self) -> None:
        """Abort the goal in progress and stop serving."""
        with self._lock:
            self._closing = True
            self._end(Outcome.ABORTED, "the planner is shutting down", self._controller.goal)
        deadline = time.monotonic() + 2 * _RESPONSE_TIMEOUT_S
        while self._trackers and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        # rclpy sends the results after the callbacks have returned.
        time.sleep(_POLL_S)
        self._services.stop()

    def on_goal(self, goal: ReachGoal.Goal) -> GoalResponse:
        """Accept or reject a goal."""
        reason = ""
        if not (0 <= goal.energy_threshold < math.inf and 0 <= goal.timeout_s < math.inf):
            reason = "energy_threshold and timeout_s must be finite and not negative"
        elif bool(goal.image.height and goal.image.width) == bool(goal.latent.data):
            reason = "it must contain either an image or a latent"
        elif self._closing:
            reason = "the planner is shutting down"
        if reason:
            self._log.warning(f"goal rejected: {reason}")
        return GoalResponse.REJECT if reason else GoalResponse.ACCEPT

    def on_accepted(self, handle: Any) -> None:
        """Make an accepted goal the current one."""
        with self._lock:
            tracker = self.tracker_of(handle)
            if tracker.result is None:
                self._newest = (handle, tracker)
                self._controller.start_goal(tracker)
                self._stop_robot()
                if self._closing:
                    self._end(Outcome.ABORTED, "the planner is shutting down", tracker)
                handle.execute()
                return
        # A cancellation that rclpy records after execute() has begun would end its executor.
        _wait_cancel_requested(handle)
        handle.execute()

    def tracker_of(self, handle: Any) -> GoalTracker:
        """Return the tracker of a goal without a result yet, created by the first caller. Holds the lock."""
        goal, parameters = handle.request, self._parameters
        config = GoalConfig(
            goal_ns=from_time(goal.image.header.stamp) or int(self._clock.now().nanoseconds),
            # With a given pose, the client decides when the goal is reached.
            threshold=-math.inf if goal.use_goal_pose else goal.energy_threshold or None,
            timeout_s=goal.timeout_s or None,
            give_up_after=parameters["give_up_after"],
            failure_tolerance_s=parameters["failure_tolerance_s"],
            is_via=goal.via,
            pose_is_given=goal.use_goal_pose,
        )
        return self._trackers.setdefault(_id(handle), GoalTracker(config, now_s=time.monotonic()))

    def _execute(self, handle: Any) -> ReachGoal.Result:
        tracker = self._trackers[_id(handle)]
        while tracker.result is None:
            if self._world_model_goal.acquire(timeout=_POLL_S):
                try:
                    self._drive(handle.request, tracker)
                finally:
                    self._world_model_goal.release()
        end = tracker.wait()
        self._log.info(f"goal {end.outcome}: {end.reason}")
        cancelled = end.outcome is Outcome.CANCELLED and _wait_cancel_requested(handle)
        with self._lock:
            if end.outcome is Outcome.REACHED:
                handle.succeed()
            elif cancelled:
                handle.canceled()
            else:
                handle.abort()
            del self._trackers[_id(handle)]
        return ReachGoal.Result(
            outcome=str(end.outcome),
            reason=end.reason,
            energy=tracker.energy,
            best_energy=tracker.best_energy,
            steps=tracker.steps,
            duration_s=tracker.duration_s,
        )

    def on_cancel(self, handle: Any) -> CancelResponse:
        """Accept every cancellation, also before a goal is executed and after it has ended.

        When several goals are cancelled, rclpy skips the goal after one whose cancellation is rejected.
        """
        with self._lock:
            if handle.is_active:
                tracker = self.tracker_of(handle)
                if not self._end(Outcome.CANCELLED, "it was cancelled", tracker):
                    tracker.finish(Outcome.CANCELLED, "it was cancelled")
        return CancelResponse.ACCEPT

    def _end(self, outcome: Outcome, reason: str, tracker: GoalTracker | None) -> bool:
        """End the goal and stop the robot; return False if it had ended before. The caller holds the lock."""
        if tracker is None or tracker.result is not None or tracker is not self._controller.goal:
            return False
        self._controller.end_goal(outcome, reason)
        self._stop_robot()
        return True

    # --- the world model

    def _drive(self, goal: ReachGoal.Goal, tracker: GoalTracker) -> None:
        """Set the goal of the world model, wait for the end, and clear it."""
        if self._set_world_model_goal(goal, tracker):
            tracker.wait()
            if not tracker.is_replaced:
                self._clear_world_model_goal()

    def _set_world_model_goal(self, goal: ReachGoal.Goal, tracker: GoalTracker) -> bool:
        """Return whether the world model may have accepted the goal. If that is unknown, the goal ends."""
        stamp = to_time(tracker.config.goal_ns)
        try:
            self._call(SetGoal.Request(stamp=stamp, image=goal.image, latent=goal.latent))
        except JepaRuntimeError as error:
            with self._lock:
                self._end(Outcome.ABORTED, f"the world model did not accept the goal: {error}", tracker)
            return isinstance(error, NoResponseError)
        with self._lock:
            tracker.is_set = True
        return True

    def _on_move(self, request: MoveGoal.Request, response: MoveGoal.Response) -> MoveGoal.Response:
        """Move the goal in progress. Futures for the previous goal stay valid until those for the new one."""
        goal_ns = from_time(request.stamp)
        with self._setting:
            with self._lock:
                goal = self._controller.goal
                is_current = goal is not None and goal.config.goal_ns == from_time(request.goal_stamp)
                if is_current:
                    self._controller.move_goal(goal_ns, is_via=request.via)
            try:
                if not is_current:
                    raise JepaRuntimeError("that goal is not in progress", code="node.goal_not_in_progress")
                self._call(SetGoal.Request(stamp=request.stamp, latent=request.latent))
                response.success = True
            except JepaRuntimeError as error:
                response.message = str(error)
        return response

    def _clear_world_model_goal(self) -> None:
        try:
            with self._setting:
                self._call(SetGoal.Request())
        except JepaRuntimeError as error:
            self._log.warning(f"the world model may still have the goal that has ended: {error}")

    def _call(self, request: SetGoal.Request) -> None:
        name = self._set_goal.srv_name
        request.camera = self._parameters["camera"]
        if not self._set_goal.wait_for_service(timeout_sec=_RESPONSE_TIMEOUT_S):
            raise JepaRuntimeError(
                f"service {name} is not available: start the world model", code="node.service_unavailable"
            )
        future = self._set_goal.call_async(request)
        if not _wait(future.done):
            self._set_goal.remove_pending_request(future)
            raise NoResponseError(f"service {name} did not respond within {_RESPONSE_TIMEOUT_S:g} s")
        if not future.result().success:
            raise JepaRuntimeError(future.result().message, code="node.goal_rejected")


def _label(cause: StopCause | None) -> str:
    return "" if cause is None else cause.label


def _id(handle: Any) -> bytes:
    return bytes(handle.goal_id.uuid)


def _wait_cancel_requested(handle: Any) -> bool:
    """Wait until rclpy has recorded a cancellation, which it does shortly after the callback accepted it."""
    return _wait(lambda: handle.is_cancel_requested)


def _wait(condition: Callable[[], bool]) -> bool:
    """Wait for ``condition`` and return whether it became true in time."""
    deadline = time.monotonic() + _RESPONSE_TIMEOUT_S
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return holds
