"""Requests of the route node to the world model, and its goals for the planner.

The calls block; they are for the threads of goals.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jepa_msgs.action import ReachGoal
from jepa_msgs.msg import GoalPose
from jepa_msgs.srv import MoveGoal, ScoreLatents
from rclpy.action import ActionClient
from rclpy.node import Node

from jepa_ros.common import qos
from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.common.conversions import fill, from_time, to_time
from jepa_runtime.bundle import POSE_SIZE
from jepa_runtime.control import StopCause
from jepa_runtime.errors import JepaRuntimeError, RouteError
from jepa_runtime.model import RelativePose
from jepa_runtime.recording import messages
from jepa_runtime.routes import RobotStatus, SubGoal
from jepa_runtime.serving import Scores

_RESPONSE_TIMEOUT_S, _POLL_S = 1.0, 0.005
_CAUSES = {cause.label: cause for cause in StopCause}
# States of the planner in which it drives, see PlannerStatus: SEEKING and STUCK.
_DRIVING = (1, 3)


class NoAnswerError(JepaRuntimeError):
    """A node did not answer in time."""

    code = "node.service_timeout"


class Energies:
    """Energies that the world model computes.

    Args:
        owner: The route node.
        services: Its helper node.
        camera: Topic of the camera's images, or an empty string.
    """

    def __init__(self, owner: Node, services: BackgroundServices, camera: str) -> None:
        self._camera = camera
        self._client = services.node.create_client(
            ScoreLatents,
            owner.resolve_service_name("world_model/score_latents"),
            callback_group=services.group,
        )

    def score(
        self,
        latents: np.ndarray[Any, Any],
        goal: np.ndarray[Any, Any] | None,
        latent_space: str,
        pose_indices: Sequence[int] | np.ndarray[Any, Any] = (),
        *,
        attempts: int = 1,
    ) -> Scores:
        """Return the energies of latents to a goal or the newest image.

        Args:
            latents: Latents [N, T, D].
            goal: Latent [T, D]; None: the newest image.
            latent_space: Identity of the latents.
            pose_indices: Indices of the latents in whose frames the pose of the goal is read [n].
            attempts: Requests until there is an answer; frames may leave no time for one of them.

        Raises:
            NoAnswerError: The world model did not answer.
            RouteError: Another model is active.
            JepaRuntimeError: The world model rejected the request.
        """
        request = ScoreLatents.Request(
            camera=self._camera,
            deadline_s=_RESPONSE_TIMEOUT_S,
            pose_indices=[int(index) for index in pose_indices],
        )
        fill(request.latents, messages.tensor("latents", np.ascontiguousarray(latents, np.float32)))
        if goal is not None:
            fill(request.goal, messages.tensor("goal", np.ascontiguousarray(goal, np.float32)))
        for _ in range(attempts):
            answer = call(self._client, request)
            if answer.success:
                break
        else:
            raise NoAnswerError(f"the world model computed no energies: {answer.message}")
        if answer.latent_space != latent_space:
            raise RouteError(
                "the world model has another encoder now: teach the route again, or encode it again "
                "(jepa-runtime "
                "teach BUNDLE --from ROUTE --output NEW)",
                code="route.encoder_mismatch",
            )
        poses = np.array(answer.relative_poses, np.float32).reshape(-1, POSE_SIZE)
        return Scores(
            energies=np.array(answer.energies, np.float32),
            stamp_ns=from_time(answer.stamp),
            latent_space=answer.latent_space,
            poses=poses,
        )


class ThreadSafeActionClient(ActionClient):
    """An action client whose requests are sent by other threads than that of its executor.

    rclpy registers a request only after it has sent it, and drops a response that arrives before that.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._sending = threading.RLock()
        super().__init__(*args, **options)

    def take_data(self) -> Any:
        with self._sending:
            return super().take_data()

    def send_goal_async(self, *args: Any, **options: Any) -> Any:
        with self._sending:
            return super().send_goal_async(*args, **options)

    def _cancel_goal_async(self, goal_handle: Any) -> Any:
        with self._sending:
            return super()._cancel_goal_async(goal_handle)

    def _get_result_async(self, goal_handle: Any) -> Any:
        with self._sending:
            return super()._get_result_async(goal_handle)


