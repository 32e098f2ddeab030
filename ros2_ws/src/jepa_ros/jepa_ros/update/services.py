"""What may be asked of the manager: its services and its action. They are answered on threads of their own,
since most of them wait: for the end of an update, or until one in work can be left for a moment."""

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

from jepa_ros.common.answering import Answering
from jepa_ros.update import status_messages
from jepa_ros.update.worker import Request, Worker
from jepa_runtime.errors import JepaRuntimeError, UpdateError
from jepa_runtime.ota import config, operator_requests, robot, state
from jepa_runtime.ota.state import State, Work

# One waits with the goal, the others with whoever asks meanwhile.
_THREADS = 8
_PATIENCE_S, _SLICE_S, _SENDING_S = 5.0, 0.02, 0.2


@dataclass(eq=False)
class Goal:
    """The goal in work, and whether it is about to be cancelled."""

    handle: Any
    request: Request
    cancelling: bool = False


class UpdateServices:
    """The services and the action of ``owner``.

    Args:
        root: the robot's folder.
        worker: updates.
        rollback: goes back; gives what was kept.
        changed: is told what was kept after somebody changed it.
    """

    def __init__(
        self,
        owner: Node,
        root: Path,
        worker: Worker,
        *,
        rollback: Callable[[str], State],
        changed: Callable[[State], None],
    ) -> None:
        self._root, self._worker = root, worker
        self._rollback, self._changed = rollback, changed
        self._log = owner.get_logger()
        self._goal: Goal | None = None
        self._newest = UpdateModel.Feedback()
        self._answering = Answering(owner, "doors", MultiThreadedExecutor(_THREADS))
        for kind, service, answer in (
            (CheckUpdate, "check", self._check),
            (Trigger, "approve", self._approve),
            (Trigger, "rollback", self._go_back),
            (SetBool, "pin", self._pin),
            (GetUpdateStatus, "status", self._status),
        ):
            self._answering.serve(kind, f"~/{service}", answer)
        self._answering.act(
            UpdateModel,
            "~/update",
            execute_callback=self._carry_out,
            goal_callback=self._take_goal,
            cancel_callback=self._cancel,
        )
        self._answering.start()

    def tell(self, feedback: UpdateModel.Feedback) -> None:
        """How the update in work goes, for whoever asked for it."""
        self._newest, goal = feedback, self._goal
        if goal is not None:
            goal.handle.publish_feedback(feedback)

    def close(self) -> None:
        """Answer no more, once whoever waits for the goal in work has heard of it; the worker has stopped."""
        ends = time.monotonic() + _PATIENCE_S
        while self._goal is not None and time.monotonic() < ends:
            time.sleep(_SLICE_S)
        # What the callback returns is still to be sent.
        time.sleep(_SENDING_S)
        self._answering.stop()

    # --- the action

    def _take_goal(self, _: UpdateModel.Goal) -> GoalResponse:
        return GoalResponse.ACCEPT if self._worker.free else GoalResponse.REJECT

    def _carry_out(self, handle: Any) -> UpdateModel.Result:
        asked = handle.request
        request = Request(
            source=Path(asked.source) if asked.source else None,
            again=asked.again,
            any_interface=asked.any_interface,
        )
        goal = Goal(handle, request)
        if not self._worker.ask(request):
            handle.abort()
            return UpdateModel.Result(result="failed", reason="another goal is in work")
        self._goal = goal
        if self._newest.state not in ("", "idle"):
            # It joins an update that is in work.
            handle.publish_feedback(self._newest)
        request.done.wait()
        self._goal = None
        if self._is_cancelled(goal):
            handle.canceled()
        elif request.state is not None and request.state.result in ("updated", "unchanged"):
            handle.succeed()
        else:
            handle.abort()
        if request.state is None:
            return UpdateModel.Result(result="failed", reason=request.error or "the update manager stops")
        return status_messages.result(request.state)

    def _cancel(self, handle: Any) -> CancelResponse:
        goal = self._goal
        if goal is None or goal.handle != handle:
            return CancelResponse.REJECT
        goal.cancelling = True
        if not self._worker.withdraw(goal.request):
            try:
                self._changed(operator_requests.cancel(self._root, "it was cancelled"))
            except UpdateError as error:
                goal.cancelling = False
                self._log.warning(f"not cancelled: {error}")
                return CancelResponse.REJECT
        return CancelResponse.ACCEPT

    @staticmethod
    def _is_cancelled(goal: Goal) -> bool:
        """rclpy takes note of a cancellation a moment after it was accepted here."""
        ends = time.monotonic() + _PATIENCE_S
        while goal.cancelling and not goal.handle.is_cancel_requested and time.monotonic() < ends:
            time.sleep(_SLICE_S)
        return bool(goal.handle.is_cancel_requested)

    # --- the services

    def _check(self, _: Any, response: Any) -> Any:
        def check() -> str:
            request = Request(look=True)
            if not self._worker.ask(request):
                raise UpdateError("an update is in work: ~/status says how it goes")
            request.done.wait()
            if request.state is None:
                raise UpdateError(request.error or "the update manager stops")
            if request.offered is not None:
                channel = config.load(self._root / robot.CONFIG).channel
                response.offered = status_messages.release(
                    Work(channel=channel, release=request.offered).installed
                )
            return request.state.reason

        return self._answer("check", check, response)

    def _approve(self, _: Any, response: Any) -> Any:
        def approve() -> str:
            self._changed(operator_requests.approve(self._root))
            return "it may be switched to"

        return self._answer("approve", approve, response)

    def _go_back(self, _: Any, response: Any) -> Any:
        def rollback() -> str:
            kept = self._rollback("by hand")
            self._changed(kept)
            if kept.alarm:
                raise UpdateError(kept.alarm)
            return f"{status_messages.name(kept.current)} serves"

        return self._answer("rollback", rollback, response)

    def _pin(self, request: Any, response: Any) -> Any:
        def pin() -> str:
            self._changed(operator_requests.pin(self._root, pinned=request.data))
            return "pinned" if request.data else "takes updates"

        return self._answer("pin", pin, response)

    def _status(self, _: Any, response: Any) -> Any:
        def status() -> str:
            settings, kept = config.load(self._root / robot.CONFIG), state.load(self._root / robot.STATE)
            response.status = status_messages.status(kept, settings)
            return kept.reason

        return self._answer("status", status, response)

    def _answer(self, what: str, act: Callable[[], str], response: Any) -> Any:
        # Whatever is raised must not end the thread that answers.
        try:
            response.message = act()
            response.success = True
        except JepaRuntimeError as error:
            response.message = str(error)
            self._log.warning(f"{what} refused: {error}")
        except Exception as error:
            response.message = str(error)
            self._log.error(f"{what} refused: {error}")
        return response
