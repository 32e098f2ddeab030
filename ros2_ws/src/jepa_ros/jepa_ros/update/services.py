"""Services and the action of the update_manager node.

They run on threads of their own, since most of them wait: for the end of an update, or until the one in
progress can be interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_msgs.action import UpdateModel
from jepa_msgs.srv import CheckUpdate, GetUpdateStatus
from rclpy.action import CancelResponse, GoalResponse
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from jepa_ros.common.background_services import BackgroundServices
from jepa_ros.update import status_messages
from jepa_ros.update.worker import Request, Worker
from jepa_runtime.errors import JepaRuntimeError, UpdateError
from jepa_runtime.ota import ChannelRelease, State, config, operator_requests, robot, state

# One thread waits with the goal, the others serve further requests.
_THREADS = 8
_TIMEOUT_S, _POLL_S, _SENDING_S = 5.0, 0.02, 0.2


@dataclass(eq=False)
class Goal:
    """Represent the goal in progress, and whether it is being cancelled."""

    handle: Any
    request: Request
    cancelling: bool = False


class UpdateServices:
    """Serve the services and the action of ``owner``.

    Args:
        owner: The update_manager node.
        root: Folder of the robot.
        worker: Runs the updates.
        rollback: Rolls back; returns the saved state.
        on_change: Receives the saved state after an operator changed it.
    """

    def __init__(
        self,
        owner: Node,
        root: Path,
        worker: Worker,
        *,
        rollback: Callable[[str], State],
        on_change: Callable[[State], None],
    ) -> None:
        self._root, self._worker = root, worker
        self._roll_back_model, self._on_change = rollback, on_change
        self._log = owner.get_logger()
        self._goal: Goal | None = None
        self._newest = UpdateModel.Feedback()
        self._services = BackgroundServices(owner, "services", MultiThreadedExecutor(_THREADS))
        for service_type, service, callback in (
            (CheckUpdate, "check", self._check),
            (Trigger, "approve", self._approve),
            (Trigger, "rollback", self._rollback),
            (SetBool, "pin", self._pin),
            (GetUpdateStatus, "status", self._status),
        ):
            self._services.add_service(service_type, f"~/{service}", callback)
        self._services.add_action(
            UpdateModel,
            "~/update",
            execute_callback=self._execute,
            goal_callback=self._on_goal,
            cancel_callback=self._on_cancel,
        )
        self._services.start()

    def publish_feedback(self, feedback: UpdateModel.Feedback) -> None:
        """Publish the feedback of the update in progress."""
        self._newest, goal = feedback, self._goal
        if goal is not None:
            goal.handle.publish_feedback(feedback)

    def close(self) -> None:
        """Stop serving, once the client of the goal has its result. The worker must have stopped."""
        deadline = time.monotonic() + _TIMEOUT_S
        while self._goal is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        # rclpy sends the result after the callback has returned.
        time.sleep(_SENDING_S)
        self._services.stop()

    # --- the action

    def _on_goal(self, _: UpdateModel.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT if self._worker.accepts_requests else GoalResponse.REJECT

    def _execute(self, handle: Any) -> UpdateModel.Result:
        options = handle.request
        request = Request(
            source=Path(options.source) if options.source else None,
            retry_rejected=options.retry_rejected,
            any_interface=options.any_interface,
        )
        goal = Goal(handle, request)
        if not self._worker.submit(request):
            handle.abort()
            return UpdateModel.Result(result="failed", reason="another goal is in progress")
        self._goal = goal
        if self._newest.state not in ("", "idle"):
            # The goal joins an update in progress.
            handle.publish_feedback(self._newest)
        request.done.wait()
        self._goal = None
        if self.is_cancelled(goal):
            handle.canceled()
        elif request.state is not None and request.state.result in ("updated", "unchanged"):
            handle.succeed()
        else:
            handle.abort()
        if request.state is None:
            return UpdateModel.Result(
                result="failed", reason=request.error or "the update manager is shutting down"
            )
        return status_messages.result(request.state)

    def _on_cancel(self, handle: Any) -> CancelResponse:
        goal = self._goal
        if goal is None or goal.handle != handle:
            return CancelResponse.REJECT
        goal.cancelling = True
        if not self._worker.withdraw(goal.request):
            try:
                self._on_change(operator_requests.cancel(self._root, "it was cancelled"))
            except UpdateError as error:
                goal.cancelling = False
                self._log.warning(f"cancellation rejected: {error}")
                return CancelResponse.REJECT
        return CancelResponse.ACCEPT

    @staticmethod
    def is_cancelled(goal: Goal) -> bool:
        """Return whether the goal was cancelled, which rclpy records shortly after it was accepted."""
        deadline = time.monotonic() + _TIMEOUT_S
        while goal.cancelling and not goal.handle.is_cancel_requested and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return bool(goal.handle.is_cancel_requested)

    # --- the services

    def _check(self, _: Any, response: Any) -> Any:
        def check() -> str:
            request = Request(check_only=True)
            if not self._worker.submit(request):
                raise UpdateError(
                    "an update is in progress: call ~/status for its state", code="update.in_progress"
                )
            request.done.wait()
            if request.state is None:
                raise UpdateError(
                    request.error or "the update manager is shutting down", code="update.check_failed"
                )
            if request.offered is not None:
                channel = config.load(self._root / robot.CONFIG).channel
                response.offered = status_messages.release(
                    ChannelRelease(channel=channel, release=request.offered).installed
                )
            return request.state.reason

        return self._respond("check", check, response)

    def _approve(self, _: Any, response: Any) -> Any:
        def approve() -> str:
            self._on_change(operator_requests.approve(self._root))
            return "approved: the robot may switch to the candidate"

        return self._respond("approve", approve, response)

    def _rollback(self, _: Any, response: Any) -> Any:
        def rollback() -> str:
            saved = self._roll_back_model("manual")
            self._on_change(saved)
            if saved.alarm:
                raise UpdateError(saved.alarm, code="update.rollback_failed")
            return f"active model: {status_messages.name(saved.current)}"

        return self._respond("rollback", rollback, response)

    def _pin(self, request: Any, response: Any) -> Any:
        def pin() -> str:
            self._on_change(operator_requests.pin(self._root, pinned=request.data))
            return "updates are disabled" if request.data else "updates are enabled"

        return self._respond("pin", pin, response)

    def _status(self, _: Any, response: Any) -> Any:
        def status() -> str:
            settings, saved = config.load(self._root / robot.CONFIG), state.load(self._root / robot.STATE)
            response.status = status_messages.status(saved, settings)
            return saved.reason

        return self._respond("status", status, response)

    def _respond(self, operation: str, run: Callable[[], str], response: Any) -> Any:
        # No exception may end the serving thread.
        try:
            response.message = run()
            response.success = True
        except JepaRuntimeError as error:
            response.message = str(error)
            self._log.warning(f"{operation} rejected: {error}")
        except Exception as error:
            response.message = str(error)
            self._log.error(f"{operation} failed: {error}")
        return response