class Planner:
    """The planner's goal in progress, which belongs to one route.

    One thread at a time drives; any thread may call :meth:`halt`.

    Args:
        owner: The route node.
        services: Its helper node.
        deadline_s: Time after which the planner stops if the goal is not renewed.
    """

    def __init__(self, owner: Node, services: BackgroundServices, deadline_s: float) -> None:
        self._clock, self._log = owner.get_clock(), owner.get_logger()
        self._deadline_s = deadline_s
        self._reach = ThreadSafeActionClient(
            services.node,
            ReachGoal,
            owner.resolve_service_name("planner/reach_goal"),
            callback_group=services.group,
        )
        self._move = services.node.create_client(
            MoveGoal, owner.resolve_service_name("planner/move_goal"), callback_group=services.group
        )
        self._poses = owner.create_publisher(GoalPose, "planner/goal_pose", qos.RESULT)
        self._lock = threading.Lock()
        self._handle: Any = None
        self._result: Any = None
        self._canceling: Any = None
        self._is_halted = False
        self._feedback: ReachGoal.Feedback | None = None
        self._goal: SubGoal | None = None
        self._stamp_ns, self._renewed_s = 0, 0.0

    @property
    def end(self) -> ReachGoal.Result | None:
        """Result of the goal; None: there is none, or it is in progress."""
        return self._result.result().result if self._result is not None and self._result.done() else None

    @property
    def goal(self) -> SubGoal | None:
        """The goal in progress."""
        return self._goal

    @property
    def status(self) -> RobotStatus:
        """What the robot does."""
        with self._lock:
            feedback = self._feedback
        end = self.end
        if end is not None:
            return RobotStatus(reached=end.outcome == ReachGoal.Result.REACHED)
        if feedback is None or self._handle is None:
            return RobotStatus()
        return RobotStatus(
            is_driving=feedback.state in _DRIVING,
            reached=feedback.reached and from_time(feedback.goal_stamp) == self._stamp_ns,
            cause=_CAUSES.get(feedback.stopped_cause),
            reason=feedback.stopped_reason,
        )

    def pursue(self, goal: SubGoal | None, *, by_pose: bool = False) -> None:
        """Drive to a goal, or stand; do nothing after :meth:`halt`.

        Args:
            goal: The goal; None: stand.
            by_pose: The planner drives by the poses of :meth:`publish_pose`. It does not change while there
                is a goal.

        Raises:
            NoAnswerError: The planner did not answer.
            JepaRuntimeError: It rejected the goal, or another client canceled it.
        """
        end = self.end
        if self._is_halted:
            return
        if end is not None and end.outcome == ReachGoal.Result.CANCELLED:
            raise JepaRuntimeError(
                "another client canceled the goal of the planner: send the route again to continue",
                code="node.goal_canceled",
            )
        if goal is None:
            self.cancel()
        elif self._handle is None or end is not None:
            self._start(goal, by_pose=by_pose)
        elif self.is_due(goal):
            self._continue(goal)

    def is_due(self, goal: SubGoal) -> bool:
        """Return whether :meth:`pursue` will move or renew the goal in progress."""
        is_old = time.monotonic() - self._renewed_s > self._deadline_s / 3
        return self._goal is not None and (goal is not self._goal or is_old)

    def halt(self) -> None:
        """Stop the robot at once, without waiting for it, and start no goal until :meth:`resume`."""
        with self._lock:
            self._is_halted = True
            self._request_cancel()

    def resume(self) -> None:
        """Allow goals again, for another route."""
        with self._lock:
            self._is_halted = False

    def cancel(self) -> str:
        """Stop the robot, if it drives to a goal of this route, and wait until it does.

        Returns:
            Why it may still drive, which is also logged; empty: it stands.
        """
        with self._lock:
            self._request_cancel()
            result, canceling = self._result, self._canceling
            self._handle = self._result = self._canceling = self._goal = None
        if canceling is None or wait(result.done, 2 * _RESPONSE_TIMEOUT_S):
            return ""
        if canceling.done() and canceling.result().goals_canceling:
            # The planner stops the robot before it accepts the cancellation; its result may take longer.
            return ""
        problem = f"the planner did not confirm within {2 * _RESPONSE_TIMEOUT_S:g} s that the robot stopped"
        self._log.warning(problem)
        return problem

    def _request_cancel(self) -> None:
        """Cancel the goal, once, if it is in progress. The caller holds the lock."""
        if self._handle is not None and self._canceling is None and not self._result.done():
            self._canceling = self._handle.cancel_goal_async()

    def close(self) -> None:
        """Release the client."""
        self._reach.destroy()

    def publish_pose(self, pose: RelativePose, stamp_ns: int) -> None:
        """Publish the pose of the present goal in the frame of the image with this stamp."""
        message = GoalPose(
            goal_stamp=to_time(self._stamp_ns),
            x=pose.x_m,
            y=pose.y_m,
            yaw=pose.yaw_rad,
            position_std=pose.position_std_m,
            yaw_std=pose.yaw_std_rad,
        )
        message.header.stamp = to_time(stamp_ns)
        self._poses.publish(message)

    def _start(self, goal: SubGoal, *, by_pose: bool) -> None:
        self.cancel()
        if not self._reach.wait_for_server(timeout_sec=_RESPONSE_TIMEOUT_S):
            raise NoAnswerError("the planner is not running: start it with planner:=true")
        self._stamp_ns = self._next_stamp()
        request = ReachGoal.Goal(via=not goal.is_last, timeout_s=self._deadline_s, use_goal_pose=by_pose)
        request.image.header.stamp = to_time(self._stamp_ns)
        fill(request.latent, messages.tensor("goal", goal.latent))
        with self._lock:
            self._feedback = None
        sent = self._reach.send_goal_async(request, feedback_callback=self._on_feedback)
        wait(lambda: sent.done() or self._is_halted, 2 * _RESPONSE_TIMEOUT_S)
        if not sent.done():
            sent.add_done_callback(_cancel_accepted)
            raise NoAnswerError("the planner did not answer to a goal")
        handle = sent.result()
        if not handle.accepted:
            raise JepaRuntimeError("the planner rejected a goal: see its log", code="node.goal_rejected")
        result = handle.get_result_async()
        with self._lock:
            self._handle, self._result = handle, result
            if self._is_halted:
                self._request_cancel()
        self._goal, self._renewed_s = goal, time.monotonic()

    def _continue(self, goal: SubGoal) -> None:
        stamp_ns = self._next_stamp()
        request = MoveGoal.Request(
            goal_stamp=to_time(self._stamp_ns), stamp=to_time(stamp_ns), via=not goal.is_last
        )
        fill(request.latent, messages.tensor("goal", goal.latent))
        answer = call(self._move, request)
        if answer.success:
            self._stamp_ns, self._goal, self._renewed_s = stamp_ns, goal, time.monotonic()
        elif not wait(lambda: self.end is not None, _RESPONSE_TIMEOUT_S):
            raise NoAnswerError(f"the planner did not move its goal: {answer.message}")

    def _next_stamp(self) -> int:
        return max(int(self._clock.now().nanoseconds), self._stamp_ns + 1)

    def _on_feedback(self, message: Any) -> None:
        with self._lock:
            self._feedback = message.feedback


def _cancel_accepted(sent: Any) -> None:
    """Cancel a goal that the planner accepted too late for its route."""
    handle = sent.result()
    if handle is not None and handle.accepted:
        handle.cancel_goal_async()


def call(client: Any, request: Any) -> Any:
    """Call a service and return the response.

    Raises:
        NoAnswerError: It is not available, or did not answer in time.
    """
    if not client.wait_for_service(timeout_sec=_RESPONSE_TIMEOUT_S):
        raise NoAnswerError(f"service {client.srv_name} is not available: start its node")
    future = client.call_async(request)
    if not wait(future.done, 2 * _RESPONSE_TIMEOUT_S):
        client.remove_pending_request(future)
        raise NoAnswerError(f"service {client.srv_name} did not answer within {2 * _RESPONSE_TIMEOUT_S:g} s")
    return future.result()


def wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a condition, and return whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return holds
