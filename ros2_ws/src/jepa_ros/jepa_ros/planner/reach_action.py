"""The action ``~/reach_goal`` of the planner. Goals wait on their own threads while the controller drives."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from jepa_msgs.action import ReachGoal
from jepa_msgs.srv import SetGoal
from rclpy.action import CancelResponse, GoalResponse
from rclpy.executors import MultiThreadedExecutor
from rclpy.node import Node

from jepa_ros.common.answering import Answering
from jepa_ros.common.conversions import from_time, to_time
from jepa_runtime.control.controller import Controller
from jepa_runtime.control.goal_tracker import GoalConfig, GoalTracker, Outcome
from jepa_runtime.errors import JepaRuntimeError

# A goal in work, one that ends for it, and whoever asks for either.
_THREADS = 4
# The world model takes a goal at once, or does not run.
_ANSWER_S, _SLICE_S = 2.0, 0.02
# How long a goal that has ended is kept, with its image, for whoever asks late how; by rclpy, for 15 minutes.
_RESULT_S = 10


class NoAnswerError(JepaRuntimeError):
    """The world model may do what was asked, or not."""


class ReachAction:
    """One goal is in work at a time: a new one takes its place, and it is aborted.

    Args:
        controller: drives to it.
        lock: to be held whenever the controller is used.
        stand: tells the robot to stand.
        chosen: the planner's parameters.
    """

    def __init__(
        self,
        owner: Node,
        controller: Controller,
        *,
        lock: threading.RLock,
        stand: Callable[[], Any],
        chosen: Mapping[str, Any],
    ) -> None:
        self._controller, self._lock, self._stand, self._chosen = controller, lock, stand, chosen
        self._clock, self._log = owner.get_clock(), owner.get_logger()
        self._newest: tuple[Any, GoalTracker] | None = None
        self._asked_by: dict[bytes, GoalTracker] = {}
        self._closing = False
        # The world model seeks one goal: each gives it back before the next one sets its own.
        self._turn = threading.Lock()
        self._answering = Answering(owner, "goals", MultiThreadedExecutor(_THREADS))
        self._set_goal = self._answering.node.create_client(
            SetGoal,
            owner.resolve_service_name("world_model/set_goal"),
            callback_group=self._answering.group,
        )
        self._answering.act(
            ReachGoal,
            "~/reach_goal",
            execute_callback=self._carry_out,
            goal_callback=self._judge,
            handle_accepted_callback=self._accept,
            cancel_callback=self._cancel,
            result_timeout=_RESULT_S,
        )
        self._answering.start()

    def tell(self) -> None:
        """How the goal in work goes, for whoever asked for it."""
        with self._lock:
            newest, controller = self._newest, self._controller
            if newest is None or controller.goal is not newest[1]:
                return
            handle, reach = newest
            feedback = ReachGoal.Feedback(
                energy=reach.energy,
                best_energy=reach.best_energy,
                steps=reach.steps,
                state=int(controller.state),
                hold=controller.safety_monitor.reason,
            )
        handle.publish_feedback(feedback)

    def close(self) -> None:
        """End the goal in work, and answer no more."""
        with self._lock:
            self._closing = True
            self._end(Outcome.ABORTED, "the planner stops", self._controller.goal)
        ends = time.monotonic() + 2 * _ANSWER_S
        while self._asked_by and time.monotonic() < ends:
            time.sleep(_SLICE_S)
        # What the callbacks returned is still to be sent.
        time.sleep(_SLICE_S)
        self._answering.stop()

    def _judge(self, goal: ReachGoal.Goal) -> GoalResponse:
        refusal = ""
        if not (0 <= goal.energy_threshold < math.inf and 0 <= goal.timeout_s < math.inf):
            refusal = "energy_threshold and timeout_s must be finite and not negative"
        elif bool(goal.image.height and goal.image.width) == bool(goal.latent.data):
            refusal = "it must hold either an image or a latent"
        elif self._closing:
            refusal = "the planner stops"
        if refusal:
            self._log.warning(f"goal refused: {refusal}")
        return GoalResponse.REJECT if refusal else GoalResponse.ACCEPT

    def _accept(self, handle: Any) -> None:
        with self._lock:
            reach = self._reach_of(handle)
            if reach.result is None:
                self._newest = (handle, reach)
                self._controller.start_goal(reach)
                self._stand()
                if self._closing:
                    self._end(Outcome.ABORTED, "the planner stops", reach)
                handle.execute()
                return
        # What rclpy cancels while it begins to execute ends its executor.
        _is_cancelled(handle)
        handle.execute()

    def _reach_of(self, handle: Any) -> GoalTracker:
        """Of a goal whose end has not been told; made by whoever is first, who takes it up or who cancels it.
        The lock is held."""
        asked, chosen = handle.request, self._chosen
        terms = GoalConfig(
            goal_ns=from_time(asked.image.header.stamp) or int(self._clock.now().nanoseconds),
            threshold=asked.energy_threshold or None,
            timeout_s=asked.timeout_s or None,
            give_up_after=chosen["give_up_after"],
            patience_s=chosen["patience_s"],
        )
        return self._asked_by.setdefault(_id(handle), GoalTracker(terms, now_s=time.monotonic()))

    def _carry_out(self, handle: Any) -> ReachGoal.Result:
        reach = self._asked_by[_id(handle)]
        while reach.result is None:
            if self._turn.acquire(timeout=_SLICE_S):
                try:
                    self._have_sought(handle.request, reach)
                finally:
                    self._turn.release()
        end = reach.wait()
        self._log.info(f"goal {end.outcome}: {end.reason}")
        cancelled = end.outcome is Outcome.CANCELLED and _is_cancelled(handle)
        with self._lock:
            if end.outcome is Outcome.REACHED:
                handle.succeed()
            elif cancelled:
                handle.canceled()
            else:
                handle.abort()
            del self._asked_by[_id(handle)]
        return ReachGoal.Result(
            outcome=str(end.outcome),
            reason=end.reason,
            energy=reach.energy,
            best_energy=reach.best_energy,
            steps=reach.steps,
            duration_s=reach.duration_s,
        )

    def _cancel(self, handle: Any) -> CancelResponse:
        """Also before the goal is taken up, and when it has ended and that is still to be told: of all goals
        that somebody cancels, rclpy leaves out the one that follows on one whose cancellation is rejected."""
        with self._lock:
            if handle.is_active:
                reach = self._reach_of(handle)
                if not self._end(Outcome.CANCELLED, "it was cancelled", reach):
                    reach.finish(Outcome.CANCELLED, "it was cancelled")
        return CancelResponse.ACCEPT

    def _end(self, outcome: Outcome, reason: str, reach: GoalTracker | None) -> bool:
        """End ``reach``, and let the robot stand; False: it has ended. The lock is held."""
        if reach is None or reach.result is not None or reach is not self._controller.goal:
            return False
        self._controller.end_goal(outcome, reason)
        self._stand()
        return True

    # --- the world model

    def _have_sought(self, asked: ReachGoal.Goal, reach: GoalTracker) -> None:
        """Have the world model seek the goal until it ends."""
        if self._seek(asked, reach):
            reach.wait()
            if not reach.is_replaced:
                self._give_back()

    def _seek(self, asked: ReachGoal.Goal, reach: GoalTracker) -> bool:
        """Whether the world model may have taken the goal; if that is not known, it has ended."""
        stamp = to_time(reach.config.goal_ns)
        try:
            self._ask(SetGoal.Request(stamp=stamp, image=asked.image, latent=asked.latent))
        except JepaRuntimeError as error:
            with self._lock:
                self._end(Outcome.ABORTED, f"the world model does not take the goal: {error}", reach)
            return isinstance(error, NoAnswerError)
        with self._lock:
            reach.is_set = True
        return True

    def _give_back(self) -> None:
        try:
            self._ask(SetGoal.Request())
        except JepaRuntimeError as error:
            self._log.warning(f"the world model may still have the goal that has ended: {error}")

    def _ask(self, request: SetGoal.Request) -> None:
        request.camera = self._chosen["camera"]
        if not self._set_goal.wait_for_service(timeout_sec=_ANSWER_S):
            raise JepaRuntimeError(f"there is no service {self._set_goal.srv_name}")
        asked = self._set_goal.call_async(request)
        if not _comes(asked.done):
            self._set_goal.remove_pending_request(asked)
            raise NoAnswerError(f"{self._set_goal.srv_name} did not answer within {_ANSWER_S:g} s")
        if not asked.result().success:
            raise JepaRuntimeError(asked.result().message)


def _id(handle: Any) -> bytes:
    return bytes(handle.goal_id.uuid)


def _is_cancelled(handle: Any) -> bool:
    """rclpy takes note of a cancellation a moment after it was accepted here."""
    return _comes(lambda: handle.is_cancel_requested)


def _comes(condition: Callable[[], bool]) -> bool:
    """Whether it holds now, or does so in time."""
    ends = time.monotonic() + _ANSWER_S
    while not (holds := condition()) and time.monotonic() < ends:
        time.sleep(_SLICE_S)
    return holds
