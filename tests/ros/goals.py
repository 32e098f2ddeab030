"""A client of the action ``/planner/reach_goal``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from jepa_msgs.action import ReachGoal
from jepa_ros.common.conversions import to_image
from rclpy.action import ActionClient
from sensor_msgs.msg import Image

Meanwhile = Callable[[], Any]


def nothing() -> None:
    pass


def goal_image(stamp_ns: int) -> Image:
    return to_image(np.zeros((8, 8, 3), np.uint8), stamp_ns=stamp_ns, frame_id="eye")


class Goal:
    """Represent a goal that was accepted or rejected."""

    def __init__(
        self, graph: Any, client: ActionClient, *, meanwhile: Meanwhile = nothing, **goal: Any
    ) -> None:
        self._graph = graph
        self.feedback: list[ReachGoal.Feedback] = []
        graph.until(client.server_is_ready, "the action server", meanwhile=meanwhile)
        sent = client.send_goal_async(
            ReachGoal.Goal(**goal), feedback_callback=lambda message: self.feedback.append(message.feedback)
        )
        graph.until(sent.done, "an answer to the goal", meanwhile=meanwhile)
        self._handle = sent.result()
        self.accepted: bool = self._handle.accepted
        self._result = self._handle.get_result_async() if self.accepted else None

    def cancel(self, *, meanwhile: Meanwhile = nothing) -> bool:
        """Request cancellation and return whether it was accepted."""
        cancelled = self._handle.cancel_goal_async()
        self._graph.until(cancelled.done, "an answer to the cancellation", meanwhile=meanwhile)
        return bool(cancelled.result().goals_canceling)

    def end(self, timeout_s: float = 20.0, *, meanwhile: Meanwhile = nothing) -> tuple[int, ReachGoal.Result]:
        """Return status and result after the end of the goal."""
        assert self._result is not None
        self._graph.until(self._result.done, "the end of the goal", timeout_s, meanwhile=meanwhile)
        ended = self._result.result()
        return ended.status, ended.result


def client(graph: Any) -> ActionClient:
    return ActionClient(graph.observer, ReachGoal, "planner/reach_goal")


def now_ns() -> int:
    return time.time_ns()
